"""`tapetum report`: a run's report again, a crashed run's, and runs side by side."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import tapetum
import yaml

from commands.experiments import run, runs, tiny, train


def test_a_runs_report_is_written_again(finished, capsys):
    page = finished / "report" / "index.html"
    before = page.read_text()
    page.unlink()
    assert run("report", str(finished)) == 0
    advice, report = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d things to try next \(.*little_data.*\): see the report", advice)
    assert report == f"report  {page}"
    assert page.read_text() == before


def test_a_run_that_crashed_in_its_first_epoch_has_a_report(folder, tmp_path):
    words = ["+callbacks.defect._target_=own_parts.RaiseAt", "allow_targets=[own_parts]"]
    with pytest.raises(ZeroDivisionError, match="my own mistake"):  # not ours to explain: the traceback stays
        run("train", *tiny(folder, tmp_path, *words))
    (made,) = runs(tmp_path)
    assert "ZeroDivisionError" in (made / "train.log").read_text()
    assert run("report", str(made)) == 0
    page = (made / "report" / "index.html").read_text()
    assert "timm_backbone-folder" in page
    assert "crashed in epoch 1 of 1: ZeroDivisionError: my own mistake (train.log)" in page


def test_a_loaded_run_knows_its_config_and_where_its_weights_come_from(finished):
    predictor = tapetum.load(finished, device="cpu")
    beside = json.loads((finished / "checkpoints" / "best.json").read_text())
    assert predictor.metadata == beside
    assert (
        predictor.config["optimizer"] == yaml.safe_load((finished / "config.yaml").read_text())["optimizer"]
    )
    history = tapetum.history(finished)
    row = next(row for row in history.to_pylist() if row["best"])
    assert (row["epoch"], row["step"]) == (beside["epoch"] + 1, beside["step"])
    for name in ("train/loss", "val/loss", "val/auroc"):
        assert beside["metrics"][name] == pytest.approx(row[name])
    assert beside["best"] == pytest.approx(row["val/auroc"])
    assert (finished / "report" / "training_curve.png").read_bytes().startswith(b"\x89PNG")


def test_runs_stand_side_by_side(finished, folder, tmp_path, monkeypatch, capsys):
    other = train(folder, tmp_path, "seed=3", "name=other")
    capsys.readouterr()
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(tmp_path / "out"))
    assert run("report", str(finished), str(other)) == 0
    (page,) = (tmp_path / "out" / "reports").glob("*/index.html")
    said = capsys.readouterr().out
    assert said.rstrip().endswith(f"report  {page}")
    table = (page.parent / "runs.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["run", finished.name, other.name]
    assert "seed" in page.read_text()
    assert "16 test images" in said  # of both runs, and the difference between them


def test_a_run_that_crashed_at_once_stands_beside_one_that_did_not(
    finished, folder, tmp_path, monkeypatch, capsys
):
    words = ["+callbacks.defect._target_=own_parts.RaiseAt", "allow_targets=[own_parts]"]
    with pytest.raises(ZeroDivisionError):
        run("train", *tiny(folder, tmp_path, *words))
    (crashed,) = runs(tmp_path)
    capsys.readouterr()
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(tmp_path / "out"))
    assert run("report", str(crashed), str(finished)) == 0
    said = capsys.readouterr().out
    assert f"{crashed.name} did not finish: it crashed in epoch 1 of 1: ZeroDivisionError" in said
    (page,) = (tmp_path / "out" / "reports").glob("*/index.html")
    assert "ZeroDivisionError: my own mistake" in page.read_text()
    table = (page.parent / "runs.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["run", finished.name, crashed.name]


def test_a_run_that_is_given_twice_is_shown_once(finished, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(tmp_path))
    monkeypatch.chdir(finished.parent)
    assert run("report", str(finished), finished.name) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"given more than once, shown once: {finished}\n")
    assert said.endswith("report/index.html\n")
    assert not list(tmp_path.iterdir())  # one run is no comparison


def test_a_copy_of_a_run_is_no_second_seed(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(tmp_path / "out"))
    copy = tmp_path / "copies" / finished.name
    shutil.copytree(finished, copy)
    assert run("report", str(finished), str(copy)) == 0
    said = capsys.readouterr().out
    assert f"copies/{finished.name}" in said
    assert "have one config and one seed" in said


def test_settings_are_no_directories(finished, capsys):
    assert run("report", str(finished), "monitor=val/nonsense") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: tapetum report takes directories only, not monitor=val/nonsense")


def test_what_is_neither_run_nor_sweep_is_refused(finished, tmp_path, capsys):
    assert run("report", str(tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path} is neither a run (config.yaml) nor a sweep (sweep.yaml). ")
    assert run("report", str(finished.parent / "nothing")) == 1
    error = capsys.readouterr().err
    assert (
        error
        == f"error: no directory {finished.parent / 'nothing'}. These are runs, latest first: {finished}\n"
    )
    assert run("report") == 1
    assert "name a run's directory" in capsys.readouterr().err
