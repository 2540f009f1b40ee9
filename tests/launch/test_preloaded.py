"""Jobs forked from a process that has imported their libraries: the same results, as easily stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from tapetum.cli import main
from tapetum.config.compose import compose
from tapetum.errors import ConfigError
from tapetum.launch.preloaded import Preloaded, can_fork
from tapetum.launch.sweep import place_of
from tapetum.runs.checkpoints import read_checkpoint
from tapetum.runs.directory import create_run

from commands.experiments import HERE, PLAIN, tiny
from commands.tracker_servers import of_type, wandb_records
from layouts import make_folder

pytestmark = pytest.mark.skipif(not can_fork(), reason="jobs are forked on Linux only")

SLOW = (
    *("+callbacks.slow._target_=own_parts.OnRank", "+callbacks.slow.rank=7", "+callbacks.slow.step=0"),
    *("+callbacks.slow.what=SIGTERM", "+callbacks.slow.pause=0.3", "callbacks.early_stopping=null"),
)


@pytest.fixture(scope="module")
def server():
    return Preloaded(os.environ | {"PYTHONPATH": str(HERE)})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"), splits={"train": 8, "val": 4, "test": 4})


def prepared(photos, path, *more):
    words = tiny(
        photos, path.parent, *PLAIN, "optimizer=sgd", "optimizer.lr=0.05", "trainer.max_epochs=2", *more
    )
    return create_run(compose(words).config, path)


def fork(server, run, output, **environment):
    return server.fork([str(run.path)], os.environ | environment, output, run.read_config())


def code_of(job):
    deadline = time.monotonic() + 300
    while (code := job.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return code


def test_a_forked_job_is_the_job_that_runs_alone(server, photos, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    forked, alone = prepared(photos, tmp_path / "forked"), prepared(photos, tmp_path / "alone")
    assert code_of(fork(server, forked, tmp_path / "output.txt", PYTHONPATH=str(HERE))) == 0
    assert "1 process, effective batch 8" in (tmp_path / "output.txt").read_text()
    assert main(["job", str(alone.path)]) == 0
    states = [read_checkpoint(run.checkpoints / "last.ckpt")["state_dict"] for run in (forked, alone)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_jobs_are_told_apart_and_each_keeps_its_own_end(server, photos, tmp_path):
    slow = fork(
        server, prepared(photos, tmp_path / "slow", "trainer.max_epochs=200", *SLOW), tmp_path / "0.txt"
    )
    killed = fork(server, prepared(photos, tmp_path / "killed", *SLOW), tmp_path / "1.txt")
    missing = server.fork([str(tmp_path / "nowhere")], os.environ, tmp_path / "2.txt", {"task": "detection"})
    killed.send(signal.SIGKILL)
    assert code_of(killed) == -signal.SIGKILL
    assert code_of(missing) == 1
    assert f"error: {tmp_path / 'nowhere'}" in (tmp_path / "2.txt").read_text()
    assert slow.poll() is None
    wait_for(tmp_path / "slow" / "checkpoints" / "last.ckpt", slow)
    slow.send(signal.SIGINT)
    assert code_of(slow) == 130, (tmp_path / "0.txt").read_text()
    assert "stopped by SIGINT" in (tmp_path / "0.txt").read_text()
    slow.send(signal.SIGKILL)  # nobody is left to hear it
    assert slow.poll() == 130


def test_a_job_hears_a_signal_that_comes_with_its_start(server, photos, tmp_path):
    for number in range(8):
        run = prepared(photos, tmp_path / str(number), "trainer.max_epochs=200", *SLOW)
        job = fork(server, run, tmp_path / f"{number}.txt")
        job.send(signal.SIGINT)
        assert code_of(job) in (130, -signal.SIGINT)
        assert not run.history.exists()


def test_a_signal_to_the_server_is_none_to_its_jobs(server, photos, tmp_path):
    run = prepared(photos, tmp_path / "run", "trainer.max_epochs=4", *SLOW)
    job = fork(server, run, tmp_path / "0.txt")
    wait_for(run.checkpoints / "last.ckpt", job)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        os.kill(server.pid, number)
    assert code_of(job) == 0
    assert "stopped by" not in (tmp_path / "0.txt").read_text()


def test_a_job_has_its_own_environment_and_nothing_of_the_server(photos, tmp_path):
    world = tmp_path / "world.json"
    told = ("+callbacks.world._target_=own_parts.TellsItsWorld", f"+callbacks.world.file={world}")
    run = prepared(photos, tmp_path / "run", *told)
    given = {key: value for key, value in os.environ.items() if not key.startswith(("OMP", "PYTORCH_NVML"))}
    server = Preloaded({**given, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "OF_SERVER": "1"})
    given |= {"PYTHONPATH": str(HERE), "CUDA_VISIBLE_DEVICES": "3", "OF_JOB": "1"}
    job = server.fork([str(run.path)], given, tmp_path / "0.txt", run.read_config())
    assert code_of(job) == 0, (tmp_path / "0.txt").read_text()
    found = json.loads(world.read_text())
    assert given.items() <= found["environment"].items()
    assert not {"OF_SERVER", "PYTORCH_NVML_BASED_CUDA_CHECK"} & found["environment"].keys()
    assert found["environment"]["TAPETUM_PARENT"] == str(server.pid)
    assert (found["threads"], found["sockets"], found["session"]) == (1, 0, True)


def test_jobs_of_a_server_that_is_killed_are_alive_until_they_are_gone(photos, tmp_path):
    server = Preloaded(os.environ | {"PYTHONPATH": str(HERE)})
    run = prepared(photos, tmp_path / "run", "trainer.max_epochs=200", *SLOW)
    job = fork(server, run, tmp_path / "output.txt")
    wait_for(run.checkpoints / "last.ckpt", job)
    os.kill(server.pid, signal.SIGKILL)
    other = fork(server, prepared(photos, tmp_path / "other"), tmp_path / "other.txt")
    assert code_of(job) == 130
    assert "stopped by SIGTERM" in (run.path / "train.log").read_text()  # with its checkpoint
    assert code_of(other) == 0


def test_a_server_ends_with_its_sweep_without_a_word():
    """Killed while the server imports, with a job asked for; who reads its output waits for its end."""
    code = (
        "import os, time; from tapetum.launch.preloaded import Preloaded; server = Preloaded(os.environ); "
        "server.fork(['nowhere'], os.environ, None, {'task': 'detection'}); time.sleep(3); "
        "os.kill(os.getpid(), 9)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert time.monotonic() - began > 3
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, "", "")


def wait_for(file, job):
    deadline = time.monotonic() + 300
    while not file.exists():
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_cannot_be_imported_is_the_error_of_the_job(photos, tmp_path):
    (tmp_path / "lightning.py").write_text("raise ImportError('no lightning here')")
    broken = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{HERE}"}
    run = prepared(photos, tmp_path / "run")
    assert (
        code_of(Preloaded(broken).fork([str(run.path)], broken, tmp_path / "0.txt", run.read_config())) == 1
    )
    said = (tmp_path / "0.txt").read_text()
    assert "no lightning here" in said
    assert "launcher.preload: a library could not be imported, so this job imports for itself" in said


def test_every_job_that_logs_to_wandb_has_its_figures_there(server, photos, tmp_path):
    # wandb makes a folder for pictures when it is imported, and removes it when its process ends
    for number in range(2):
        words = ("logger=wandb", "logger.wandb.mode=offline", "train.report=true")
        run = prepared(photos, tmp_path / str(number) / "run", *words)
        job = fork(server, run, tmp_path / f"{number}.txt", NETRC="/nonexistent", WANDB_API_KEY="")
        assert code_of(job) == 0
        assert "could not take" not in run.log.read_text()
        (kept,) = (run.path / "wandb").glob("offline-run-*")
        summary = {}
        for record in of_type(wandb_records(kept), "summary"):
            summary |= record.get("update", {})
        wanted = run.read_metrics()
        assert {name: summary[name] for name in wanted} == pytest.approx(wanted)


def test_a_clusters_jobs_are_not_forked(tmp_path):
    with pytest.raises(ConfigError, match=r"launcher\.preload is for jobs on this machine"):
        place_of({"place": "cluster", "cluster": "local", "jobs": 2, "preload": False}, tmp_path)
