"""Two processes of which one fails, or which are asked to stop: its own words, and nobody left behind."""

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
from tapetum.runs.directory import RunDirectory
from tapetum.runs.ending import ending

from commands.experiments import PLAIN, runs, start, tiny
from layouts import make_folder

TWO = (
    "accelerator=cpu_ddp",
    "trainer.max_epochs=2",
    "optimizer=sgd",
    "optimizer.lr=0.05",
    "data.batch_size=4",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"), splits={"train": 16, "val": 4, "test": 4})


def words(photos, outputs, rank, step, what, *more):
    own = ("_target_=own_parts.OnRank", f"rank={rank}", f"step={step}", f"what={what}")
    return tiny(photos, outputs, *PLAIN, *TWO, *(f"+callbacks.end.{one}" for one in own), *more)


def ended(process):
    """Exit code, output and errors of a command."""
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("SIGKILL", "error: process 1 of 2 was killed by SIGKILL (by the system, where memory ran out"),
        ("raise", "error: process 1 of 2 failed: ZeroDivisionError: my own mistake (its traceback is above)"),
        ("memory", "error: process 1 of 2: out of memory while training with data.batch_size=4"),
        ("hang", "error: process 0 of 2 waited for another one longer than train.timeout_minutes=0.4"),
    ],
)
def test_a_process_that_fails_ends_the_run_with_its_own_error(photos, tmp_path, what, said):
    more = ("train.timeout_minutes=0.4",) if what == "hang" else ()
    process = start("train", *words(photos, tmp_path, 1, 3, what, *more))
    code, _, err = ended(process)
    (made,) = runs(tmp_path)
    assert code == 1, err
    assert said in err
    assert err.count("error: ") == 1
    assert ("Traceback" in err) == (what == "raise")
    assert not ending(RunDirectory(made)).finished
    assert said.removeprefix("error: ")[:40] in ending(RunDirectory(made)).reason
    assert not (made / "early_end.json").exists()
    listed = subprocess.run(["pgrep", "-f", str(made)], capture_output=True, text=True, check=False)
    assert listed.stdout == ""


def test_two_processes_that_were_killed_and_interrupted_end_at_the_weights_of_an_undisturbed_run(
    photos, tmp_path
):
    more = ("+callbacks.end.pause=0.6", "trainer.accumulate_grad_batches=2", "data.batch_size=2")
    more = (*more, "callbacks.checkpoint.every_n_steps=1")
    cut = words(photos, tmp_path / "cut", 1, 3, "SIGKILL", *more)
    code, _, err = ended(start("train", *cut))
    (made,) = runs(tmp_path / "cut")
    assert code == 1, err
    assert f"To go on from the last checkpoint, repeat the command with resume={made}" in err
    assert read_checkpoint(made / "checkpoints" / "last.ckpt")["global_step"] == 3
    code, _, err = ended(start("train", *cut, f"resume={made}", ON_RANK="1:5:SIGUSR1"))
    assert code == 130, err
    assert f"stopped by SIGUSR1 after step 6; to go on, repeat the command with resume={made}" in err
    assert read_checkpoint(made / "checkpoints" / "last.ckpt")["global_step"] == 6
    code, _, err = ended(start("train", *cut, "resume=auto", NO_SIGNAL="1"))
    assert code == 0, err
    straight = words(photos, tmp_path / "straight", 1, 3, "SIGKILL", *more)
    code, _, err = ended(start("train", *straight, NO_SIGNAL="1"))
    assert code == 0, err
    (whole,) = runs(tmp_path / "straight")
    (again,) = runs(tmp_path / "cut")
    reached, expected = (
        read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (again, whole)
    )
    for name, value in expected.items():
        assert torch.allclose(reached[name], value, atol=1e-6, rtol=0), name


def test_processes_write_a_checkpoint_and_end_where_the_one_that_started_them_is_killed(photos, tmp_path):
    more = ("+callbacks.end.pause=0.2", "trainer.max_epochs=200", "callbacks.checkpoint.every_n_steps=1000")
    process = start("train", *words(photos, tmp_path, 7, 0, "SIGTERM", *more))
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("detection/*/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    (made,) = runs(tmp_path)
    before = json.loads((made / "checkpoints" / "last.json").read_text())["step"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    while subprocess.run(["pgrep", "-f", str(made)], capture_output=True, check=False).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert json.loads((made / "checkpoints" / "last.json").read_text())["step"] > before


def test_a_command_that_srun_started_several_times_is_refused(photos, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tapetum", "train", *tiny(photos, tmp_path, "accelerator=cpu")],
        env=os.environ | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2
    assert (
        "srun started this command 4 times, and each would train a run of its own: type srun --ntasks=1"
        in (done.stderr)
    )
    assert not runs(tmp_path)
