"""Signals and a full disk, in processes of their own: the run stops in order and can go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from tapetum.runs.checkpoints import read_checkpoint

from commands.experiments import PLAIN, in_process, run, runs, start, tiny


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(folder, tmp_path, name):
    words = tiny(
        folder, tmp_path, "trainer.max_epochs=2", "trainer.accumulate_grad_batches=2",
        "allow_targets=[own_parts]", "+callbacks.signal._target_=own_parts.SignalAt",
        "+callbacks.signal.step=2", f"+callbacks.signal.name={name}",
    )  # fmt: skip
    done = in_process("train", *words)
    assert done.returncode == 130, done.stderr
    (made,) = runs(tmp_path)
    assert done.stderr.splitlines()[-1] == (
        f"error: stopped by {name} after step 3; to go on, repeat the command with resume={made}"
    )
    assert (
        read_checkpoint(made / "checkpoints" / "last.ckpt")["global_step"] == 3
    )  # in between it has to wait
    assert not (made / "metrics.json").exists()
    if name == "SIGTERM":
        done = in_process("train", *words, f"resume={made}", NO_SIGNAL="1")
        assert done.returncode == 0, done.stderr
        assert json.loads((made / "metrics.json").read_text())["run/steps"] == 6


def test_an_interrupted_average_goes_on_as_if_nothing_had_happened(folder, tmp_path, monkeypatch):
    """What a signal writes holds the average with the last step in it, wherever the callback stands."""

    def words(outputs):
        return tiny(
            folder, outputs, *PLAIN, "trainer.max_epochs=2", "optimizer.lr=0.1", "callbacks=ema",
            "+callbacks.signal._target_=own_parts.SignalAt", "+callbacks.signal.step=2",
            "+callbacks.signal.name=SIGTERM",
        )  # fmt: skip

    assert run("train", *words(tmp_path / "cut")) == 130
    (cut,) = runs(tmp_path / "cut")
    assert read_checkpoint(cut / "checkpoints" / "last.ckpt")["global_step"] == 3
    monkeypatch.setitem(os.environ, "NO_SIGNAL", "1")
    assert run("train", *words(tmp_path / "cut"), f"resume={cut}") == 0
    assert run("train", *words(tmp_path / "straight")) == 0
    (straight,) = runs(tmp_path / "straight")
    reached, expected = (
        read_checkpoint(made / "checkpoints" / "last.ckpt")["state_dict"] for made in (cut, straight)
    )
    assert all(torch.equal(reached[name], value) for name, value in expected.items())


def test_a_second_ctrl_c_does_not_wait_for_a_whole_step(folder, tmp_path):
    words = tiny(
        folder, tmp_path, "trainer.accumulate_grad_batches=4", "allow_targets=[own_parts]",
        "+callbacks.signal._target_=own_parts.SignalAt", "+callbacks.signal.step=0",
        "+callbacks.signal.name=SIGINT", "+callbacks.signal.times=2",
    )  # fmt: skip
    done = in_process("train", *words)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_ctrl_c_from_outside_stops_a_long_training(folder, tmp_path):
    process = start("train", *tiny(folder, tmp_path, "trainer.max_epochs=5000", "callbacks=none"))
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("detection/*/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped by SIGINT" in said
    assert "Traceback" not in said


def test_a_full_disk_keeps_the_checkpoint_before_and_says_so(folder, tmp_path):
    words = tiny(
        folder, tmp_path, "trainer.max_epochs=3", "allow_targets=[own_parts]",
        "+callbacks.disk._target_=own_parts.LimitFileSize", "+callbacks.disk.step=8",
        "+callbacks.disk.size=100000",
    )  # fmt: skip
    done = in_process("train", *words)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "could not be written" in done.stderr
    assert "resume=" in done.stderr
    (made,) = runs(tmp_path)
    assert read_checkpoint(made / "checkpoints" / "last.ckpt")["global_step"] == 6
    assert not list((made / "checkpoints").glob("*.tmp"))


OUT_OF_MEMORY = """
import resource
import torch
from tapetum.commands.memory import out_of_memory
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, resource.RLIM_INFINITY))
config = {"data": {"batch_size": 15, "eval_batch_size": 64}, "trainer": {"accumulate_grad_batches": 2}}
for allocate in (torch.empty, bytearray):
    try:
        allocate(10**10)
    except (RuntimeError, MemoryError) as error:
        for phase in ("training", "predicting"):
            print(out_of_memory(error, config, phase))
"""


def test_running_out_of_memory_is_explained_with_what_to_type():
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4  # torch's allocator and Python's, in two phases each
    for said in lines[::2]:
        assert said.startswith("out of memory while training with data.batch_size=15 (peak ")
        assert said.endswith("data.batch_size=5 trainer.accumulate_grad_batches=6")  # 5 x 6 = 15 x 2
    for said in lines[1::2]:
        assert said.startswith("out of memory while predicting with data.eval_batch_size=64 (peak ")
        assert said.endswith("data.eval_batch_size=32")


def test_other_errors_are_not_called_out_of_memory():
    from tapetum.commands.memory import out_of_memory

    config = {"data": {"batch_size": 8, "eval_batch_size": 8}, "trainer": {"accumulate_grad_batches": 1}}
    assert out_of_memory(RuntimeError("shapes do not fit"), config) is None
    assert out_of_memory(ValueError("no"), config) is None
    single = out_of_memory(MemoryError(), {**config, "data": {"batch_size": 1}})
    assert single is not None
    assert "one image does not fit" in single
