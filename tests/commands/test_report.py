"""`tapetum report`: a run's report again, a crashed run's, and runs side by side."""

from __future__ import annotations

import pytest

from commands.experiments import run, runs, tiny, train


def test_a_runs_report_is_written_again(finished, capsys):
    page = finished / "report" / "index.html"
    before = page.read_text()
    page.unlink()
    assert run("report", str(finished)) == 0
    assert capsys.readouterr().out == f"report  {page}\n"
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


def test_what_is_neither_run_nor_sweep_is_refused(tmp_path, capsys):
    assert run("report", str(tmp_path)) == 1
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path} is neither a run (config.yaml) nor a sweep (sweep.yaml)\n"
    )
    assert run("report", str(tmp_path / "nothing")) == 1
    assert f"no directory {tmp_path / 'nothing'}" in capsys.readouterr().err
    assert run("report") == 1
    assert "name a run's directory" in capsys.readouterr().err
