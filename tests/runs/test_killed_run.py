"""A run that is killed and resumed must be the run that was never killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from tapetum.runs.checkpoints import read_checkpoint
from tapetum.runs.history import read_history

from layouts import make_folder

HERE = Path(__file__).parent


def run(
    tmp_path: Path, outputs: str, *more: str, kill_at: int | None = None
) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "tapetum", "train", "model=timm_backbone",
        "model.net.name=test_resnet.r160_in1k", "model.net.size=32", "model.net.hidden=16", "data=folder",
        f"data.root={tmp_path / 'data'}", "data.batch_size=8", "data.num_workers=2",
        "trainer.accelerator=cpu", "trainer.max_epochs=3", "trainer.log_every_n_steps=3",
        "augment=product_photo", "callbacks.checkpoint.every_n_steps=2", "allow_targets=[kill_callback]",
        "+callbacks.kill._target_=kill_callback.KillAt", f"paths.outputs={tmp_path / outputs}", *more,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(HERE), "KILL_AT_STEP": str(kill_at)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def only_run(outputs: Path) -> Path:
    (config,) = outputs.glob("detection/*/*/config.yaml")
    return config.parent


def test_killed_run_resumes_to_identical_weights(tmp_path):
    make_folder(tmp_path / "data", splits={"train": 20, "val": 4, "test": 4}, size=40)
    straight = run(tmp_path, "straight")
    assert straight.returncode == 0, straight.stderr

    first = run(tmp_path, "killed", kill_at=3)  # mid-epoch, one step behind the checkpoint of step 2
    assert first.returncode == -signal.SIGKILL, first.stderr
    directory = only_run(tmp_path / "killed")
    second = run(tmp_path, "killed", f"resume={directory}", kill_at=9)
    assert second.returncode == -signal.SIGKILL, second.stderr
    third = run(tmp_path, "killed", "resume=auto")
    assert third.returncode == 0, third.stderr

    expected = read_checkpoint(only_run(tmp_path / "straight") / "checkpoints" / "last.ckpt")
    reached = read_checkpoint(directory / "checkpoints" / "last.ckpt")
    assert reached["global_step"] == expected["global_step"] == 15
    for name, value in expected["state_dict"].items():
        assert torch.equal(reached["state_dict"][name], value), name
    assert [row["step"] for row in read_history(directory / "metrics.csv") if "train/loss" in row] == [
        5,
        10,
        15,
    ]
    histories = [
        [
            (row["epoch"], row["train/loss"])
            for row in read_history(path / "metrics.csv")
            if "train/loss" in row
        ]
        for path in (only_run(tmp_path / "straight"), directory)
    ]
    assert histories[0] == histories[1]
