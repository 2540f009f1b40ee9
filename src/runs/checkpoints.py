"""Checkpoints: when they are written, how they are written, and how they are read back.

A checkpoint describes itself: under `tapetum` it carries the resolved config and its metadata as plain data,
so that one file is enough to rebuild the model. It holds tensors and primitives only and is read with
`weights_only=True`.
"""

from __future__ import annotations

import math
import os
import pickle
import shutil
import time
import zipfile
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from .. import __version__
from ..backbones.adapters import write_directory
from ..errors import CheckpointError
from .directory import write_json
from .shards import directories, is_sharded, read_shards

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

    top_k > 1 also keeps the runners-up as `top-epoch=…-step=….ckpt`. `last` is written every n epochs,
    optimizer steps or minutes, whichever are given, always behind a whole optimizer step.
    """
    common: dict[str, Any] = {
        "dirpath": directory,
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
    }
    found: list[Callback] = []
    if monitor is not None:
        common_best = {"monitor": monitor, "mode": mode, **common}
        found.append(WholeStepCheckpoint(filename="best", save_top_k=1, **common_best))
        if top_k > 1:
            name = "top-epoch={epoch}-step={step}"
            found.append(WholeStepCheckpoint(filename=name, save_top_k=top_k, **common_best))
    last: dict[str, Any] = {"filename": "last", "save_top_k": 1, **common}
    if every_n_epochs:
        found.append(WholeStepCheckpoint(every_n_epochs=every_n_epochs, save_on_train_epoch_end=True, **last))
    if every_n_steps:
        found.append(WholeStepCheckpoint(every_n_train_steps=every_n_steps, **last))
    if every_minutes:
        found.append(WholeStepCheckpoint(train_time_interval=timedelta(minutes=every_minutes), **last))
    return found


class WholeStepCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint, one of several in a run, that never saves between accumulated batches.

    Their gradients are in no checkpoint, so a run resumed from there would be another run.
    """

    @property
    def state_key(self) -> str:
        """Lightning's hook: `best` and `top` differ in nothing else."""
        return f"{super().state_key}, filename={self.filename}"

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Lightning's hook."""
        if not trainer.fit_loop._should_accumulate():
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file, syncs, renames: a full disk or a kill leaves the previous one valid."""

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
            if adapter := checkpoint["tapetum"].get("adapter"):
                write_directory(adapter_directory(path), adapter, checkpoint["state_dict"])
        except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as a RuntimeError
            raise not_written(path, error) from error
        finally:
            unfinished.unlink(missing_ok=True)
        own = checkpoint["tapetum"].get("shards", {}).get("directory")
        for shards in directories(path):  # those of the file that was replaced, and of saves that were killed
            if shards.name != own:
                shutil.rmtree(shards)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Lightning's hook; tensors that lie in shards are put together."""
        loaded: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
        return _with_shards(loaded, Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Lightning's hook; the JSON and the PEFT directory go with their checkpoint."""
        super().remove_checkpoint(path)
        Path(path).with_suffix(".json").unlink(missing_ok=True)
        shutil.rmtree(adapter_directory(Path(path)), ignore_errors=True)


def not_written(path: Path, error: BaseException) -> CheckpointError:
    """That a checkpoint could not be written, and what there still is."""
    whole = sorted(found.name for found in path.parent.glob("*.ckpt"))
    return CheckpointError(
        f"the checkpoint {path} could not be written: {_reason(error)}. "
        + (
            f"What was written before is still valid ({', '.join(whole)}): make room, then go on "
            f"with resume={path.parent.parent}"
            if whole
            else "It was the first: make room, then start again"
        )
    )


def adapter_directory(checkpoint: Path) -> Path:
    """Where the adapter of a checkpoint's network stands as PEFT itself reads it: `best-adapter/`."""
    return checkpoint.with_name(f"{checkpoint.stem}-adapter")


class DescribeCheckpoint(Callback):
    """Puts config and metadata into every checkpoint.

    The metadata says where the weights come from: `epoch` (from 0) and `step`, the `monitor`, its value as
    `monitored` and `best` so far, `metrics` (train/… over the steps of this epoch so far, val/… of the last
    validation), what `facts` holds (the Index's fingerprint), the version of tapetum and the time.

    began: when this process took the run up, by time.perf_counter.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        facts: Mapping[str, Any],
        monitor: str | None,
        mode: str,
        *,
        began: float | None = None,
    ) -> None:
        self.config = dict(config)
        self.facts = dict(facts)
        self.monitor = monitor
        self.better = max if mode == "max" else min
        self.best: float | None = None
        self._began = time.perf_counter() if began is None else began
        self._seconds_before = 0.0

    @property
    def seconds(self) -> float:
        """How long this process has worked on the run, and those before it up to the checkpoint resumed."""
        return self._seconds_before + time.perf_counter() - self._began

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
        logged = trainer.callback_metrics.items()
        metrics = {name: float(value) for name, value in logged if name not in ("step", "epoch")}
        metrics |= _of_this_epoch(trainer, module)
        checkpoint["tapetum"] = {
            "format": FORMAT,
            "config": self.config,
            "metadata": {
                "epoch": _epoch(trainer),
                "step": trainer.global_step,
                "monitor": self.monitor,
                "monitored": value,
                "best": best,
                "metrics": metrics,
                **self.facts,
                "tapetum": __version__,
                "time": datetime.now().astimezone().isoformat(timespec="seconds"),
            },
        }
        net: Any = getattr(module, "net", None)
        if hasattr(net, "peft_directory"):
            checkpoint["tapetum"]["adapter"] = net.peft_directory("net.")

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook."""
        return {"best": self.best, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook."""
        self.best = state_dict["best"]
        self._seconds_before = state_dict.get("seconds", 0.0)  # checkpoints of before it was kept

    def _monitored(self, trainer: lightning.Trainer) -> float | None:
        value = None if self.monitor is None else trainer.callback_metrics.get(self.monitor)
        return None if value is None else float(value)


def _epoch(trainer: lightning.Trainer) -> int:
    """The epoch that the weights are of; behind the last one, Lightning already counts the next."""
    progress = trainer.fit_loop.epoch_progress.current
    between = progress.ready == progress.completed
    return trainer.current_epoch - (1 if between and trainer.current_epoch else 0)


def _of_this_epoch(trainer: lightning.Trainer, module: lightning.LightningModule) -> dict[str, float]:
    """Training figures and learning rates as they are now: what Lightning keeps is of the last whole epoch.

    A checkpoint that is written after a validation or a step comes before the epoch's own figures.
    """
    module.flush()  # type: ignore[operator]  # every task's module has a StepBuffer
    here: dict[str, float] = module.train_figures()  # type: ignore[operator]
    every = torch.tensor(list(here.values()), device=module.device)
    seen = trainer.strategy.reduce(every, reduce_op="mean").tolist()
    rates: dict[str, float] = module.learning_rates()  # type: ignore[operator]
    figures = dict(zip(here, seen, strict=True))
    return {name: value for name, value in figures.items() if not math.isnan(value)} | rates


def read_checkpoint(path: str | Path, *, whole: bool = True) -> dict[str, Any]:
    """A tapetum checkpoint as Lightning wrote it, on the CPU.

    whole: also what lies in shards beside it; without, such tensors have no storage (`runs/shards.py`).
    Raises CheckpointError where it is missing, damaged, made of pickled objects, foreign or of another
    format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    _check_whole(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, ", ".join(_classes_in(path)))) from error
    except Exception as error:  # whole by its checksums, and still nothing that torch wrote
        raise CheckpointError(f"{path} is not a checkpoint of tapetum: {_reason(error)}") from error
    described = loaded.get("tapetum") if isinstance(loaded, dict) else None
    if not isinstance(described, dict):
        raise CheckpointError(
            f"{path} is not a checkpoint of tapetum. Weights of a published network are given as "
            f"weights={path} together with model=…"
        )
    if described.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {described.get('format')}, this version reads {FORMAT}: use the "
            f"version of tapetum that wrote it (its environment.json names it)"
        )
    checkpoint: dict[str, Any] = loaded
    return _with_shards(checkpoint, path) if whole else checkpoint


def _with_shards(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    if not is_sharded(checkpoint):
        return checkpoint
    return read_shards(checkpoint, path, lambda one: torch.empty_like(one, device="cpu"), together=False)


def _check_whole(path: Path) -> None:
    """CheckpointError unless every part of the zip archive has its checksum, at which torch does not look."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                first = file.read(2)
            if first[:1] == b"\x80":  # how every binary pickle begins, torch's files before 1.6 included
                raise CheckpointError(_refusal(path, "the whole file is one"))
            what = "it is empty" if not first else "its end or its beginning is missing"
            raise CheckpointError(_damage(path, what))
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged header raises half a dozen kinds
        raise CheckpointError(_damage(path, _reason(error))) from error
    if broken is not None:
        raise CheckpointError(_damage(path, f"wrong checksum in its part {broken}"))


def _classes_in(path: Path) -> list[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it only adds names to a refusal that stands
        return ["of unknown classes"]


def _damage(path: Path, reason: str) -> str:
    return (
        f"{path} is damaged and can't be read: {reason}. Take another checkpoint of the run, "
        f"{path.parent / 'last.ckpt'} or {path.parent / 'best.ckpt'}, or copy the file again"
    )


def _refusal(path: Path, what: str) -> str:
    return (
        f"{path} holds pickled objects ({what}), which could run any code when loaded, and is refused: give "
        f"a file of tensors alone, such as safetensors or a torch.save of a state dict"
    )


def _reason(error: BaseException) -> str:
    """The first line of what a library said, or the kind of error where it said nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
