"""`data=[a,b]`: training on several data sets at once, and a benchmark exactly as it is typed."""

import json
import shutil
from collections import Counter

import pyarrow.parquet as pq
import pytest
from tapetum.commands.check import explain
from tapetum.config.compose import compose
from tapetum.config.joined import each
from tapetum.config.overrides import prepare
from tapetum.inference.predictor import load
from tapetum.runs.building import build_index
from tapetum.runs.directory import open_run

from commands.experiments import TINY, jobs_in_this_process, run, runs
from layouts import make_cifake, make_genimage


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("several")
    make_cifake(root / "cifake", splits={"train": 16, "test": 4})
    make_genimage(root / "genimage", splits={"train": 24, "val": 3})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAPETUM_DATA", str(root))
        yield root


def test_two_data_sets_are_trained_on_and_told_apart_in_the_index(data, tmp_path):
    words = [*TINY, "data=[cifake,genimage]", "data.val_fraction=0.2", f"paths.outputs={tmp_path}"]
    assert run("train", *words) == 0
    (made,) = runs(tmp_path)
    assert made.parent.name == "timm_backbone-cifake+genimage"
    test = pq.read_table(made / "predictions" / "test.parquet")
    index = build_index(load(made, device="cpu").config)
    sets = Counter(index.column("data")[row] for row in test.column("index").to_pylist())
    assert sets == {"cifake": 8, "genimage": 12}
    assert index.generators() == ["ADM", "stable_diffusion_v1_4", "stable_diffusion_v_1_4"]
    assert {root.name for root in index.roots} == {"cifake", "genimage"}
    assert json.loads((made / "metrics.json").read_text())["test/accuracy"] >= 0


def test_check_counts_both_and_names_the_one_that_is_missing(data):
    plan = explain(compose(prepare(["data=[cifake,genimage]", "data.val_fraction=0"], multirun=False)))
    assert plan["data"]["counts"] == {
        "train": {"real": 64, "generated": 64},
        "test": {"real": 10, "generated": 10},
    }
    words = ["data=[cifake,genimage]", f"data.genimage.root={data / 'away'}"]
    plan = explain(compose(prepare(words, multirun=False)))
    assert plan["data"].startswith(f"unknown: needs {data / 'away'} (data.genimage.root=")


def test_a_page_shows_images_of_both(data, tmp_path):
    assert run("show", "data=[cifake,genimage]", f"{tmp_path}/page.html", "model=npr_64") == 0
    page = (tmp_path / "page.html").read_text()
    assert "imagenet_ai_0508_adm/train/" in page
    assert "train/FAKE/" in page


def test_a_sweep_has_jobs_of_several_data_sets_and_of_one(data, tmp_path, monkeypatch):
    jobs_in_this_process(monkeypatch)
    words = ["data=[cifake,genimage],cifake", "data.limit=8", f"paths.outputs={tmp_path}"]
    assert run("train", "-m", *TINY, *words) == 0
    jobs = [open_run(job).read_config() for job in sorted(tmp_path.glob("sweeps/*/*/[01]"))]
    assert [list(each(job)) for job in jobs] == [["cifake", "genimage"], [""]]
    assert [job["data"]["root"] for job in jobs] == [None, str(data / "cifake")]


def test_a_benchmark_trains_exactly_as_typed(data, tmp_path):
    assert (
        run("train", "model=npr", "data=genimage", *TINY[4:], f"paths.outputs={tmp_path}", "data.limit=4")
        == 0
    )
    (made,) = runs(tmp_path)
    assert made.parent.name == "npr-genimage"


def test_evaluation_judges_a_set_without_splits_whole_and_takes_keys_of_one_set(data, tmp_path):
    words = [*TINY, "data=[cifake,genimage]", "data.val_fraction=0.2", f"paths.outputs={tmp_path}"]
    assert run("train", *words) == 0
    (made,) = runs(tmp_path)
    other = make_genimage(tmp_path / "other", generators=("ADM",), splits={"train": 3, "val": 2})
    shutil.rmtree(other / "ADM" / "imagenet_ai_0508_adm" / "val")
    assert run("evaluate", str(made), f"data.genimage.root={other}", "data.cifake.limit.test=4") == 0
    (judged,) = (made / "evaluations").iterdir()
    test = pq.read_table(judged / "predictions" / "test.parquet")
    assert Counter(test["data"].to_pylist()) == {"cifake": 4, "genimage": 6}
