"""Jobs forked from a process that has imported their libraries: the same results, as easily stopped."""

from __future__ import annotations

import os
import signal
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
    while not (tmp_path / "slow" / "checkpoints" / "last.ckpt").exists():
        assert slow.poll() is None
        time.sleep(0.05)
    slow.send(signal.SIGINT)
    assert code_of(slow) == 130, (tmp_path / "0.txt").read_text()
    assert "stopped by SIGINT" in (tmp_path / "0.txt").read_text()
    slow.send(signal.SIGKILL)  # nobody is left to hear it
    assert slow.poll() == 130


def test_a_server_that_is_killed_takes_its_jobs_along_and_another_one_starts(photos, tmp_path):
    server = Preloaded(os.environ | {"PYTHONPATH": str(HERE)})
    run = prepared(photos, tmp_path / "run", "trainer.max_epochs=200", *SLOW)
    job = fork(server, run, tmp_path / "output.txt")
    while not (run.checkpoints / "last.ckpt").exists():
        assert job.poll() is None
        time.sleep(0.05)
    os.kill(server.pid, signal.SIGKILL)
    assert code_of(job) == -signal.SIGKILL
    other = fork(server, prepared(photos, tmp_path / "other"), tmp_path / "other.txt")
    deadline = time.monotonic() + 120
    while "stopped by SIGTERM" not in (run.path / "train.log").read_text():  # with its checkpoint
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert code_of(other) == 0


def test_what_cannot_be_imported_is_the_error_of_the_job(photos, tmp_path):
    (tmp_path / "lightning.py").write_text("raise ImportError('no lightning here')")
    broken = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{HERE}"}
    run = prepared(photos, tmp_path / "run")
    assert (
        code_of(Preloaded(broken).fork([str(run.path)], broken, tmp_path / "0.txt", run.read_config())) == 1
    )
    assert "no lightning here" in (tmp_path / "0.txt").read_text()


def test_a_clusters_jobs_are_not_forked(tmp_path):
    with pytest.raises(ConfigError, match=r"launcher\.preload is for jobs on this machine"):
        place_of({"place": "cluster", "cluster": "local", "jobs": 2, "preload": False}, tmp_path)
