"""Ctrl-C and SIGTERM: the step is finished, a checkpoint is written, and only then does the run stop."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from ..errors import TapetumError


class InterruptedRunError(TapetumError):
    """The run was asked to stop; its checkpoint is written."""


class StopOnSignal(Callback):
    """Writes `last.ckpt` at the next whole optimizer step after a signal; a second Ctrl-C stops at once.

    It takes Lightning's hook after a step only when a signal came, so that waiting for one costs nothing.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def setup(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        """Lightning's hook: from here on a signal is a request."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)

    def on_sanity_check_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook."""
        self._take_over()

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook."""
        self._take_over()

    def _take_over(self) -> None:
        # Behind `setup` Lightning puts a handler of its own around ours, which stops without a checkpoint.
        for number in self._before:
            signal.signal(number, self._receive)

    def teardown(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        """Lightning's hook: the previous handlers come back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

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
            f"resume={self.last.parent.parent}"
        )

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        setattr(self, "on_train_batch_end", self._save_and_stop)  # noqa: B010  # a method, says mypy
