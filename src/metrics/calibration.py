"""Do probabilities mean what they say? Reliability, expected calibration error, Brier score, log-likelihood.

Everything is numpy float64. Probabilities are of being generated, labels 0 (real) or 1 (generated). Without a
single row a score is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Binning = Literal["equal_width", "equal_mass"]


@dataclass(frozen=True)
class Reliability:
    """One row a bin that is not empty, in rising order of probability; all arrays [bins].

    lower, upper: edges of the bin. count: images in it (int64). confidence: their mean probability.
    frequency: the share of them that is generated; calibrated means frequency = confidence.
    """

    lower: Floats
    upper: Floats
    count: NDArray[np.int64]
    confidence: Floats
    frequency: Floats


def reliability(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15, binning: Binning = "equal_width"
) -> Reliability:
    """The reliability diagram as a table.

    `equal_width` cuts [0, 1] into `bins` intervals (lower, upper], the first with its lower edge;
    `equal_mass` cuts the sorted images into `bins` parts that differ by one image at most, except that equal
    probabilities stay together, and the edges are the probabilities at their ends.
    Raises ValueError for values outside [0, 1], other labels, or bins < 1.
    """
    p, y = _checked(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins={bins}: at least one bin is needed")
    order = np.argsort(p, kind="stable")
    p, y = p[order], y[order]
    if binning == "equal_mass":
        ends = np.unique(np.arange(bins + 1) * len(p) // bins)
        # A cut inside a run of equal values would make the result depend on the order of the rows.
        ends[1:] = np.searchsorted(p, p[ends[1:] - 1], side="right")
        ends = np.unique(ends)
        lower, upper = p[ends[:-1]], p[ends[1:] - 1]
    else:
        edges = np.linspace(0.0, 1.0, bins + 1)
        ends = np.searchsorted(p, edges, side="right")
        ends[0] = 0
        filled = np.diff(ends) > 0
        lower, upper = edges[:-1][filled], edges[1:][filled]
        ends = np.concatenate([ends[:1], ends[1:][filled]])
    count = np.diff(ends).astype(np.int64)
    starts = ends[:-1]
    if len(p) == 0:
        empty = np.empty(0)
        return Reliability(empty, empty, np.empty(0, np.int64), empty, empty)
    confidence = np.add.reduceat(p, starts) / count
    frequency = np.add.reduceat(y, starts) / count
    return Reliability(lower, upper, count, confidence, frequency)


def ece(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15, binning: Binning = "equal_width"
) -> float:
    """Expected calibration error: mean |confidence - frequency| over the bins, weighted by their counts.

    Naeini et al., AAAI 2015 (equal width); Nixon et al., CVPR workshops 2019 (equal mass).
    """
    table = reliability(probabilities, labels, bins, binning)
    if len(table.count) == 0:
        return float("nan")
    return float(np.average(np.abs(table.confidence - table.frequency), weights=table.count))


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared difference between probability and label, 0 to 1 (Brier, 1950)."""
    p, y = _checked(probabilities, labels)
    return float(np.mean((p - y) ** 2)) if len(p) else float("nan")


def nll(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean negative log-likelihood in nats, from logits, which do not saturate as probabilities do."""
    z = np.asarray(logits, dtype=np.float64)
    y = _labels(labels, z)
    return float(np.mean(np.logaddexp(0.0, -z * (2 * y - 1)))) if len(z) else float("nan")


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    p = np.asarray(probabilities, dtype=np.float64)
    inside = (p >= 0) & (p <= 1)
    if not inside.all():
        raise ValueError(f"probabilities must lie in [0, 1], found {p[~inside].flat[0]}")
    return p, _labels(labels, p)


def _labels(labels: ArrayLike, values: Floats) -> Floats:
    y = np.asarray(labels, dtype=np.float64)
    if values.ndim != 1 or y.shape != values.shape:
        raise ValueError(f"values {values.shape} and labels {y.shape} must be two equal vectors")
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, found {y[~np.isin(y, (0, 1))][0]}")
    return y
