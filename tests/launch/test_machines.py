"""Two machines, here two commands on one: the first makes the run, the other joins, and they train as one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest
import torch
from tapetum.errors import TapetumError
from tapetum.launch.meeting import Meeting
from tapetum.runs.checkpoints import read_checkpoint
from tapetum.runs.directory import RunDirectory

from commands.experiments import HERE, PLAIN, in_process, runs, start, tiny
from layouts import make_folder


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_run_on_two_machines_is_one_with_the_doubled_batch(tmp_path):
    data = make_folder(tmp_path / "data", splits={"train": 8, "val": 4, "test": 4})
    common = [*PLAIN, "trainer.max_epochs=2", "optimizer=sgd", "optimizer.lr=0.05", "accelerator=cpu"]
    one = in_process("train", *tiny(data, tmp_path / "one", *common, "data.batch_size=8"))
    assert one.returncode == 0, one.stderr
    port = str(free_port())
    first = start(
        "train",
        *tiny(data, tmp_path / "two", *common, "data.batch_size=4", "trainer.num_nodes=2"),
        "trainer.strategy=ddp",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
    )
    said, join = [], ""
    while not join:  # what the first one says to type
        line = first.stdout.readline()
        assert line, first.stderr.read()
        said.append(line)
        join = line.strip() if line.strip().startswith("tapetum join ") else ""
    assert f"waiting at 127.0.0.1:{port} for 1 more; on the other machine, in the same folder" in said[-2]
    reader = threading.Thread(target=lambda: said.extend(first.stdout), daemon=True)
    reader.start()
    other = subprocess.run(
        [sys.executable, "-m", *join.split()],
        env=os.environ | {"PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert other.returncode == 0, other.stdout + other.stderr
    assert first.wait(timeout=300) == 0, first.stderr.read()
    reader.join()
    assert "2 processes, effective batch 8" in "".join(said)
    (alone,), (together,) = runs(tmp_path / "one"), runs(tmp_path / "two")
    expected, reached = (
        read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (alone, together)
    )
    for name, value in expected.items():
        assert torch.allclose(reached[name], value, atol=1e-6, rtol=0), name
    assert not (together / "meeting.json").exists()
    with pytest.raises(TapetumError, match=r"nobody waits in .*: tapetum join is for the other machines"):
        Meeting.read(RunDirectory(together))


def test_a_port_that_is_taken_is_named(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        run = RunDirectory(tmp_path)
        with pytest.raises(TapetumError, match=f"port {port} is in use .* MASTER_PORT={port + 1}"):
            Meeting.of({"devices": 1, "num_nodes": 2, "accelerator": "cpu"}, run, None)


def test_machines_that_do_not_come_are_not_waited_for_for_ever(tmp_path):
    data = make_folder(tmp_path / "data", splits={"train": 4, "val": 4, "test": 4})
    done = in_process(
        "train",
        *tiny(data, tmp_path / "out", *PLAIN, "trainer.num_nodes=2", "trainer.strategy=ddp"),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(free_port()),
        TAPETUM_PATIENCE="3",
    )
    assert done.returncode == 1
    assert "the 2 machines of the run did not meet at 127.0.0.1" in done.stderr
    (made,) = (tmp_path / "out").glob("detection/*/*")
    assert f"tapetum join {made} on every other machine" in done.stderr
    assert "Traceback" not in done.stderr
