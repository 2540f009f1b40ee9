"""A detector in Python: `tapetum.load(run).predict(paths)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..modules.detection import DetectionModule
from .detect import answers
from .items import InfraredItem, Item, read_item
from .output import SCHEMA
from .stream import Answering
from .trained import Trained
from .verdicts import Rule, Threshold, choose_rule


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

    def without_threshold(self) -> Self:
        """The same without `fitted_threshold`."""
        return replace(self, fitted_threshold=None)

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
