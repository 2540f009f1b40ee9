"""From a probability to words: what the detector says, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError


@dataclass(frozen=True)
class Thresholds:
    """Cut points on the probability of being generated, 0 <= low <= classification <= high <= 1.

    classification: at or above it the verdict is `generated`, below it `real`.
    high, low: at or above `high`, and at or below `low`, confidence is high; between them uncertain.
    Raises ConfigError when they are out of order.
    """

    classification: float = 0.5
    high: float = 0.8
    low: float = 0.3

    def __post_init__(self) -> None:
        values = (self.low, self.classification, self.high)
        if (
            any(math.isnan(value) for value in values)
            or list(values) != sorted(values)
            or values[0] < 0
            or values[2] > 1
        ):
            raise ConfigError(
                f"thresholds.low={self.low}, thresholds.classification={self.classification}, "
                f"thresholds.high={self.high}: must be in this order, within 0 and 1, "
                "such as thresholds.low=0.3 thresholds.classification=0.5 thresholds.high=0.8"
            )

    def verdict(self, probability: ArrayLike) -> NDArray[np.str_]:
        """`generated` or `real` for each probability in [0, 1], any shape; ValueError if NaN."""
        p = _checked(probability)
        return np.where(p >= self.classification, "generated", "real")

    def band(self, probability: ArrayLike) -> NDArray[np.str_]:
        """`high` or `uncertain` (confidence) for each probability in [0, 1], any shape; ValueError if NaN."""
        p = _checked(probability)
        return np.where((p >= self.high) | (p <= self.low), "high", "uncertain")


def _checked(probability: ArrayLike) -> NDArray[np.floating]:
    # The dtype is kept: a float32 0.3 is then at `low`, while as a float64 it would lie just above.
    p = np.asarray(probability)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1]")
    return p
