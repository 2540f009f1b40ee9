"""What a run says while it trains: one bar on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

log = logging.getLogger("tapetum")

SHOWN = (
    *("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/auroc"),
    *("val/recall_at_1", "val/knn_accuracy", "val/knn_balanced_accuracy"),
)
"""What an epoch's line has, as far as the task logs it; the monitored figure comes last."""


class TrainingProgress(ProgressBar):
    """Loss (last and mean), images per second and time left; drawn only when the module's buffer was read.

    The module's `progress` mapping is the source, so that drawing never waits for the device.
    """

    def __init__(self, console: Console, monitor: str | None = None) -> None:
        super().__init__()
        self.console = console
        self.monitor = monitor
        self._bar: Progress | None = None
        self._task: Any = None
        self._every = 20
        self._epoch_began = 0.0
        self._images_before = 0

    def disable(self) -> None:
        """Lightning's hook, called on every rank but the first."""
        self.console.quiet = True

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook."""
        self._every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                refresh_per_second=4,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=None, figures="")
        else:
            setattr(self, "on_train_batch_end", None)  # noqa: B010  # nothing to draw, nothing to call
        self.on_train_epoch_start(trainer, module)  # which a run resumed in the middle of an epoch has not

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook."""
        self._epoch_began = time.perf_counter()
        self._images_before = module.buffer.seen  # type: ignore  # every task's module has a StepBuffer
        if self._bar is not None:
            self._bar.reset(
                self._task, total=trainer.num_training_batches, description=_epoch(trainer), figures=""
            )

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Lightning's hook, on the hot path: does nothing but compare two numbers on most steps."""
        if self._bar is not None and (batch_idx + 1) % self._every == 0:
            self._bar.update(self._task, completed=batch_idx + 1, figures=self._figures(module))

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook: the epoch's line, which is also what train.log keeps."""
        module.flush()  # type: ignore[operator]
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        values = {**logged, **module.train_figures()}  # type: ignore[operator]  # of every NetworkModule
        shown = [*SHOWN, self.monitor]
        figures = [f"{name} {values[name]:.4f}" for name in dict.fromkeys(shown) if name in values]
        seconds = time.perf_counter() - self._epoch_began
        log.info("%s  %s  %.0f s", _epoch(trainer), "  ".join(figures), seconds)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook."""
        self._stop()

    def on_exception(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Lightning's hook."""
        self._stop()

    def _figures(self, module: lightning.LightningModule) -> str:
        seen: dict[str, float] = module.progress  # type: ignore[assignment]
        if "loss" not in seen:
            return ""
        rate = (seen["images"] - self._images_before) / (time.perf_counter() - self._epoch_began)
        return f"loss {seen['loss']:.4f} (mean {seen['mean_loss']:.4f})  {rate:.0f} images/s"

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _epoch(trainer: lightning.Trainer) -> str:
    last = trainer.max_epochs
    return f"epoch {trainer.current_epoch + 1}" + (f"/{last}" if last and last > 0 else "")
