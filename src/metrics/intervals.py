"""How sure a figure is: confidence intervals for proportions and for any statistic of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson, 1927) as (low, high) in [0, 1]; NaN when n = 0."""
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials")
    if n == 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    margin = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and n the closed form is exact but rounding is not.
    low = 0.0 if successes == 0 else (centre - margin) / scale
    high = 1.0 if successes == n else (centre + margin) / scale
    return low, high


def bootstrap(
    fn: Callable[..., float],
    arrays: Sequence[NDArray[Any]],
    clusters: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval (low, high) of `fn(*arrays)` over `n` resamples of the rows (Efron, 1979).

    arrays: arrays with equal first dimension [N, ...], resampled together.
    clusters: [N], rows with equal values are drawn together (a real image shared by several generators must
        not count as several independent ones); None draws single rows.
    Resamples for which `fn` is NaN (one class only) do not enter the percentiles; bounds are NaN if all are.
    """
    rows = len(arrays[0])
    if any(len(array) != rows for array in arrays):
        raise ValueError(f"arrays of different lengths: {[len(array) for array in arrays]}")
    if rows == 0:
        return math.nan, math.nan
    keys = np.arange(rows) if clusters is None else np.asarray(clusters)
    if keys.shape != (rows,):
        raise ValueError(f"clusters {keys.shape} must name one cluster for each of {rows} rows")
    _, cluster_of, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    by_cluster = np.argsort(cluster_of, kind="stable")
    starts = np.cumsum(sizes) - sizes
    generator = np.random.default_rng(seed)
    values = np.empty(n)
    for draw in range(n):
        drawn = generator.integers(len(sizes), size=len(sizes))
        chosen = by_cluster[_ranges(starts[drawn], sizes[drawn])]
        values[draw] = fn(*(array[chosen] for array in arrays))
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ranges start ... start + length - 1, one after another."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())
