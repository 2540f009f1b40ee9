"""Ctrl-C, SIGTERM and SIGUSR1: the step is finished, a checkpoint is written, then the run stops."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from ..errors import TapetumError
from .directory import to_resume


class InterruptedRunError(TapetumError):
    """The run was asked to stop; its checkpoint is written."""


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Requests to stop: a person's, a system's, and the warning that SLURM gives before it takes a job away."""

_ASK_S = 1.0
_MOST_STEPS = 1000


class StopOnSignal(Callback):
    """Writes `last.ckpt` at the next whole optimizer step after a signal; a second Ctrl-C stops at once.

    It takes Lightning's hook after a step only when a signal came, so that waiting for one costs nothing. Of
    several processes each may hear of it at another step, and a checkpoint is written by all of them
    together: about once a second they ask each other, behind the same step.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self.received: int | None = None
        self._together = False
        self._asked = (0, 0.0)
        self._ask_at = 0
        self._before: dict[int, Any] = {}

    def setup(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        """Lightning's hook: from here on a signal is a request."""
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)

    def on_sanity_check_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook."""
        self._take_over()

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook."""
        self._take_over()
        self._together = trainer.world_size > 1
        if self._together:
            self._asked, self._ask_at = (trainer.global_step, time.perf_counter()), trainer.global_step + 1
            setattr(self, "on_train_batch_end", self._ask_and_stop)  # noqa: B010  # a method, says mypy

    def _take_over(self) -> None:
        # Behind `setup` Lightning puts a handler of its own around ours, which stops without a checkpoint.
        for number in self._before:
            signal.signal(number, self._receive)

    def teardown(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        """Lightning's hook: the previous handlers come back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask_and_stop(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """on_train_batch_end of several processes: when they ask next follows from what all of them know."""
        step = trainer.global_step
        if step < self._ask_at or trainer.fit_loop._should_accumulate():
            return
        now = time.perf_counter()
        pace = (now - self._asked[1]) / max(1, step - self._asked[0])
        known = torch.tensor([float(self.received or 0), pace], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(known, torch.distributed.ReduceOp.MAX)
        number, slowest = known.tolist()
        self._asked = (step, time.perf_counter())
        self._ask_at = step + min(_MOST_STEPS, max(1, round(_ASK_S / max(slowest, 1e-6))))
        if number:
            self.received = int(number)
            self._save_and_stop(trainer, module, outputs, batch, batch_idx)

    def _save_and_stop(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """on_train_batch_end; accumulated gradients are not kept, so it waits for a whole step."""
        if self.received is None or trainer.fit_loop._should_accumulate():
            return
        trainer.save_checkpoint(self.last)
        name = signal.Signals(self.received).name
        raise InterruptedRunError(
            f"stopped by {name} after step {trainer.global_step}; to go on, repeat the command with "
            f"resume={to_resume(self.last.parent.parent)}"
        )

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        if not self._together:
            setattr(self, "on_train_batch_end", self._save_and_stop)  # noqa: B010  # a method, says mypy
