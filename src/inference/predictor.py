"""A trained model in Python: `tapetum.load(run).predict(paths)`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch

from ..errors import CheckpointError
from ..runs.directory import RunDirectory
from ..runs.loading import Which, load_module
from .answerer import Answerer
from .captioner import Captioner
from .detector import Predictor
from .embedder import Embedder, radiometry_of, takes_infrared
from .trained import Trained


def load(
    run_or_file: str | Path,
    which: Which = "best",
    device: str | torch.device | None = None,
    allow_targets: Sequence[str] = (),
) -> Trained:
    """The model of a run or checkpoint, ready to predict: a Predictor, Embedder, Captioner or Answerer.

    device: where it runs; None takes cuda, then mps, then cpu. allow_targets: packages of yours that the
    run was built from; a checkpoint can't allow them itself. Raises CheckpointError for a damaged, pickled
    or foreign file, ConfigError for a `_target_` that is not allowed.
    """
    loaded = load_module(run_or_file, which, allow=allow_targets)
    chosen = torch.device(device) if device is not None else best_device()
    return trained(loaded.module.to(chosen), loaded.config, loaded.metadata, loaded.file)


def trained(
    module: lightning.LightningModule,
    config: dict[str, Any],
    metadata: Mapping[str, Any],
    file: Path | None = None,
) -> Trained:
    """What the config's task makes of a module, on the module's device. file: its checkpoint in a run."""
    known = dict(metadata)
    if config["task"] == "retrieval":
        radiometry = radiometry_of(config)
        infrared = takes_infrared(known, radiometry)
        return Embedder(module, config, known, module.device, radiometry, infrared)
    if config["task"] == "captioning":
        return Captioner(module, config, known, module.device)
    kind = Answerer if config["task"] == "vlm" else Predictor
    return kind(module, config, known, module.device, None if file is None else _fitted_threshold(file))


def best_device() -> torch.device:
    """cuda, then mps, then cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _fitted_threshold(file: Path) -> float | None:
    """val/threshold of the run that a checkpoint lies in, if it is the checkpoint that the run ended with."""
    run = RunDirectory(file.absolute().parent.parent)
    if file.absolute().parent != run.checkpoints or not run.finished:
        return None
    if run.best_or_last() != file.absolute():
        return None
    value = run.read_metrics().get("val/threshold")
    if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
        raise CheckpointError(
            f"{run.metrics} says val/threshold={value!r}, which is no logit: remove the entry"
        )
    return value
