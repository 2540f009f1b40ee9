"""Queries that the gallery may lack: accept an answer only above a similarity, and count what that costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FALSE_POSITIVE_RATES = (0.01, 0.001)


@dataclass(frozen=True)
class OperatingPoint:
    """Accept the answers above `threshold` (similarity, compared with `>`).

    fpr: the share of unknown queries that are accepted, at most what was asked for. tpr: the share of known
    queries that are accepted *and* named rightly.
    """

    threshold: float
    fpr: float
    tpr: float


@dataclass(frozen=True)
class RejectionCurve:
    """One entry for every distinct best similarity, falling; float64 [T].

    threshold: answers at or above it are accepted. coverage: their share of all queries. accuracy: the share
    of them that is right; an unknown query is never.
    """

    threshold: Tensor
    coverage: Tensor
    accuracy: Tensor


def open_set(similarity: Tensor, hits: Tensor, known: Tensor, fpr: float) -> OperatingPoint:
    """The lowest threshold that accepts at most the share `fpr` of the unknown queries.

    similarity: float [Q], the best similarity of each query, -inf where it has none. hits, known: bool [Q],
    as `Answers.hits` and `Answers.known`. This is identification with a gallery that is not complete
    (detection and identification rate at rank 1 over false alarm rate; Phillips, Grother and Micheals,
    Handbook of Face Recognition, 2011, section 21.3). With fewer than 1 / `fpr` unknown queries none of them
    may pass; without any unknown query everything is NaN, and without a known one the tpr.
    Raises ValueError for a rate outside [0, 1).
    """
    if not 0 <= fpr < 1:
        raise ValueError(f"fpr={fpr}: a share of unknown queries, at least 0 and below 1")
    strangers = similarity[~known].double().sort(descending=True).values
    if not len(strangers):
        return OperatingPoint(math.nan, math.nan, math.nan)
    # The product of a share and a count may lie a rounding error below the count that is meant.
    threshold = float(strangers[math.floor(fpr * len(strangers) + 1e-9)])
    accepted = similarity.double() > threshold
    return OperatingPoint(
        threshold,
        fpr=float(accepted[~known].double().mean()),
        tpr=float((accepted & hits)[known].double().mean()),
    )


def open_set_figures(
    similarity: Tensor, hits: Tensor, known: Tensor, rates: Sequence[float] = FALSE_POSITIVE_RATES
) -> dict[str, float]:
    """`open_set/{tpr,fpr,threshold}_at_<rate>` for each rate; nothing where there is no unknown query."""
    if bool(known.all()):
        return {}
    found = {}
    for rate in rates:
        point = open_set(similarity, hits, known, rate)
        for name in ("tpr", "fpr", "threshold"):
            found[f"open_set/{name}_at_{rate:g}"] = getattr(point, name)
    return found


def rejection_curve(similarity: Tensor, hits: Tensor) -> RejectionCurve:
    """How right the answers are that are left when the least similar ones are rejected.

    similarity: float [Q], the best similarity of each query; hits: bool [Q], False for unknown queries.
    """
    order = similarity.argsort(descending=True)
    score, right = similarity[order].double(), hits[order].cumsum(0)
    last = torch.ones_like(score, dtype=torch.bool)
    last[:-1] = score[1:] != score[:-1]
    accepted = torch.arange(1, len(score) + 1, device=score.device)[last]
    return RejectionCurve(score[last], accepted.double() / len(score), right[last].double() / accepted)
