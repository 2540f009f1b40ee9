"""What a training step costs beyond the network: our loop beside Lightning's barest one.

The same MLP, fixed batch, AdamW and cosine schedule three times: a plain loop, a minimal LightningModule
under `Trainer(barebones=True)`, and DetectionModule with what `tapetum train` puts around it: progress bar,
metrics.csv, checkpoints, early stopping, throughput, signal handling. No gradient clipping. Measured between
two batches of one epoch, so set-up, validation and saving are outside.

Goal: at most 0.2 ms of processor time a step over barebones.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import lightning
import torch
from _timing import Goal, conclude, interleaved, quick, table
from lightning.pytorch.callbacks import EarlyStopping
from rich.console import Console
from tapetum.images.geometry import InputSpec
from tapetum.images.normalize import Normalize
from tapetum.modules.detection import DetectionModule
from tapetum.modules.losses import BinaryCrossEntropy
from tapetum.optim.build import build_optimizer, build_scheduler
from tapetum.optim.schedules import Horizon, cosine
from tapetum.runs.checkpoints import AtomicCheckpointIO, DescribeCheckpoint, checkpoints
from tapetum.runs.history import MetricsCsv
from tapetum.runs.hooks import skip_empty_hooks
from tapetum.runs.interrupt import StopOnSignal
from tapetum.runs.progress import TrainingProgress
from tapetum.runs.resume import GeneratorState
from tapetum.runs.throughput import Throughput
from torch import Tensor, nn
from torch.nn import functional as F

BAR_MS = 0.2
BATCH, SIDE, WIDTH = 32, 12, 256
ADAMW = partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.01)
MONITOR = "val/auroc"


class MLP(nn.Module):
    """Images uint8 [B, 3, 12, 12] to logits float32 [B] through two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(SIDE, SIDE), resize="squash")
        self.normalize = Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * SIDE * SIDE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
            nn.Linear(WIDTH, 1),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.normalize(images)).squeeze(1)


class FixedBatch:
    """The same batch over and over; remembers the processor time from batch `warm` to the last."""

    def __init__(self, steps: int, warm: int) -> None:
        self.steps, self.warm = steps, warm
        generator = torch.Generator().manual_seed(0)
        self.batch = {
            "images": torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator),
            "index": torch.arange(BATCH),
            "labels": torch.arange(BATCH) % 2,
            "generators": torch.arange(BATCH) % 2 - 1,
        }
        self.seconds = 0.0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        began = 0.0
        for number in range(self.steps):
            if number == self.warm:
                began = time.process_time()
            if number == self.steps - 1:
                self.seconds = time.process_time() - began
            yield self.batch

    @property
    def microseconds(self) -> float:
        """Processor time of a step."""
        return self.seconds / (self.steps - 1 - self.warm) * 1e6


class FixedData(lightning.LightningDataModule):
    """The fixed batch where a run has its data, and two batches to validate on."""

    def __init__(self, batches: FixedBatch) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> FixedBatch:
        return self.batches

    def val_dataloader(self) -> FixedBatch:
        return FixedBatch(2, 0)


class Minimal(lightning.LightningModule):
    """What Lightning can't do without."""

    def __init__(self, net: nn.Module, steps: int) -> None:
        super().__init__()
        self.net, self.steps = net, steps

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.net(batch["images"]), batch["labels"].float())

    def configure_optimizers(self) -> Any:
        optimizer, schedule = _optimised(self.net, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> int:
    """Run the three loops in turns and compare their steps."""
    small = quick(__doc__)
    steps, warm, repeats = (40, 10, 1) if small else (620, 100, 7)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    with TemporaryDirectory() as folder:
        loops: dict[str, Callable[[], float]] = {
            "plain loop": partial(plain, steps, warm),
            "Lightning, barebones": partial(barebones, steps, warm),
            "tapetum": partial(ours, steps, warm, Path(folder)),
        }
        found = interleaved(loops, repeats)
    raw = median(found["plain loop"])
    differences = {
        name: median(a - b for a, b in zip(values, found["plain loop"], strict=True))
        for name, values in found.items()
    }
    table(
        f"MLP, batch {BATCH}, AdamW, cosine: CPU µs a step, {steps - 1 - warm} steps, median of {repeats}",
        ["loop", "a step", "over the plain loop", "times the plain loop"],
        [
            [name, f"{median(values):.0f}", f"{differences[name]:.0f}", f"{1 + differences[name] / raw:.2f}"]
            for name, values in found.items()
        ],
    )
    pairs = list(zip(found["tapetum"], found["Lightning, barebones"], strict=True))
    ratio = median(a / b for a, b in pairs)
    table("tapetum / Lightning, barebones", ["", "ratio"], [["a whole step", f"{ratio:.3f}"]])
    return conclude(
        [Goal("CPU a step over barebones", median(a - b for a, b in pairs) / 1000, "<=", BAR_MS, "ms")],
        quick=small,
    )


def plain(steps: int, warm: int) -> float:
    """µs a step of a loop without any framework."""
    net, batches = MLP(), FixedBatch(steps, warm)
    optimizer, schedule = _optimised(net, steps)
    for batch in batches:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(net(batch["images"]), batch["labels"].float()).backward()
        optimizer.step()
        schedule.step()
    return batches.microseconds


def barebones(steps: int, warm: int) -> float:
    """µs a step under Lightning with everything switched off."""
    batches = FixedBatch(steps, warm)
    with _muted():
        trainer = lightning.Trainer(barebones=True, accelerator="cpu", devices=1, max_epochs=1)
        trainer.fit(Minimal(MLP(), steps), batches)
    return batches.microseconds


def ours(steps: int, warm: int, folder: Path) -> float:
    """µs a step as `tapetum train` wires it, with the bar drawn into nowhere."""
    batches = FixedBatch(steps, warm)
    module = DetectionModule(
        MLP(),
        loss=BinaryCrossEntropy(),
        optimizer=ADAMW,
        scheduler=partial(cosine, warmup_epochs=0),
        monitor=MONITOR,
    )
    history = folder / "metrics.csv"
    history.unlink(missing_ok=True)
    with _muted(), Path(os.devnull).open("w") as nowhere:
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            log_every_n_steps=20,
            callbacks=[
                DescribeCheckpoint({}, {}, MONITOR, "max"),
                GeneratorState(),
                Throughput(),
                TrainingProgress(Console(file=nowhere, force_terminal=True), MONITOR),
                StopOnSignal(folder / "last.ckpt"),
                EarlyStopping(MONITOR, mode="max", patience=3),
                *checkpoints(folder, monitor=MONITOR, mode="max"),
            ],
            logger=MetricsCsv(history),
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        skip_empty_hooks(trainer.callbacks)  # type: ignore[attr-defined]
        trainer.fit(module, datamodule=FixedData(batches))
    if not history.is_file():
        raise RuntimeError("metrics.csv was not written: the loop that was measured did not log")
    return batches.microseconds


def _optimised(net: nn.Module, steps: int) -> tuple[Any, Any]:
    optimizer = build_optimizer(ADAMW, net)
    horizon = Horizon(total_steps=steps, steps_per_epoch=steps)
    return optimizer, build_scheduler(
        partial(cosine, warmup_epochs=0), optimizer, horizon=horizon, mode="max"
    )


class _muted:
    """Lightning's lines about devices and its advice stay out of the table."""

    def __enter__(self) -> None:
        import logging

        self.loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
        self.before = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *error: object) -> None:
        for logger, level in zip(self.loggers, self.before, strict=True):
            logger.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
