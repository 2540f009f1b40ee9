"""A search whose jobs have several processes, and several searches in processes of their own."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from commands.experiments import TINY, in_process, start
from layouts import make_folder

TESTS = Path(__file__).parents[1]
SEARCH = """
import sys
from pathlib import Path
from launch.formula import auroc, search
from tapetum.launch.jobs import Outcome
from tapetum.runs.directory import create_run, write_json
directory = Path(sys.argv[1])
source = search(directory, storage=sys.argv[2], study="both", trials=4)
while (job := source.next()) is not None:
    run = create_run(job.config, directory / str(job.number))
    write_json(run.metrics, {"best/val/auroc": auroc(job.config)})
    source.ended(Outcome(job, run, "finished", 0.0, 0.0))
"""


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_two_processes_that_start_at_once_share_a_study(tmp_path, kind):
    file = tmp_path / f"all.{kind}"
    storage = f"sqlite:///{file}" if kind == "sqlite" else str(file)
    words = [sys.executable, "-c", SEARCH]
    both = [subprocess.Popen([*words, str(tmp_path / name), storage], cwd=TESTS) for name in ("a", "b")]
    assert [one.wait(timeout=300) for one in both] == [0, 0]
    opened = RDBStorage(storage) if kind == "sqlite" else JournalStorage(JournalFileBackend(storage))
    trials = optuna.load_study(study_name="both", storage=opened).get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 8
    assert sorted(trial.user_attrs["directory"] for trial in trials) == ["a"] * 4 + ["b"] * 4
    assert len({str(trial.params) for trial in trials}) == 8


def test_a_search_over_jobs_of_two_processes_is_killed_goes_on_and_prunes_the_one_that_diverges(tmp_path):
    photos = make_folder(tmp_path / "photos", splits={"train": 8, "val": 4, "test": 4})
    words = [
        *("sweep=optuna", "sweep.sampler=grid", "sweep.seed=1", "sweep.pruner=median"),
        "sweep.startup_trials=1",
        *("optimizer=sgd", "optimizer.lr=0.001,100", "scheduler=constant", "trainer.max_epochs=3"),
        *("train.monitor=val/loss", "train.mode=min", "accelerator=cpu_ddp", "data.batch_size=4"),
        *(word for word in TINY if word.startswith(("model", "data.num_workers"))),
        *("data=folder", f"data.root={photos}", f"paths.outputs={tmp_path}", "callbacks=none"),
        *("allow_targets=[own_parts]", "+callbacks.slow._target_=own_parts.OnRank", "+callbacks.slow.rank=7"),
        *("+callbacks.slow.step=0", "+callbacks.slow.what=SIGTERM", "+callbacks.slow.pause=0.3"),
    ]
    killed = start("train", "-m", *words)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("sweeps/*/*/0/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    (file,) = tmp_path.glob("sweeps/*/*/jobs.csv")
    while subprocess.run(["pgrep", "-f", str(file.parent)], capture_output=True, check=False).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not (file.parent / "0" / "metrics.json").exists()
    done = in_process("train", "-m", *words, "resume=auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job 0 (1 of 2), from its checkpoint: optimizer.lr=0.001" in done.stdout
    with file.open(newline="") as table:
        jobs = list(csv.DictReader(table))
    assert [job["status"] for job in jobs] == ["finished", "pruned"]
    study = optuna.load_study(
        study_name=None, storage=JournalStorage(JournalFileBackend(str(file.parent / "study.journal")))
    )
    whole, pruned = study.get_trials()
    assert (whole.params, pruned.params) == ({"optimizer.lr": "0.001"}, {"optimizer.lr": "100"})
    assert (whole.state.name, pruned.state.name) == ("COMPLETE", "PRUNED")
    assert list(whole.intermediate_values) == [1, 2, 3]
    assert list(pruned.intermediate_values) == [1]
    assert pruned.intermediate_values[1] > whole.intermediate_values[1]
    figures = json.loads((file.parent / "0" / "metrics.json").read_text())
    assert whole.value == figures["best/val/loss"] == pytest.approx(min(whole.intermediate_values.values()))
    said = json.loads((file.parent / "1" / "pruned.json").read_text())
    assert said["epoch"] == 1
    assert said["value"] == pruned.intermediate_values[1]
    assert said["reason"].endswith("after epoch 1 is behind that of other trials")
    assert not (file.parent / "1" / "metrics.json").exists()
    assert "found   val/loss" in done.stdout
