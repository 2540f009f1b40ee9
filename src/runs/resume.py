"""Going on where a run stopped, bit by bit the same.

What a step draws is derived from (seed, epoch, index); what remains is the state of torch's generators
(dropout), which travels in the checkpoint. A resumed run must be the same run: only how long it lasts,
where it runs and who is told may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from ..errors import ConfigError, TapetumError
from .checkpoints import read_checkpoint
from .directory import RunDirectory, open_run, unfinished_runs

MAY_CHANGE = (
    "resume",
    "paths",
    "logger",
    "launcher",
    "data.num_workers",
    "data.root",
    "data.roots",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.log_every_n_steps",
    "train.timeout_minutes",
    "train.report",
)
"""Keys that a resumed run may set anew; the Index's fingerprint guards what lies behind data.root."""


ABSENT = "no such key"
"""In place of the value of a key that one of two configs lacks."""


class GeneratorState(Callback):
    """Carries the states of torch's generators through a checkpoint.

    They are given back at the first training batch, not earlier: what Lightning does in between draws too.
    The hook for it is there only then, so that other steps pay nothing.
    """

    def __init__(self) -> None:
        self._states: dict[str, torch.Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        """uint8 tensors, one a generator; those that a run goes on with, as long as it has drawn nothing."""
        if self._states is not None:
            return self._states
        states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            states["cuda"] = torch.cuda.get_rng_state()
        return states

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook."""
        self._states = state_dict
        setattr(self, "on_train_batch_start", self._restore)  # noqa: B010  # a method, says mypy

    def _restore(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._states is not None:
            torch.set_rng_state(self._states["cpu"])
            if "cuda" in self._states and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._states["cuda"])
        self._states = None
        setattr(self, "on_train_batch_start", None)  # noqa: B010


class DueValidation(Callback):
    """A checkpoint behind a step that a validation follows goes on with that validation.

    Lightning takes the validation for done when it restarts from such a checkpoint, so that a run that was
    cut there would lose the epoch's figures, its best weights and its part in early stopping. What is
    written is therefore what Lightning writes in the middle of a validation, which it begins again. Where
    nothing is trained any more (trainer.max_steps is reached) it begins nothing, and where a clock decides
    (trainer.val_check_interval as a time) nobody knows what comes.
    """

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook: the count in which the middle of a validation was written is right again."""
        total: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
        total.ready = total.started = total.completed

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lightning's hook."""
        loop: Any = trainer.fit_loop.epoch_loop
        steps = loop.batch_progress.current
        behind_a_step = steps.completed == steps.processed - 1
        counted = trainer._val_check_time_interval is None and not trainer.should_stop  # type: ignore[attr-defined]
        goes_on = trainer.max_steps == -1 or trainer.global_step < trainer.max_steps
        if not (behind_a_step and counted and goes_on):
            return
        if not loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
            return
        loops = checkpoint["loops"]["fit_loop"]
        for name in ("total", "current"):
            done = loops["epoch_loop.batch_progress"][name]
            done["completed"] = done["processed"]
        validation = loops["epoch_loop.val_loop.batch_progress"]
        validation["current"] |= {"processed": 0, "completed": 0}
        for batches in (validation["total"], validation["current"]):
            batches |= {"ready": batches["completed"] + 1, "started": batches["completed"] + 1}


def begins_with_validation(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a run goes on from a checkpoint with a validation, because of `DueValidation`."""
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["current"]
    return bool(batches["ready"] > batches["completed"])


def find_resumed(resume: str, config: Mapping[str, Any]) -> tuple[RunDirectory, Path] | None:
    """The run and checkpoint that `resume=auto|<run>|<checkpoint>` means; None where auto finds nothing to
    resume.

    Raises ConfigError naming every key that differs from the run's own config and may not, and TapetumError
    where the run has no checkpoint yet.
    """
    if resume == "auto":
        outputs = Path(config["paths"]["outputs"])
        for run in unfinished_runs(outputs, config["task"], config["name"]):
            if not differences(run.read_config(), config):
                return run, run.checkpoint("last")
        return None
    run = open_run(resume)
    changed = differences(run.read_config(), config)
    if changed:
        raise ConfigError(
            [
                f"{key}={_said(new)}, but the run that resume={resume} continues has {_said(old)}: leave it "
                f"as it was, or start a new run from its weights with weights={resume}"
                for key, (old, new) in changed.items()
            ]
        )
    file = Path(resume) if Path(resume).suffix == ".ckpt" else run.checkpoint("last")
    return run, file


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ between two configs and may not between a run and its continuation."""
    before, after = flatten(old), flatten(new)
    found = {}
    for key in sorted(set(before) | set(after)):
        if any(key == free or key.startswith(free + ".") for free in MAY_CHANGE):
            continue
        if before.get(key) != after.get(key):  # without a key is as with null
            found[key] = (before.get(key, ABSENT), after.get(key, ABSENT))
    return found


def _said(value: Any) -> str:
    return value if value is ABSENT else repr(value)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping of dotted keys; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def check_index(checkpoint: Path, fingerprint: str) -> dict[str, Any]:
    """The checkpoint, without what lies in shards, once it is sure that it was written on the same Index.

    TapetumError otherwise.
    """
    loaded = read_checkpoint(checkpoint, whole=False)
    before = loaded["tapetum"]["metadata"]["index"]
    if before != fingerprint:
        raise TapetumError(
            f"the data changed since {checkpoint} was written (index {before} then, {fingerprint} now), and "
            f"a resumed run must see the same images: bring the files back, or start a new run with "
            f"weights={checkpoint}"
        )
    return loaded
