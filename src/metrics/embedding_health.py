"""Do embeddings still say anything? What accuracy hides: length, spread, directions in use, collapse.

A collapsed network maps every image to almost the same point, and the triplet loss then rests at its margin.
The nearest of almost equal vectors are still those of the nearest pixels, so accuracy does not show it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import DataError, TrainingError

POINT, NARROW, ROUND = 0.015, 0.06, 0.4
"""Unit vectors count as collapsed where their root mean square distance from their mean (`spread`) is below
POINT, or below NARROW while their effective rank is above ROUND of what it can be.

Measured on InfraredSolarModules, validation images, batch-hard with margin 0.3 from scratch at lr 1e-3:
4 convolutions, 128-d: spread 0.068 after 20 steps (loss 0.37), 0.032 after 40 (0.32), 0.0096 after 150
(0.304), 0.0046 after 400 (0.302), effective rank 0.5 to 0.75 of 128; ResNet-10, 512-d: 0.055 after 80 steps
(0.315), 0.038 after 150 (0.308), effective rank 0.6 of 512. Training shrinks all that tells images apart and
leaves a small round ball. Networks that were never trained form a narrow cone too, but it is wider or has a
shape: spread 0.085 to 0.34 for ResNets, or 0.017 to 0.12 where the input is not normalised, effective rank at
most 0.25 of D. Semi-hard training keeps a spread of 0.6 to 0.9.
"""
CONSTANT_DEVIATION = 1e-6
_ROWS = 4096  # converted to double precision at once


@dataclass(frozen=True)
class EmbeddingHealth:
    """Figures of N embeddings of D dimensions; all but `norm` are of their L2-normalised vectors.

    norm: mean length, 1 for an embedder as it should be. std: mean standard deviation of a dimension, about
    1/sqrt(D) where the vectors fill the sphere. spread: root mean square distance from their mean, 0 (all
    equal) to 1. mean_cosine: over all pairs of different rows. effective_rank: exponential of the entropy of
    the singular values of the centred vectors, 0 (all equal) to D (Roy and Vetterli, EUSIPCO 2007).
    constant_dimensions: share of dimensions whose deviation is at most 1e-6. intra, inter: mean cosine
    distance 1 - cos of pairs of one class and of two; NaN without labels or without such a pair. collapsed,
    and the reason in words, empty where it is not.
    """

    norm: float
    std: float
    spread: float
    mean_cosine: float
    effective_rank: float
    constant_dimensions: float
    intra: float
    inter: float
    collapsed: bool
    reason: str

    def figures(self) -> dict[str, float]:
        """Flat, by the names that metrics have: `embedding/std`, …, `embedding/collapsed` (0 or 1)."""
        names = (
            "norm",
            "std",
            "spread",
            "mean_cosine",
            "effective_rank",
            "constant_dimensions",
            "intra",
            "inter",
        )
        return {f"embedding/{name}": float(getattr(self, name)) for name in (*names, "collapsed")}


def embedding_health(embeddings: Tensor, labels: Tensor | None = None) -> EmbeddingHealth:
    """The health of float [N, D] on any device, N at least 2; labels: int64 [N].

    Everything is exact and in double precision, without looking at a pair: the sum of x·y over all pairs is
    |sum x|^2 less the squares. Raises DataError for fewer than two rows, TrainingError for one that is not
    finite (naming it), ValueError for shapes that do not fit.
    """
    _check(embeddings, labels)
    count, dimensions = embeddings.shape
    groups = torch.zeros(count, dtype=torch.int64) if labels is None else labels
    member = torch.unique(groups.cpu(), return_inverse=True)[1]
    sizes = torch.bincount(member).double()
    lengths, squares = torch.zeros(count).double(), torch.zeros(count).double()
    sums = torch.zeros(len(sizes), dimensions, dtype=torch.float64)
    for rows, vectors in _doubles(embeddings):
        lengths[rows] = vectors.norm(dim=1).cpu()
        units = normalize(vectors)
        squares[rows] = units.square().sum(dim=1).cpu()
        sums.index_add_(0, member[rows], units.cpu())
    total = sums.sum(dim=0)
    covariance: Tensor = torch.zeros(dimensions, dimensions, dtype=torch.float64)
    for _, vectors in _doubles(embeddings):
        centred = normalize(vectors) - (total / count).to(vectors.device)
        covariance = covariance.to(vectors.device) + centred.T @ centred / count
    variances = covariance.diagonal().clamp(min=0).cpu()
    deviations, spread = variances.sqrt(), math.sqrt(float(variances.sum()))
    all_pairs = float(total @ total - squares.sum())
    same_pairs = float(sums.square().sum() - squares.sum())
    same = float((sizes * (sizes - 1)).sum())
    other = count * (count - 1) - same
    named = labels is not None
    rank = _effective_rank(covariance)
    roundness = rank / min(dimensions, count - 1)
    collapsed = spread < POINT or (spread < NARROW and roundness > ROUND)
    return EmbeddingHealth(
        norm=float(lengths.mean()),
        std=float(deviations.mean()),
        spread=spread,
        mean_cosine=all_pairs / (count * (count - 1)),
        effective_rank=rank,
        constant_dimensions=float((deviations <= CONSTANT_DEVIATION).double().mean()),
        intra=1 - same_pairs / same if named and same else math.nan,
        inter=1 - (all_pairs - same_pairs) / other if named and other else math.nan,
        collapsed=collapsed,
        reason=_reason(spread, float(deviations.mean())) if collapsed else "",
    )


def _reason(spread: float, std: float) -> str:
    return (
        f"the embeddings have collapsed to almost one point: they are {spread:.2g} from their mean, of at "
        f"most 1, and a dimension's standard deviation is {std:.2g}. Batch-hard triplets from scratch end "
        "so: begin with a classification term, or use semi-hard triplets, pretrained weights or a lower "
        "optimizer.lr"
    )


def _effective_rank(covariance: Tensor) -> float:
    singular = torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()
    # What rounding makes of a covariance of rank r has D - r more directions, each next to nothing.
    singular = singular[singular > singular.max() * 1e-6]
    if not len(singular):
        return 0.0
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def _doubles(embeddings: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows, float64 [n, D]) on the device, or on the CPU where the device has no double precision."""
    for start in range(0, len(embeddings), _ROWS):
        part = embeddings[start : start + _ROWS].detach()
        part = part.cpu() if part.device.type == "mps" else part
        yield slice(start, start + len(part)), part.double()


def _check(embeddings: Tensor, labels: Tensor | None) -> None:
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise ValueError(f"embeddings must be float [N, D], not {embeddings.dtype} {list(embeddings.shape)}")
    if labels is not None and labels.shape != embeddings.shape[:1]:
        raise ValueError(f"labels {list(labels.shape)} of {len(embeddings)} embeddings")
    if len(embeddings) < 2 or not embeddings.shape[1]:
        raise DataError(f"embeddings {list(embeddings.shape)}: at least two rows are compared")
    broken = (~embeddings.isfinite().all(dim=1)).nonzero().flatten()
    if len(broken):
        raise TrainingError(
            f"{len(broken)} of {len(embeddings)} embeddings are not finite, the first is row "
            f"{int(broken[0])}: the weights have diverged; lower optimizer.lr or train with "
            "trainer.precision=32-true"
        )
