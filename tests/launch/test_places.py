"""Where the jobs of a sweep run: a pool, a cluster's way, each with its devices; killed and gone on with."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from tapetum.launch.local_pool import LocalPool
from tapetum.runs.checkpoints import read_checkpoint
from tapetum.runs.directory import create_run

from commands.experiments import PLAIN, in_process, start, tiny
from layouts import make_folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"), splits={"train": 8, "val": 4, "test": 4})


def jobs(sweep):
    with (sweep / "jobs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def only_sweep(outputs):
    (file,) = outputs.glob("sweeps/sweep/*/sweep.yaml")
    return file.parent


def weights(run):
    return read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]


def test_a_pool_runs_jobs_of_one_and_two_processes_beside_each_other(photos, tmp_path):
    words = tiny(photos, tmp_path, *PLAIN, "trainer.strategy=auto", "optimizer=sgd", "optimizer.lr=0.05")
    more = ("launcher=local_pool", "trainer.devices=1,2", "allow_targets=[own_parts]")
    done = in_process("train", "-m", *words, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = only_sweep(tmp_path)
    assert [job["status"] for job in jobs(sweep)] == ["finished", "finished"]
    steps = [json.loads((sweep / n / "metrics.json").read_text())["run/steps"] for n in ("0", "1")]
    assert steps == [2, 1]  # 16 images in batches of 8, on one process and on two
    assert "1 process, effective batch 8" in (sweep / "0" / "output.txt").read_text()
    assert "2 processes, effective batch 16" in (sweep / "1" / "output.txt").read_text()
    assert "job 1 (2 of 2): trainer.devices=2" in done.stdout
    log = (sweep / "sweep.log").read_text()
    assert log.index("job 1 (2 of 2)") < log.index("job 0 finished")  # at the same time


def test_a_sweep_goes_through_submitit(photos, tmp_path):
    words = tiny(photos, tmp_path, *PLAIN, "seed=1,2", "launcher=submitit_local")
    done = in_process("train", "-m", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = only_sweep(tmp_path)
    assert [job["status"] for job in jobs(sweep)] == ["finished", "finished"]
    assert list((sweep / "cluster").glob("*_log.out"))


def test_without_slurm_its_launcher_says_what_else_there_is(photos, tmp_path):
    done = in_process("train", "-m", *tiny(photos, tmp_path, *PLAIN, "seed=1,2", "launcher=slurm"))
    assert done.returncode == 2
    assert "launcher=slurm, but there is no srun on this machine: type launcher=local_pool" in done.stderr


def test_a_killed_sweep_goes_on_where_each_job_was(photos, tmp_path):
    own = ("+callbacks.end._target_=own_parts.OnRank", "+callbacks.end.rank=7", "+callbacks.end.step=0")
    slow = (*own, "+callbacks.end.what=SIGTERM", "+callbacks.end.pause=0.3")
    words = (
        *tiny(photos, tmp_path, *PLAIN, "trainer.devices=1,2", "trainer.max_epochs=4", "optimizer=sgd"),
        *("optimizer.lr=0.05", "launcher.stop_on_failure=false", "data.batch_size=4", *slow),
    )
    process = start("train", "-m", *words)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("sweeps/sweep/*/1/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    sweep = only_sweep(tmp_path)
    before = (sweep / "0" / "metrics.json").stat().st_mtime_ns
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while running(sweep):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not (sweep / "1" / "metrics.json").exists()
    assert not yaml.safe_load((sweep / "sweep.yaml").read_text())["ended"]
    done = in_process("train", "-m", *words, "resume=auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job 1 (2 of 2), from its checkpoint: trainer.devices=2" in done.stdout
    assert only_sweep(tmp_path) == sweep
    assert [job["status"] for job in jobs(sweep)] == ["finished", "finished"]
    assert (sweep / "0" / "metrics.json").stat().st_mtime_ns == before
    alone = in_process("train", *(word.replace("devices=1,2", "devices=2") for word in words))
    assert alone.returncode == 0, alone.stderr
    (config,) = tmp_path.glob("detection/*/*/config.yaml")
    expected, reached = weights(config.parent), weights(sweep / "1")
    assert all(torch.allclose(reached[name], value, atol=1e-6, rtol=0) for name, value in expected.items())
    again = in_process("train", "-m", *words, f"resume={sweep}", "optimizer.lr=0.06")
    assert again.returncode == 2
    assert "job 0 of " in again.stderr
    assert "optimizer.lr 0.05 then, 0.06 now" in again.stderr


def running(sweep):
    """Processes whose command line names the sweep."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if str(sweep).encode() in (entry / "cmdline").read_bytes():
                    found.append(entry.name)
    return found


def test_a_pool_gives_each_job_gpus_of_its_own(tmp_path, monkeypatch):
    """The processes are real, the GPUs are names in the environment."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    pool = LocalPool(jobs=3)
    made = [create_run(config(1), tmp_path / str(number)) for number in range(4)]
    first = pool.start(made[0], None, config(2))
    second = pool.start(made[1], None, config(1))
    assert (first.gpus, second.gpus) == (["3", "5"], ["7"])
    assert pool.start(made[2], None, config(1)) is None
    second.send(signal.SIGKILL)
    while second.poll() is None:
        time.sleep(0.01)
    third = pool.start(made[2], None, config(1))
    assert third.gpus == ["7"]
    for one in (first, third):
        one.send(signal.SIGKILL)
        while one.poll() is None:
            time.sleep(0.01)
    fourth = pool.start(made[3], None, config(4))
    assert fourth.gpus == ["3", "5", "7"]  # the job itself says that there are no more
    fourth.send(signal.SIGKILL)


def config(devices):
    return {"trainer": {"accelerator": "cuda", "devices": devices, "num_nodes": 1}, "task": "detection"}
