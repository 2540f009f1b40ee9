"""Is one detector better than another? Differences on the images that both judged, and how sure they are.

The same images make two figures rise and fall together, so a difference is known far better than the two
intervals side by side suggest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
FEWEST = 10
"""Images of a class below which an AUROC's variance is not worth computing."""


@dataclass(frozen=True)
class Judged:
    """One run's test predictions, and the threshold (a logit) that it fitted on validation, if it did."""

    predictions: pa.Table
    threshold: float | None = None


@dataclass(frozen=True)
class Difference:
    """First minus second: the estimate, its 95 % interval over images, and p of `there is none`.

    p is two-sided and stands for this one comparison; NaN where it is undefined.
    """

    value: float
    low: float
    high: float
    p: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Paired:
    """Differences by the figure's name, and on how many images; the reason, where there are none.

    images: judged by all runs of both sides. of: by any of them.
    """

    differences: dict[str, Difference]
    images: int
    of: int
    reason: str = ""


def paired(first: Sequence[Judged], second: Sequence[Judged]) -> Paired:
    """`accuracy` (at logit 0), `accuracy_tuned` (each run at its own threshold) and `auroc`, first − second.

    Either side is one run, or several that differ in the seed only and whose figures are averaged: the
    interval then tells what other test images would do to the averages, not what other seeds would. Rows are
    matched by path. Accuracies: McNemar's exact test for one run a side, and the adjusted Wald interval of
    Bonett & Price ("Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data", 2012); averages take its normal test. AUROC: DeLong et al. (1988).
    """
    every = [*first, *second]
    labels, logits, of, reason = _aligned([judged.predictions for judged in every])
    if reason:
        return Paired({}, 0, of, reason)
    generated = labels == 1
    found: dict[str, Difference] = {}
    fitted = [judged.threshold for judged in every if judged.threshold is not None]
    for name, thresholds in (("accuracy", [0.0] * len(every)), ("accuracy_tuned", fitted)):
        if len(thresholds) < len(every):
            continue
        right = [
            (logit > threshold) == generated for logit, threshold in zip(logits, thresholds, strict=True)
        ]
        found[name] = _accuracy(right[: len(first)], right[len(first) :])
    if min(int(generated.sum()), int((~generated).sum())) >= FEWEST:
        found["auroc"] = _auroc(generated, logits[: len(first)], logits[len(first) :])
    return Paired(found, len(labels), of)


def _aligned(
    tables: Sequence[pa.Table],
) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.float32]], int, str]:
    """(labels [N], logits [N] of each table, images in any table, why they can't be matched, or nothing)."""
    paths = [table["path"].combine_chunks() for table in tables]
    of = len(pc.unique(pa.concat_arrays(paths)))
    none: tuple[npt.NDArray[np.int64], list[npt.NDArray[np.float32]]] = (np.empty(0, np.int64), [])
    if any(len(pc.unique(path)) < len(path) for path in paths):
        return *none, of, "a path stands in several rows of a run's predictions"
    shared = paths[0]
    for path in paths[1:]:
        shared = shared.filter(pc.is_in(shared, value_set=path))
    if not len(shared):
        return *none, of, "they have no test image in common"
    places = [pc.index_in(shared, value_set=path) for path in paths]
    labels = [table["label"].take(place).to_numpy() for table, place in zip(tables, places, strict=True)]
    if any((label != labels[0]).any() for label in labels[1:]):
        return *none, of, "the same paths have other labels, so they are other images"
    logits = [table["logit"].take(place).to_numpy() for table, place in zip(tables, places, strict=True)]
    known = labels[0] >= 0
    if not known.any():
        return *none, of, "none of their test images has a label"
    return labels[0][known], [logit[known] for logit in logits], of, ""


def _accuracy(first: Sequence[Bools], second: Sequence[Bools]) -> Difference:
    """first, second: which images each run judged rightly, [N] each."""
    gain = np.mean(first, axis=0) - np.mean(second, axis=0)
    # One made-up image for either side keeps the interval from closing where all images agree.
    padded = np.append(gain, [1.0, -1.0])
    centre = float(padded.mean())
    error = math.sqrt(float(padded.var()) / len(padded))
    if len(first) == len(second) == 1:
        p = mcnemar(int((gain > 0).sum()), int((gain < 0).sum()))
    else:
        p = _two_sided(centre / error)
    margin = _Z * error
    return Difference(float(gain.mean()), max(-1.0, centre - margin), min(1.0, centre + margin), p)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of equal accuracies, from the images that only one of two runs judged rightly.

    A fair coin's chance of a split at least as uneven (McNemar, 1947); 1 where they never differ.
    """
    total, least = only_first + only_second, min(only_first, only_second)
    if total == 0:
        return 1.0
    # log C(total, k) for k = 0 … least
    steps = np.log(total - np.arange(least)) - np.log(np.arange(least) + 1.0)
    logs = np.append(0.0, np.cumsum(steps)) - total * math.log(2)
    return min(1.0, 2 * float(np.exp(logs).sum()))


def _auroc(
    generated: Bools, first: Sequence[npt.NDArray[np.float32]], second: Sequence[npt.NDArray[np.float32]]
) -> Difference:
    """DeLong: an AUROC is a mean over either class, so differences and averages of AUROCs are, too."""
    fakes, reals = (
        np.mean([_components(generated, logit)[side] for logit in first], axis=0)
        - np.mean([_components(generated, logit)[side] for logit in second], axis=0)
        for side in (0, 1)
    )
    value = float(fakes.mean())
    error = math.sqrt(float(fakes.var(ddof=1)) / len(fakes) + float(reals.var(ddof=1)) / len(reals))
    if error == 0:
        return Difference(value, value, value, 1.0 if value == 0 else math.nan)
    margin = _Z * error
    return Difference(value, max(-1.0, value - margin), min(1.0, value + margin), _two_sided(value / error))


def _components(generated: Bools, logit: npt.NDArray[np.float32]) -> tuple[Floats, Floats]:
    """(share of real images below each generated one, share of generated ones above each real), ties half."""
    distinct, ranks = np.unique(logit, return_inverse=True)
    reals = np.bincount(ranks[~generated], minlength=len(distinct))
    fakes = np.bincount(ranks[generated], minlength=len(distinct))
    below = np.cumsum(reals) - reals / 2
    above = fakes.sum() - np.cumsum(fakes) + fakes / 2
    return below[ranks[generated]] / reals.sum(), above[ranks[~generated]] / fakes.sum()


_Z = NormalDist().inv_cdf(0.975)


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))
