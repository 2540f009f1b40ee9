"""`tapetum accept`: one tiny run, judged on its own data and on other data, and every leak refused."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from tapetum.commands.accept import _judged
from tapetum.config.compose import compose
from tapetum.config.overrides import prepare
from tapetum.errors import DataError
from tapetum.evaluation.acceptance_rules import _WARM_START
from tapetum.metrics.latency import STAGES
from tapetum.runs.building import build_index

from commands.experiments import run
from layouts import make_infrared_folder
from retrieval_runs import ARGUMENTS, train_embedder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return train_embedder(tmp_path_factory.mktemp("accepted"), "model.target.seconds=60")


@pytest.fixture(scope="module")
def index(made):
    return build_index(made.read_config())


def accept(made, *words, code=0):
    """The exit code is checked; the directory that was written, None where there is none."""
    place = made.path / "acceptances"
    before = set(place.iterdir()) if place.is_dir() else set()
    assert run("accept", str(made.path), "accelerator=cpu", *words) == code
    after = set(place.iterdir()) if place.is_dir() else set()
    return next(iter(after - before), None)


def record(directory):
    return json.loads((directory / "acceptance.json").read_text())


def test_a_run_that_reaches_its_targets_passes_with_everything_written(made, capsys):
    out = accept(made, "target_accuracy=0.01", "target_seconds=30")

    found, own = record(out), json.loads(made.metrics.read_text())
    said = capsys.readouterr().out
    assert found["passed"]
    assert "PASS" in said
    assert "memory, estimated: " in said
    assert found["accuracy"]["value"] == pytest.approx(own["test/knn_accuracy"])
    for name, value in found["figures"].items():
        assert value == pytest.approx(own[f"test/{name}"], abs=1e-4), name
    table = pq.read_table(out / "predictions" / "test.parquet")
    assert table.drop_columns("embedding").equals(
        pq.read_table(made.predictions("test")).drop_columns("embedding")
    )
    assert found["latency"]["images"] == found["queries"] == 48
    assert [stage["name"] for stage in found["latency"]["stages"]] == list(STAGES)
    assert found["memory"]["gallery"] == found["gallery"] * 16 * 4
    assert found["memory"]["measured"] >= found["memory"]["before"] > 0
    assert found["measured"]["queries"] == "in neither the gallery nor what the run learnt from"
    page = (out / "report" / "index.html").read_text()
    assert page.index("PASS") < page.index("Target and figure") < page.index("Most confidently wrong")
    assert "could not be shown" not in page
    assert page.count("data:image/png") > 10


def test_a_missed_target_is_exit_code_1_and_a_rule_and_classes_can_be_typed(made, capsys):
    words = "target_accuracy=1.0", "model.decision.rule=nearest", "classes=[cross, ring]"
    out = accept(made, *words, code=1)
    found, own = record(out), json.loads(made.metrics.read_text())
    assert not found["passed"]
    assert "FAIL" in capsys.readouterr().out
    assert "<strong>FAIL</strong>" in (out / "report" / "index.html").read_text()
    assert found["target"] == {"accuracy": 1, "seconds": 60}  # the seconds are the run's own
    assert [check["reached"] for check in found["checks"] if check["decides"]] == [False, True]
    assert (found["decision"]["rule"], found["classes"]) == ("nearest", ["cross", "ring"])
    assert found["queries"] == 12
    expected = np.mean([own[f"test/class/{name}/nn_accuracy"] for name in ("cross", "ring")])
    assert found["accuracy"]["value"] == pytest.approx(expected)
    assert found["gallery"] == len(pq.read_table(made.predictions("gallery")))
    assert any("typed with this acceptance" in limit for limit in found["limits"])
    assert found["command"].endswith("'classes=[cross,ring]' accelerator=cpu model.decision.rule=nearest")


def test_other_data_is_judged_and_was_not_seen(made, tmp_path):
    data = make_infrared_folder(tmp_path / "d", splits={"train": 6, "test": 3}, bits=16, size=(24, 24))
    out = accept(made, "data=infrared_folder", f"data.root={data}", "target_accuracy=0.01")
    found = record(out)
    assert (found["queries"], found["gallery"]) == (9, 18)
    assert {line["name"] for line in found["by_class"]} == {"car", "person", "tank"}
    assert found["measured"]["queries"] == "in neither the gallery nor what the run learnt from"


def test_images_that_the_run_learnt_from_are_refused(made, index, capsys):
    root, path = index.location(int(index.rows("test")[0]))
    place = root / path.split("/")[0]
    words = f"data.roots={{train:{place / 'test'},test:{place / 'train'}}}"
    accept(made, "data=infrared_folder", f"data.root={place}", words, "target_accuracy=0.5", code=2)
    assert "the run was trained on" in capsys.readouterr().err


def test_a_query_overwritten_by_a_gallery_image_is_an_error(made, index, capsys):
    """In place: no folder changes, so that the index, which removes copies, is not made anew."""
    (root, query), (_, twin) = (index.location(int(index.rows(split)[0])) for split in ("test", "train"))
    before = (root / query).read_bytes()
    try:
        (root / query).write_bytes((root / twin).read_bytes())
        assert accept(made, "target_accuracy=0.5", code=2) is None
    finally:
        (root / query).write_bytes(before)
    assert f"{query} is {twin}" in capsys.readouterr().err


def test_the_runs_own_data_without_a_test_split_judge_nothing(made, tmp_path):
    data = make_infrared_folder(tmp_path / "d", splits={"train": 6, "val": 3})
    words = [*ARGUMENTS[:4], "data=infrared_folder", f"data.root={data}", f"paths.cache={tmp_path}"]
    config = compose(prepare(words, multirun=False)).config
    loaded = SimpleNamespace(metadata={"index": build_index(config).fingerprint}, config=config)
    with pytest.raises(DataError, match=r"no test split.*data\.roots\.test=DIR"):
        _judged(config, loaded)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["target_accuracy=95"], "target_accuracy=95 must be a share"),
        (["target_accuracy=much"], "target_accuracy=much is no number"),
        (["target_acuracy=0.9"], "target_acuracy=0.9: did you mean target_accuracy?"),
        (["classes=[crosses]"], "no query is of class crosses: did you mean cross?"),
        (["classes=[]"], "leaves no query"),
        (["classes={a: b}"], "is no list of classes"),
        (["model.decision.rule=best"], "unknown value model.decision.rule=best: nearest, knn, centroid"),
        (["model.decision.exclude=camera"], "no image has a camera"),
        (["model.net.width=4"], "would change the run's model"),
    ],
)
def test_what_is_typed_wrong_is_said(made, words, said, capsys):
    assert accept(made, *words, code=2) is None
    assert said in capsys.readouterr().err


def test_a_run_without_any_target_says_what_to_type(made, capsys, tmp_path):
    text = made.config.read_text()
    try:
        made.config.write_text(text.replace("seconds: 60", "seconds: null"))
        accept(made, code=2)
    finally:
        made.config.write_text(text)
    assert "type target_accuracy=0.95, target_seconds=2.0, or both" in capsys.readouterr().err


def test_a_detection_run_is_refused(finished, capsys):
    assert run("accept", str(finished), "target_accuracy=0.9") == 2
    assert "accept judges runs of retrieval" in capsys.readouterr().err


def test_the_warm_start_that_is_recommended_can_be_typed():
    config = compose(prepare([*ARGUMENTS, *_WARM_START], multirun=False)).config
    assert config["model"]["warm_start"]["epochs"] == 2
