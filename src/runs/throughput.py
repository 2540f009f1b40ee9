"""How fast training went and how much memory it took, once an epoch."""

from __future__ import annotations

import resource
import time
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback


class Throughput(Callback):
    """Logs `speed/images_per_second`, `speed/data_wait`, `speed/epoch_seconds` and `memory/peak_gb`.

    data_wait is the share of the time that was spent waiting for batches. Validation counts in neither, but
    in epoch_seconds, the whole epoch by the clock (of a resumed epoch, what this process did). Memory is the
    device's on CUDA and the process's elsewhere.
    """

    def __init__(self) -> None:
        self._epoch_began = 0.0
        self._training = self._waiting = 0.0
        self._batch_began = self._batch_ended = 0.0
        self._images = 0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook; a run that is resumed in the middle of an epoch has no other."""
        self.on_train_epoch_start(trainer, module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook."""
        self._training = self._waiting = 0.0
        self._images = 0
        self._epoch_began = self._batch_ended = time.perf_counter()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's hook."""
        self._batch_began = time.perf_counter()
        self._waiting += self._batch_began - self._batch_ended

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Lightning's hook."""
        self._batch_ended = time.perf_counter()
        self._training += self._batch_ended - self._batch_began
        self._images += len(batch["index"])

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook: time spent validating inside an epoch is not time spent waiting for data."""
        self._batch_ended = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook."""
        total = self._training + self._waiting
        figures = {
            "speed/epoch_seconds": time.perf_counter() - self._epoch_began,
            "memory/peak_gb": peak_memory_gb(),
        }
        if total:  # else the run was resumed behind the epoch's last step
            figures["speed/images_per_second"] = self._images * trainer.world_size / total
            figures["speed/data_wait"] = self._waiting / total
        module.log_dict(figures)


def peak_memory_gb() -> float:
    """Highest memory use so far, in 10⁹ bytes: of the CUDA device if one is in use, else of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
