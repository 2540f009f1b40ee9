"""`tapetum evaluate`: on a run's own data and on other data, and never a change to the run's own files."""

from __future__ import annotations

import hashlib
import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tapetum.runs.checkpoints import read_checkpoint

from commands.experiments import PLAIN, TINY, run, train
from layouts import make_folder, make_manifest


def fingerprints(directory):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file() and "evaluations" not in path.parts
    }


def evaluations(made):
    return sorted((made / "evaluations").iterdir()) if (made / "evaluations").is_dir() else []


@pytest.fixture
def evaluated(finished):
    """Evaluate the shared run and give back the directory that this made; the run itself must not change."""

    def evaluate(*arguments, code=0):
        before, there = fingerprints(finished), evaluations(finished)
        assert run("evaluate", str(finished), *arguments) == code
        assert fingerprints(finished) == before
        made = [path for path in evaluations(finished) if path not in there]
        return made[0] if made else None

    return evaluate


def figures(directory):
    return json.loads((directory / "metrics.json").read_text())


def test_a_run_on_its_own_data_gives_its_own_figures_again(finished, evaluated, capsys):
    made = evaluated()
    assert made.name.startswith("folder-")
    assert f"report  {made / 'report' / 'index.html'}" in capsys.readouterr().out
    own = figures(finished)
    again = figures(made)
    assert set(again) == {name for name in own if not name.startswith(("run/", "best/"))}
    for name, value in again.items():
        assert value == pytest.approx(own[name], abs=1e-5, nan_ok=True), name
    assert {path.name for path in made.iterdir()} >= {
        "config.yaml", "metrics.json", "predictions", "report", "notes.json",
    }  # fmt: skip
    assert not (made / "checkpoints").exists()
    table = json.loads((made / "table.json").read_text())
    assert table["lines"][-1]["figures"]["accuracy"] == pytest.approx(again["test/accuracy"])
    assert {f"table.{kind}" for kind in ("csv", "json", "md", "tex")} <= {
        path.name for path in made.iterdir()
    }


def test_other_data_keeps_the_threshold_that_the_run_fitted(finished, evaluated, tmp_path):
    data = make_manifest(tmp_path / "data")
    made = evaluated("data=manifest", f"data.root={data}", "data.eval_batch_size=5")
    assert made.name.startswith("manifest-")
    found, table = figures(made), pq.read_table(made / "predictions" / "test.parquet")
    assert found["val/threshold"] == figures(finished)["val/threshold"]
    hits = (table["logit"].to_numpy() > found["val/threshold"]) == (table["label"].to_numpy() == 1)
    assert found["test/accuracy_tuned"] == pytest.approx(hits.mean(), abs=1e-6)
    config = yaml.safe_load((made / "config.yaml").read_text())
    assert config["data"]["index"]["_target_"] == "tapetum.indexes.manifest.index"
    assert config["data"]["eval_batch_size"] == 5


def test_single_keys_change_the_runs_own_data(evaluated, tmp_path):
    other = make_folder(tmp_path / "other", splits={"test": 3}, seed=5)
    made = evaluated(f"data.root={other}")
    assert len(pq.read_table(made / "predictions" / "test.parquet")) == 6
    config = yaml.safe_load((made / "config.yaml").read_text())
    assert config["data"]["root"] == str(other)
    assert config["data"]["batch_size"] == 8
    assert config["trainer"]["precision"] == "32-true"


@pytest.mark.parametrize("word", ["model=npr", "optimizer.lr=1", "seed=3", "weights=x"])
def test_what_would_change_the_model_is_refused(evaluated, capsys, word):
    assert evaluated(word, code=2) is None
    assert f"{word} would change the run's model: evaluate RUN takes data=…" in capsys.readouterr().err


def test_an_unknown_key_of_the_data_is_refused(evaluated, capsys):
    assert evaluated("data.batchsize=4", code=2) is None
    assert "data.batchsize" in capsys.readouterr().err


def test_a_run_is_evaluated_in_the_precision_it_was_trained_in(folder, tmp_path):
    made = train(folder, tmp_path, "trainer.precision=bf16-mixed")
    assert run("evaluate", str(made), "data=folder", f"data.root={folder}") == 0
    own, again = figures(made), figures(evaluations(made)[0])
    assert again["test/nll"] == pytest.approx(own["test/nll"], abs=1e-6)


def test_several_runs_get_an_evaluation_each_and_stand_side_by_side(finished, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(tmp_path / "beside"))
    other = train(folder, tmp_path, "optimizer.lr=0.0001")
    before = len(evaluations(finished))
    assert (
        run("evaluate", str(finished), str(other), f"data.root={make_folder(tmp_path / 'more', seed=9)}") == 0
    )
    assert len(evaluations(finished)) == before + 1
    assert len(evaluations(other)) == 1
    (beside,) = (tmp_path / "beside" / "reports").iterdir()
    assert {path.name for path in beside.glob("table.*")} == {
        f"table.{kind}" for kind in ("csv", "json", "md", "tex")
    }
    held = json.loads((beside / "table.json").read_text())
    assert len(held["runs"]) == 2
    paired = {one["figure"]: one for one in held["paired"]}
    tables = {
        made: pq.read_table(evaluations(made)[-1] / "predictions" / "test.parquet")
        for made in (finished, other)
    }
    right = {
        made: ((table["logit"].to_numpy() > 0) == (table["label"].to_numpy() == 1)).mean()
        for made, table in tables.items()
    }
    assert abs(paired["accuracy"]["difference"]) == pytest.approx(abs(right[finished] - right[other]))


def test_runs_trained_on_different_data_are_held_against_each_other(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(tmp_path / "beside"))
    lines = ("trainer.max_epochs=2", "optimizer.lr=0.01")
    other = train(make_folder(tmp_path / "elsewhere", seed=3), tmp_path, *lines)
    judged = make_manifest(tmp_path / "judged")
    assert run("evaluate", str(finished), str(other), "data=manifest", f"data.root={judged}") == 0
    (beside,) = (tmp_path / "beside" / "reports").iterdir()
    held = json.loads((beside / "table.json").read_text())
    assert {one["figure"] for one in held["paired"]} >= {"accuracy", "accuracy_tuned"}
    assert held["paired"][0]["images"] == 16
    assert "root=elsewhere" in capsys.readouterr().out


def test_runs_are_looked_for_before_the_first_is_evaluated(finished, tmp_path, capsys):
    before = evaluations(finished)
    assert run("evaluate", str(finished), str(tmp_path / "nowhere")) == 1
    assert run("evaluate", str(finished), f"{finished}/.") == 2
    assert "are one run: name each run once" in capsys.readouterr().err
    assert evaluations(finished) == before


def test_a_folder_of_one_class_without_splits_is_judged(evaluated, tmp_path):
    make_folder(tmp_path / "fakes", splits={"": 5})
    shutil.rmtree(tmp_path / "fakes" / "real")
    made = evaluated(f"data.root={tmp_path / 'fakes'}")
    lines = {line["line"]: line["figures"] for line in json.loads((made / "table.json").read_text())["lines"]}
    assert lines["all"]["fake_accuracy"] == figures(made)["test/accuracy"]
    assert {lines["all"][name] for name in ("auroc", "ap", "real_accuracy", "oracle_accuracy")} == {None}
    assert "| all images |" in (made / "table.md").read_text()


@pytest.mark.parametrize("kind", ["ckpt", "run", "pt"])
def test_a_model_takes_weights_from_a_run_a_checkpoint_or_a_state_dict(finished, folder, tmp_path, kind):
    checkpoint = finished / "checkpoints" / "best.ckpt"
    weights = {"ckpt": checkpoint, "run": finished, "pt": tmp_path / "weights.pt"}[kind]
    if kind == "pt":
        state = read_checkpoint(checkpoint)["state_dict"]
        torch.save({name.removeprefix("net."): value for name, value in state.items()}, weights)
    words = [*TINY, "data=folder", f"data.root={folder}", f"paths.outputs={tmp_path / 'out'}"]
    assert run("evaluate", *words, f"weights={weights}") == 0
    (made,) = (tmp_path / "out").glob("detection/*/*")
    assert figures(made)["test/auroc"] == pytest.approx(figures(finished)["test/auroc"], abs=1e-6)


def test_a_model_without_weights_is_refused_unless_it_needs_none(folder, tmp_path, capsys):
    words = [*TINY, "data=folder", f"data.root={folder}", f"paths.outputs={tmp_path / 'out'}"]
    assert run("evaluate", *words) == 1
    assert "this model has not been trained" in capsys.readouterr().err
    assert run("evaluate", *words, "model.fit=false") == 0


def test_a_network_of_ones_own_needs_to_be_allowed_again(folder, tmp_path, capsys):
    made = train(folder, tmp_path, *PLAIN)
    assert run("evaluate", str(made)) == 2
    assert "own_parts" in capsys.readouterr().err
    assert run("evaluate", str(made), "allow_targets=[own_parts]") == 0
    assert len(evaluations(made)) == 1


def test_one_class_has_undefined_figures_and_not_zero(evaluated, tmp_path):
    other = make_manifest(tmp_path / "other", splits={"test": 4})
    lines = [line for line in (other / "manifest.csv").read_text().splitlines() if ",fake," not in line]
    (other / "manifest.csv").write_text("\n".join(lines) + "\n")
    made = evaluated("data=manifest", f"data.root={other}")
    found = figures(made)
    assert found["test/auroc"] is None
    assert found["test/fake_accuracy"] is None
    assert 0 <= found["test/real_accuracy"] <= 1
    assert "NaN" not in (made / "report" / "index.html").read_text()


def test_a_bad_image_is_listed_beside_the_figures(evaluated, tmp_path):
    other = make_folder(tmp_path / "other", splits={"test": 3}, seed=5)
    (other / "test" / "real" / "0001.jpg").write_bytes(b"")
    assert evaluated(f"data.root={other}", code=1) is None
    made = evaluated(f"data.root={other}", "data.on_bad_image=skip")
    (bad,) = json.loads((made / "bad_images.json").read_text())
    assert bad["path"] == "test/real/0001.jpg"
    assert len(pq.read_table(made / "predictions" / "test.parquet")) == 5


def test_an_accelerator_that_is_not_there_is_said(evaluated, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert evaluated("accelerator=gpu", code=2) is None
    assert "this machine has no CUDA device" in capsys.readouterr().err
