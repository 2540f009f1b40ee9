"""From a logit to words: at which threshold, and how sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError, did_you_mean
from ..metrics.thresholds import Thresholds

Threshold = Literal["config", "fitted"] | float
"""Where verdicts change: `config` takes thresholds.classification, `fitted` what validation chose, a number
is a probability."""


@dataclass(frozen=True)
class Rule:
    """What makes a verdict and a band of a logit.

    thresholds: of the config. fitted: a logit, above which the verdict is `generated`, or given: a
    probability, from which on it is; both None leave it to thresholds.classification.
    """

    thresholds: Thresholds
    fitted: float | None = None
    given: float | None = None

    def judge(self, logits: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        """probability float32, verdict (generated, real) and band (high, uncertain) of finite logits [n].

        A band is never high against the verdict: a threshold of another origin than thresholds.high and low
        may lie beyond them, and what lies between is uncertain.
        """
        # Verdicts come of the logits and of float64: a float32 probability is 1 from a logit of 17 on.
        probability = torch.from_numpy(logits).double().sigmoid().numpy()
        verdict, band = self.thresholds.verdict(probability), self.thresholds.band(probability)
        if self.fitted is not None or self.given is not None:
            above = logits > self.fitted if self.fitted is not None else probability >= self.given
            verdict = np.where(above, "generated", "real")
            sure = np.where(above, probability >= self.thresholds.high, probability <= self.thresholds.low)
            band = np.where(sure, "high", "uncertain")
        return {"probability": probability.astype(np.float32), "verdict": verdict, "band": band}

    def __str__(self) -> str:
        own = self.thresholds
        cut_of_config = f"{own.classification:g}"
        cut, said = own.classification, f"at p ≥ {own.classification:g} (model.thresholds.classification)"
        if self.fitted is not None:
            cut = float(torch.tensor(self.fitted, dtype=torch.float64).sigmoid())
            said = (
                f"above p = {cut:.4g} (fitted on the run's validation, threshold=config is {cut_of_config})"
            )
        elif self.given is not None:
            cut, said = self.given, f"at p ≥ {self.given:g} (threshold={self.given:g})"
        between = ""
        if cut > own.high:
            between = f"; also from {own.high:g} to {cut:.4g}, where the verdict is real"
        elif cut < own.low:
            between = f"; also from {cut:.4g} to {own.low:g}, where the verdict is generated"
        return f"generated {said}; band high at p ≥ {own.high:g} and p ≤ {own.low:g}, else uncertain{between}"


def choose_rule(threshold: Threshold | None, thresholds: Thresholds, fitted: float | None) -> Rule:
    """The rule that `threshold` means; None is `fitted` where there is one, else `config`.

    fitted: the logit that validation chose, None where it chose none. Raises ConfigError for `fitted` without
    one, and for anything else that is not `config` or a probability.
    """
    if threshold is None:
        return Rule(thresholds, fitted=fitted)
    if threshold == "config":
        return Rule(thresholds)
    if threshold == "fitted":
        if fitted is None:
            raise ConfigError(
                "threshold=fitted, but validation has fitted none for these weights: the run has not "
                "finished, has no validation split with both classes, or tested another checkpoint. Type "
                f"threshold=config ({thresholds.classification:g}) or a probability such as threshold=0.7"
            )
        return Rule(thresholds, fitted=fitted)
    if isinstance(threshold, str) or not 0 <= threshold <= 1:
        near = did_you_mean(str(threshold), ("config", "fitted"))
        raise ConfigError(
            f"unknown value threshold={threshold}{near or ':'} it is config, fitted or a probability from 0 "
            "to 1"
        )
    return Rule(thresholds, given=float(threshold))
