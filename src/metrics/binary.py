"""Metrics of a detector's logits, real against generated.

Generated is the positive class. Rankings use the raw logits: torchmetrics passes them through a float32
sigmoid first, which makes every logit above 17 a tie, and returns 0 where a metric is undefined.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import DataError, TrainingError


def binary_metrics(logits: Tensor, labels: Tensor, threshold: float = 0.0) -> dict[str, float]:
    """Every metric of one set of images; an undefined one is NaN, never 0.

    logits: float [N]; above `threshold` means generated. labels: integers [N], 0 real, 1 generated.
    Keys: accuracy, balanced_accuracy, precision, recall, f1, auroc, ap, real_accuracy, fake_accuracy.
    With one class only, balanced_accuracy, precision, f1, auroc and ap are NaN, and so is the accuracy of the
    absent class (recall with it); precision is NaN too when nothing is called generated.
    auroc counts tied pairs as half; ap is the step-wise sum of precision over recall, as in scikit-learn.
    Raises TrainingError for a NaN logit, DataError for a label other than 0 and 1.
    """
    scores, positive = _checked(logits, labels)
    predicted = scores > threshold
    fakes = int(positive.sum())
    reals = positive.numel() - fakes
    true_positives = int((predicted & positive).sum())
    false_positives = int(predicted.sum()) - true_positives
    recall = _ratio(true_positives, fakes)
    real_accuracy = _ratio(reals - false_positives, reals)
    both = reals > 0 and fakes > 0
    auroc, ap = _ranking(scores, positive) if both else (math.nan, math.nan)
    return {
        "accuracy": _ratio(true_positives + reals - false_positives, reals + fakes),
        "balanced_accuracy": (recall + real_accuracy) / 2,
        "precision": _ratio(true_positives, true_positives + false_positives) if both else math.nan,
        "recall": recall,
        "f1": _ratio(2 * true_positives, true_positives + false_positives + fakes) if both else math.nan,
        "auroc": auroc,
        "ap": ap,
        "real_accuracy": real_accuracy,
        "fake_accuracy": recall,
    }


def fit_threshold(logits: Tensor, labels: Tensor) -> float:
    """The logit threshold with the highest balanced accuracy, to be fitted on validation only.

    logits: float [N], labels: integers [N], 0 real, 1 generated; both classes must be present (DataError).
    Candidates are the gaps between neighbouring distinct logits; of equally good ones the widest is taken, of
    equally wide ones the nearest to 0, and the threshold is its middle. Where every gap is worse than calling
    all images by one name, it is the value nearest to 0 that does so.
    Comparing with `>` in the dtype of `logits` gives the accuracy promised.
    """
    scores, positive = _checked(logits, labels)
    fakes = int(positive.sum())
    reals = positive.numel() - fakes
    if not fakes or not reals:
        raise DataError(
            f"a threshold needs both classes, but there are {reals} real and {fakes} generated images: "
            "add the class that is missing to the validation part"
        )
    values, true_positives, false_positives = _operating_points(scores, positive)
    # Balanced accuracy times 2 * fakes * reals, in integers, so that equal is equal.
    quality = true_positives * reals + (reals - false_positives) * fakes
    one_name = fakes * reals
    below, above = values[1:], values[:-1]  # values fall; the threshold lies between its two neighbours
    inner = quality[:-1]
    if inner.numel() == 0 or int(inner.max()) < one_name:
        return _call_all_by_one_name(float(values[-1]), float(values[0]), logits.dtype)
    best = inner == inner.max()
    below, above = below[best], above[best]
    finite = torch.finfo(torch.float64).max / 4  # an infinite logit still has a middle
    low, high = below.clamp(-finite, finite), above.clamp(-finite, finite)
    gap, middle = high - low, (low + high) / 2
    widest = gap == gap.max()
    chosen = int(torch.where(widest, middle.abs(), math.inf).argmin())
    threshold = float(middle[chosen].to(logits.dtype))
    # Rounding must not push the threshold onto the upper neighbour, which `>` would then call real.
    return threshold if threshold < float(above[chosen]) else float(below[chosen])


def _checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    scores = logits.detach().cpu().double()
    labels = labels.detach().cpu()
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"logits {tuple(scores.shape)} and labels {tuple(labels.shape)} must be two equal vectors"
        )
    if bool(scores.isnan().any()):
        raise TrainingError(
            f"{int(scores.isnan().sum())} of {scores.numel()} logits are NaN: the weights have diverged; "
            "lower optimizer.lr or train with trainer.precision=32-true"
        )
    positive = labels == 1
    if not bool((positive | (labels == 0)).all()):
        strange = sorted({int(label) for label in labels.tolist()} - {0, 1})
        raise DataError(f"labels must be 0 (real) or 1 (generated), found {strange[:5]}")
    return scores, positive


def _operating_points(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct scores, falling, and how many generated and real images lie at or above each (int64)."""
    scores, order = scores.sort(descending=True)
    positive = positive[order]
    last_of_tie = torch.ones_like(positive)
    last_of_tie[:-1] = scores[1:] != scores[:-1]
    true_positives = positive.cumsum(0)
    false_positives = (~positive).cumsum(0)
    return scores[last_of_tie], true_positives[last_of_tie], false_positives[last_of_tie]


def _ranking(scores: Tensor, positive: Tensor) -> tuple[float, float]:
    """AUROC by the trapezoid rule and step-wise average precision; both classes are present."""
    _, tp, fp = _operating_points(scores, positive)
    zero = torch.zeros(1, dtype=tp.dtype)
    more_tp, more_fp = tp.diff(prepend=zero), fp.diff(prepend=zero)
    doubled_area = int((more_fp * (2 * tp - more_tp)).sum())
    auroc = doubled_area / (2 * int(tp[-1]) * int(fp[-1]))
    ap = float((more_tp.double() * tp / (tp + fp)).sum()) / int(tp[-1])
    return auroc, ap


def _call_all_by_one_name(lowest: float, highest: float, dtype: torch.dtype) -> float:
    """The threshold nearest to 0 that is below `lowest` or at least `highest`."""
    if lowest > 0 or highest <= 0:
        return 0.0
    under = float(torch.nextafter(torch.tensor(lowest, dtype=dtype), torch.tensor(-math.inf, dtype=dtype)))
    return min(highest, under, key=abs)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
