"""A trained model in Python: `tapetum.load(run).predict(paths)`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import CheckpointError, ConfigError
from ..modules.detection import DetectionModule
from ..runs.directory import RunDirectory
from ..runs.loading import Which, load_module
from .captioner import Captioner
from .detect import answers
from .embedder import Embedder, radiometry_of, takes_infrared
from .items import InfraredItem, Item, read_item
from .output import SCHEMA
from .stream import Answering
from .trained import Trained
from .verdicts import Rule, Threshold, choose_rule


def load(
    run_or_file: str | Path,
    which: Which = "best",
    device: str | torch.device | None = None,
    allow_targets: Sequence[str] = (),
) -> Trained:
    """The model of a run or checkpoint, ready to predict: by its task a Predictor, an Embedder, a Captioner.

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
    fitted = None if file is None else _fitted_threshold(file)
    return Predictor(module, config, known, module.device, fitted)


@dataclass(frozen=True)
class Predictor(Trained):
    """A detector: `logit, probability, verdict, band` of images.

    fitted_threshold: the logit above which these weights say `generated`, chosen on the run's validation
        split; None where there is none.

    threshold, wherever it is taken: where the verdict changes, `config` for model.thresholds.classification,
    `fitted`, a probability, or None: fitted if there is one, else config. Arrays are uint8 [H, W] or
    [H, W, 3].
    """

    fitted_threshold: float | None = None

    def rule(self, threshold: Threshold | None = None) -> Rule:
        """What makes verdicts and bands of logits; as text it says at which thresholds."""
        return choose_rule(threshold, cast(DetectionModule, self.module).thresholds, self.fitted_threshold)

    def described(self, threshold: Threshold | None = None) -> str:
        """The rule."""
        return str(self.rule(threshold))

    def answering(self, threshold: Threshold | None = None) -> Answering:
        """Logits, and what the rule says of them."""
        module = cast(DetectionModule, self.module)
        rule = self.rule(threshold)
        return Answering(
            read=partial(read_item, spec=module.input_spec, backend=self.config["data"]["decoder"]),
            answer=partial(answers, module, device=self.device),
            shape=(),
            fields=list(SCHEMA)[1:],
            columns=lambda logits: {"logit": logits, **rule.judge(logits)},
        )

    def embed(
        self, images: Sequence[Item | InfraredItem], batch_size: int = 32, *, workers: int | None = None
    ) -> NDArray[np.float32]:
        """Raises ConfigError: a detector has no embeddings."""
        raise ConfigError(
            "this model detects: it says real or generated, and has no embeddings. Type .predict(images), or "
            "load a run of retrieval (python train.py model=small_embedder)"
        )


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
