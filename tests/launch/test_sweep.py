"""`tapetum train -m`: a run a job, each in a process of its own, and their comparison."""

from __future__ import annotations

import csv
import json

import pytest
import yaml

from commands.experiments import HERE, TINY, run
from layouts import make_folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(
        tmp_path_factory.mktemp("sweep") / "my photos, resized", splits={"train": 8, "val": 4, "test": 4}
    )


def words(photos, outputs, *more):
    return ["-m", *TINY, "data=folder", f'data.root="{photos}"', f"paths.outputs={outputs}", *more]


def only_sweep(outputs, name):
    (file,) = outputs.glob(f"sweeps/{name}/*/sweep.yaml")
    return file.parent


def jobs(sweep):
    with (sweep / "jobs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_is_a_directory_of_runs_and_their_comparison(photos, tmp_path, capfd):
    assert run("train", *words(photos, tmp_path, "seed=1,2", "name=two seeds")) == 0
    said = capfd.readouterr().out
    sweep = only_sweep(tmp_path, "two seeds")
    assert {path.name for path in sweep.iterdir()} == {
        "sweep.yaml", "sweep.log", "jobs.csv", "report", "0", "1",
    }  # fmt: skip
    described = yaml.safe_load((sweep / "sweep.yaml").read_text())
    assert described["jobs"][1][-2:] == ["seed=2", "name=two\\ seeds"]
    assert (described["swept"], described["ended"]) == (["seed"], True)
    assert described["command"].startswith("tapetum train -m ")
    assert described["command"].endswith(" seed=1,2 'name=two seeds'")
    for number, job in enumerate(jobs(sweep)):
        config = yaml.safe_load((sweep / str(number) / "config.yaml").read_text())
        assert config["seed"] == number + 1
        assert config["data"]["root"] == str(photos)
        figures = json.loads((sweep / str(number) / "metrics.json").read_text())
        assert (job["status"], job["number"]) == ("finished", str(number))
        assert float(job["value"]) == pytest.approx(figures["best/val/auroc"])
        assert f"seed={number + 1}" in job["overrides"]
    assert said.rstrip().endswith(f"sweep   {sweep}\nreport  {sweep / 'report' / 'index.html'}")
    page = sweep / "report" / "index.html"
    before = page.read_text()
    page.unlink()
    assert run("report", str(sweep)) == 0
    assert page.read_text() == before


def test_a_job_that_fails_does_not_stop_the_others(photos, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(HERE))  # of the jobs' processes
    monkeypatch.syspath_prepend(str(HERE))
    more = ("model.loss._target_=own_parts.Squared", "+model.loss.nan_at=0,100", "allow_targets=[own_parts]")
    assert run("train", *words(photos, tmp_path, *more)) == 1
    captured = capfd.readouterr()
    sweep = only_sweep(tmp_path, "sweep")
    assert [job["status"] for job in jobs(sweep)] == ["failed", "finished"]
    assert "the loss became nan" in captured.err
    assert "job 0 failed: " in captured.out
    assert (sweep / "report" / "index.html").is_file()


def test_problems_of_any_job_are_told_before_one_starts(photos, tmp_path, capfd):
    assert run("train", *words(photos, tmp_path, "trainer.max_epochs=1,0", "data.batch_size=8,-1")) == 2
    said = capfd.readouterr().err
    assert said == (
        "4 problems in the config:\n"
        "  - job 1 (data.batch_size=8 trainer.max_epochs=0): trainer.max_epochs=0 must be at least 1: type "
        "trainer.max_epochs=1\n"
        "  - job 2 (data.batch_size=-1 trainer.max_epochs=1): data.batch_size=-1 must be at least 1: type "
        "data.batch_size=1\n"
        "  - job 3 (data.batch_size=-1 trainer.max_epochs=0): data.batch_size=-1 must be at least 1: type "
        "data.batch_size=1\n"
        "  - job 3 (data.batch_size=-1 trainer.max_epochs=0): trainer.max_epochs=0 must be at least 1: type "
        "trainer.max_epochs=1\n"
    )
    assert not list(tmp_path.glob("sweeps/*/*"))


def test_several_values_without_m_are_explained(photos, tmp_path, capfd):
    assert run("train", *words(photos, tmp_path, "seed=1,2")[1:]) == 2
    assert "seed=1,2 has several values: type -m seed=1,2 to run each" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("launcher.jobs=1,2", "launcher.jobs=1,2 can't be swept: a sweep has one value of launcher.jobs"),
        ("launcher=sequential,local_pool", "launcher=sequential,local_pool can't be swept"),
        ("resume=/nonexistent/sweep", "resume=/nonexistent/sweep does not exist: type -m resume=SWEEP with"),
    ],
)
def test_words_that_are_of_the_whole_sweep(photos, tmp_path, capfd, word, expected):
    assert run("train", *words(photos, tmp_path, "seed=1,2", word)) == 2
    assert expected in capfd.readouterr().err


def test_a_sweep_goes_with_no_other_flag(capfd):
    assert run("train", "-m", "--cfg", "job", "seed=1,2") == 2
    assert "-m runs a sweep and goes with no other flag: leave out --cfg job" in capfd.readouterr().err
