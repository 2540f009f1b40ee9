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
import submitit
import torch
import yaml
from tapetum.errors import ConfigError
from tapetum.launch.cluster import _Submitted
from tapetum.launch.local_pool import LocalPool
from tapetum.runs.checkpoints import read_checkpoint
from tapetum.runs.directory import create_run

from commands.experiments import PLAIN, in_process, run, start, tiny
from layouts import make_folder

SLOW = (
    *("+callbacks.end._target_=own_parts.OnRank", "+callbacks.end.rank=7", "+callbacks.end.step=0"),
    *("+callbacks.end.what=SIGTERM", "+callbacks.end.pause=0.3"),
)
"""Each step takes a while."""


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


def test_a_sweep_goes_through_submitit_and_a_job_that_is_preempted_goes_on(photos, tmp_path):
    words = tiny(photos, tmp_path, *PLAIN, "trainer.max_epochs=3", "data.batch_size=4", *SLOW)
    process = start("train", "-m", *words, "launcher=submitit_local", "seed=1,2", "launcher.jobs=1")
    sweep = wait_for(tmp_path, process, "0/checkpoints/last.ckpt")
    (task,) = [entry for entry in running(sweep) if "submitit.core._submit" in command_of(entry)][:1]
    os.kill(int(task), signal.SIGUSR2)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    assert [job["status"] for job in jobs(sweep)] == ["finished", "finished"]
    log = (sweep / "0" / "train.log").read_text()
    assert "stopped by SIGUSR1" in log
    assert "resuming" in log
    assert json.loads((sweep / "0" / "metrics.json").read_text())["run/steps"] == 12
    assert list((sweep / "cluster").glob("*_log.out"))


def test_of_a_job_with_several_tasks_the_worst_exit_code_counts(tmp_path):
    executor = submitit.LocalExecutor(tmp_path / "cluster")
    executor.update_parameters(tasks_per_node=2, timeout_min=5)
    submitted = _Submitted(executor.submit(task_number), create_run(config(1), tmp_path / "run"))
    while (code := submitted.poll()) is None:
        time.sleep(0.1)
    assert code == 1


def task_number():
    return submitit.JobEnvironment().global_rank


def test_ctrl_c_reaches_the_running_job_and_the_sweep_can_go_on(photos, tmp_path):
    words = tiny(photos, tmp_path, *PLAIN, "seed=1,2", "trainer.max_epochs=200", *SLOW)
    process = start("train", "-m", *words)
    sweep = wait_for(tmp_path, process, "0/checkpoints/last.ckpt")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, out + err
    assert [job["status"] for job in jobs(sweep)] == ["interrupted"]
    assert f"repeat the command with resume={sweep}" in out
    assert "stopped by SIG" in (sweep / "0" / "train.log").read_text()
    assert not yaml.safe_load((sweep / "sweep.yaml").read_text())["ended"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["launcher=local_pool"],
            "launcher=local_pool is for the jobs of a sweep, and this is one run: type -m",
        ),
        (["launcher.jobs=4"], "launcher.jobs=4 is for the jobs of a sweep, and this is one run: type -m"),
        (["-m", "seed=1,2", "launcher=local_pool", "launcher.jobs=0"], "launcher.jobs=0 must be at least 1"),
        (
            ["-m", "seed=1,2", "+launcher.qos=high"],
            "launcher.qos is for clusters, and these jobs run on",
        ),
    ],
)
def test_launchers_that_do_not_fit_say_what_to_type(photos, tmp_path, capfd, words, said):
    assert run("train", *words, *tiny(photos, tmp_path)) == 2
    assert said in capfd.readouterr().err
    assert not list(tmp_path.glob("sweeps/*/*/0"))


def test_without_slurm_its_launcher_says_what_else_there_is(photos, tmp_path):
    done = in_process("train", "-m", *tiny(photos, tmp_path, *PLAIN, "seed=1,2", "launcher=slurm"))
    assert done.returncode == 2
    assert "launcher=slurm, but there is no srun on this machine: type launcher=local_pool" in done.stderr


def test_a_killed_sweep_goes_on_where_each_job_was(photos, tmp_path):
    words = (
        *tiny(photos, tmp_path, *PLAIN, "trainer.devices=1,2", "trainer.max_epochs=4", "optimizer=sgd"),
        *("optimizer.lr=0.05", "launcher.stop_on_failure=false", "data.batch_size=4", *SLOW),
    )
    process = start("train", "-m", *words)
    sweep = wait_for(tmp_path, process, "1/checkpoints/last.ckpt")
    before = (sweep / "0" / "metrics.json").stat().st_mtime_ns
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (sweep / "1" / "metrics.json").exists()
    assert not yaml.safe_load((sweep / "sweep.yaml").read_text())["ended"]
    done = in_process("train", "-m", *words, "resume=auto")  # waits until the orphan has written and gone
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job 1 (2 of 2), from its checkpoint: trainer.devices=2" in done.stdout
    assert only_sweep(tmp_path) == sweep
    assert [job["status"] for job in jobs(sweep)] == ["finished", "finished"]
    assert (sweep / "0" / "metrics.json").stat().st_mtime_ns == before
    own = [word for word in words if not word.startswith("launcher.")]
    alone = in_process("train", *(word.replace("devices=1,2", "devices=2") for word in own))
    assert alone.returncode == 0, alone.stderr
    (config,) = tmp_path.glob("detection/*/*/config.yaml")
    expected, reached = weights(config.parent), weights(sweep / "1")
    assert all(torch.allclose(reached[name], value, atol=1e-6, rtol=0) for name, value in expected.items())
    again = in_process("train", "-m", *words, f"resume={sweep}", "optimizer.lr=0.06")
    assert again.returncode == 2
    assert "job 0 of " in again.stderr
    assert "optimizer.lr 0.05 then, 0.06 now" in again.stderr


def wait_for(outputs, process, file):
    """The sweep, as soon as a file of it is there."""
    deadline = time.monotonic() + 300
    while not list(outputs.glob(f"sweeps/sweep/*/{file}")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return only_sweep(outputs)


def command_of(entry):
    return Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()


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
    with pytest.raises(ConfigError, match=r"\[0, 1\] names devices, and a pool gives them out"):
        pool.start(made[3], None, config([0, 1]))
    with pytest.raises(ConfigError, match=r"=0,1 names devices, .*: type trainer.devices=2$"):
        pool.start(made[3], None, config("0,1"))
    fourth = pool.start(made[3], None, config(4))
    assert fourth.gpus == ["3", "5", "7"]  # the job itself says that there are no more
    fourth.send(signal.SIGKILL)


def config(devices):
    return {"trainer": {"accelerator": "cuda", "devices": devices, "num_nodes": 1}, "task": "detection"}
