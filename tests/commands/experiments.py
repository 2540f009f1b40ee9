"""Tiny experiments through the command line's own entry point, in this process or in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tapetum.cli import main
from tapetum.launch.local_pool import LocalPool
from tapetum.runs.directory import RunDirectory

HERE = Path(__file__).parent
TINY = (
    "model=timm_backbone",
    "model.net.name=test_resnet.r160_in1k",
    "model.net.size=32",
    "model.net.hidden=16",
    "accelerator=cpu",
    "data.batch_size=8",
    "data.num_workers=0",
    "trainer.max_epochs=1",
    "train.report=false",  # takes longer than such a training
)
PLAIN = (
    "model=npr",
    "~model.net.size",
    "~model.net.classes",
    "model.net._target_=own_parts.Plain",
    "allow_targets=[own_parts]",
)
"""A network of a user's own instead, without batch statistics and dropout."""


def tiny(data: Path, outputs: Path, *more: str) -> list[str]:
    """Overrides of a training on a folder of images that takes a second."""
    model = () if any(word.startswith("model=") for word in more) else TINY[:4]
    return [*model, *TINY[4:], "data=folder", f"data.root={data}", f"paths.outputs={outputs}", *more]


def run(verb: str, *arguments: str) -> int:
    """`tapetum VERB …` in this process; the exit code."""
    return main([verb, *arguments])


def train(data: Path, outputs: Path, *more: str) -> Path:
    """Train, insist on success, and return the run's directory."""
    before = set(runs(outputs))
    code = run("train", *tiny(data, outputs, *more))
    assert code == 0, code
    (made,) = set(runs(outputs)) - before
    return made


def runs(outputs: Path) -> list[Path]:
    """Every run below an outputs folder."""
    return sorted(config.parent for config in outputs.glob("detection/*/*/config.yaml"))


class Ended:
    """A job of a sweep that has run, or was only noted."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code

    def send(self, number: int) -> None:
        """Nothing is left to ask."""


def jobs_in_this_process(monkeypatch: pytest.MonkeyPatch, noted: list[RunDirectory] | None = None) -> None:
    """Let a sweep run its jobs here, since importing torch takes seconds; or only note them, as failed."""

    def begin(pool: LocalPool, run: RunDirectory, checkpoint: Path | None, config: object) -> Ended:
        if noted is not None:
            noted.append(run)
            return Ended(1)
        more = [] if checkpoint is None else [str(checkpoint)]
        return Ended(main(["job", str(run.path), *more]))

    monkeypatch.setattr(LocalPool, "start", begin)


def start(verb: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`tapetum VERB …` in a process of its own, which can import what lies in this folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "tapetum", verb, *arguments],
        env=os.environ | {"PYTHONPATH": str(HERE)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def in_process(verb: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same, waited for."""
    process = start(verb, *arguments, **environment)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
