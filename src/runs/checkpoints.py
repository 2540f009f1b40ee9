"""Checkpoints: when they are written, how they are written, and how they are read back.

A checkpoint describes itself: under `tapetum` it carries the resolved config and its metadata as plain data, so
that one file is enough to rebuild the model. It holds tensors and primitives only and is read with
`weights_only=True`.
"""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..errors import CheckpointError
from .directory import write_json

FORMAT = 1


def checkpoints(
    directory: Path,
    *,
    monitor: str | None,
    mode: str,
    top_k: int = 1,
    every_n_epochs: int | None = 1,
    every_n_steps: int | None = None,
    every_minutes: float | None = None,
) -> list[Callback]:
    """The callbacks that write `best.ckpt` (by the monitored value) and `last.ckpt`.

    top_k > 1 also keeps the runners-up as `top-epoch=…-step=….ckpt`. `last` is written every n epochs, optimizer
    steps or minutes, whichever are given, always behind a whole optimizer step.
    """
    common: dict[str, Any] = {
        "dirpath": directory,
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
    }
    found: list[Callback] = []
    if monitor is not None:
        found.append(ModelCheckpoint(filename="best", monitor=monitor, mode=mode, save_top_k=1, **common))
        if top_k > 1:
            name = "top-epoch={epoch}-step={step}"
            found.append(
                ModelCheckpoint(filename=name, monitor=monitor, mode=mode, save_top_k=top_k, **common)
            )
    last: dict[str, Any] = {"filename": "last", "save_top_k": 1, **common}
    if every_n_epochs:
        found.append(ModelCheckpoint(every_n_epochs=every_n_epochs, save_on_train_epoch_end=True, **last))
    if every_n_steps:
        found.append(ModelCheckpoint(every_n_train_steps=every_n_steps, **last))
    if every_minutes:
        found.append(ModelCheckpoint(train_time_interval=timedelta(minutes=every_minutes), **last))
    return found


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file, syncs, renames: a full disk or a kill leaves the previous checkpoint valid."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Lightning's hook; also writes the metadata as JSON beside the file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".tmp")
        try:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            write_json(path.with_suffix(".json"), checkpoint["tapetum"]["metadata"])
        except (
            OSError,
            RuntimeError,
        ) as error:  # torch reports a full disk as a RuntimeError of its zip writer
            unfinished.unlink(missing_ok=True)
            raise CheckpointError(
                f"the checkpoint {path} could not be written: {error}. The previous one is still valid: make room, "
                f"then continue with resume={path.parent.parent}"
            ) from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Lightning's hook; the JSON goes with its checkpoint."""
        super().remove_checkpoint(path)
        Path(path).with_suffix(".json").unlink(missing_ok=True)


class DescribeCheckpoint(Callback):
    """Puts config and metadata into every checkpoint."""

    def __init__(
        self, config: Mapping[str, Any], facts: Mapping[str, Any], monitor: str | None, mode: str
    ) -> None:
        self.config = dict(config)
        self.facts = dict(facts)
        self.monitor = monitor
        self.better = max if mode == "max" else min
        self.best: float | None = None

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Remember the best monitored value so far."""
        value = self._monitored(trainer)
        if value is not None and not trainer.sanity_checking and not math.isnan(value):
            self.best = value if self.best is None else self.better(self.best, value)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lightning's hook."""
        value = self._monitored(trainer)
        best = value if self.best is None else self.best if value is None else self.better(self.best, value)
        metrics = {name: float(tensor) for name, tensor in trainer.callback_metrics.items()}
        checkpoint["tapetum"] = {
            "format": FORMAT,
            "config": self.config,
            "metadata": {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "monitor": self.monitor,
                "monitored": value,
                "best": best,
                "metrics": metrics,
                **self.facts,
            },
        }

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook."""
        self.best = state_dict["best"]

    def _monitored(self, trainer: lightning.Trainer) -> float | None:
        value = None if self.monitor is None else trainer.callback_metrics.get(self.monitor)
        return None if value is None else float(value)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A tapetum checkpoint as Lightning wrote it, on the CPU; CheckpointError where it is damaged or foreign."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds pickled objects, which could run any code when loaded, and is refused: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged and can't be read: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, dict) or "tapetum" not in loaded:
        raise CheckpointError(
            f"{path} is not a checkpoint of tapetum. Weights of a published network are given as weights={path} "
            f"together with model=…"
        )
    if loaded["tapetum"]["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {loaded['tapetum']['format']}, this version reads {FORMAT}: "
            f"use the version of tapetum that wrote it (its environment.json names it)"
        )
    return loaded
