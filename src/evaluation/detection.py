"""A detector's predictions in, its figures out: overall, per generator, with 95 % confidence intervals."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ..metrics.binary import binary_metrics
from ..metrics.calibration import brier, ece, nll
from ..metrics.intervals import bootstrap, wilson
from .generators import subsets

PER_GENERATOR = ("accuracy", "balanced_accuracy", "ap", "auroc", "real_accuracy", "fake_accuracy")
Interval = tuple[float, float]
Floats = npt.NDArray[np.float32]
Ranks = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def evaluate(predictions: pa.Table, *, threshold: float | None = None) -> dict[str, float]:
    """Every figure of one split, flat and without the split's name in front; NaN where undefined.

    All of `binary_metrics` at logit 0, `nll` (binary cross-entropy of the logit, in nats), `brier` and `ece`
    (of the probability), `accuracy_tuned` at `threshold` (in logits, fitted on validation) if given, and,
    where the rows name generators, `generator/<NAME>/{accuracy,balanced_accuracy,ap,auroc,…}` with
    their macro mean, minimum and (population) standard deviation as `generator_{mean,min,std}/…`. The
    generators are all there are, not a sample of many, hence the population's deviation. A figure undefined
    for one generator is undefined in its mean. Raises DataError where two generators would share a name.
    """
    logits, labels = _tensors(predictions)
    figures = dict(binary_metrics(logits, labels))
    probability = predictions["probability"].to_numpy()
    figures["nll"] = nll(logits.numpy(), labels.numpy())
    figures["brier"] = brier(probability, labels.numpy())
    figures["ece"] = ece(probability, labels.numpy())
    if threshold is not None:
        figures["accuracy_tuned"] = binary_metrics(logits, labels, threshold)["accuracy"]
    found = subsets(predictions)
    for subset in found:
        rows = torch.from_numpy(subset.rows)
        values = binary_metrics(logits[rows], labels[rows])
        for name in PER_GENERATOR:
            figures[f"generator/{subset.metric_name}/{name}"] = values[name]
    if found:
        for name in PER_GENERATOR:
            values_of = np.array([figures[f"generator/{subset.metric_name}/{name}"] for subset in found])
            figures[f"generator_mean/{name}"] = float(values_of.mean())
            figures[f"generator_min/{name}"] = float(values_of.min())
            figures[f"generator_std/{name}"] = float(values_of.std()) if np.ptp(values_of) else 0.0
    return figures


def intervals(
    predictions: pa.Table, *, threshold: float | None = None, samples: int | None = None, seed: int = 0
) -> dict[str, Interval]:
    """95 % confidence intervals (low, high) of the figures of `evaluate` that are shares of images or
    rankings.

    Wilson's for accuracy, real_accuracy, fake_accuracy, recall, precision, accuracy_tuned and the accuracies
    of each generator; the percentile bootstrap over images for auroc and ap, `samples` resamples from `seed`
    (None: 1000, above 20,000 images fewer, never below 200). An undefined figure has no interval.
    """
    logits = predictions["logit"].to_numpy()
    generated = predictions["label"].to_numpy() == 1
    bounds = _shares(logits, generated, "")
    if "fake_accuracy" in bounds:
        bounds["recall"] = bounds["fake_accuracy"]
    if threshold is not None and len(logits):
        bounds["accuracy_tuned"] = wilson(int(((logits > threshold) == generated).sum()), len(logits))
    both = bool(generated.any() and not generated.all())
    said = logits > 0
    if both and said.any():
        bounds["precision"] = wilson(int((said & generated).sum()), int(said.sum()))
    if both:
        count = samples or min(1000, max(200, 20_000_000 // len(logits)))
        # ranks instead of logits: a resample is then counted, not sorted
        values, ranks = np.unique(logits, return_inverse=True)
        for name, figure in (("auroc", _auroc), ("ap", _ap)):
            bounds[name] = bootstrap(partial(figure, len(values)), (ranks, generated), n=count, seed=seed)
    for subset in subsets(predictions):
        prefix = f"generator/{subset.metric_name}/"
        bounds |= _shares(logits[subset.rows], generated[subset.rows], prefix)
    return bounds


def _tensors(predictions: pa.Table) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits float32 [N], labels int64 [N]); copies, since Arrow's memory is read-only."""
    return (
        torch.from_numpy(predictions["logit"].to_numpy().copy()),
        torch.from_numpy(predictions["label"].to_numpy().copy()),
    )


def _auroc(distinct: int, ranks: Ranks, generated: Bools) -> float:
    """AUROC from ranks (0 the lowest of `distinct`), ties half; NaN without both classes."""
    fakes, reals = _counted(distinct, ranks, generated)
    pairs = float(fakes.sum()) * float(reals.sum())
    below = np.cumsum(reals) - reals
    return float((fakes * (below + reals / 2)).sum() / pairs) if pairs else math.nan


def _ap(distinct: int, ranks: Ranks, generated: Bools) -> float:
    """Average precision from ranks of logits, step-wise; NaN without both classes."""
    fakes, reals = (counts[::-1] for counts in _counted(distinct, ranks, generated))
    if not fakes.any() or not reals.any():
        return math.nan
    found, called = np.cumsum(fakes), np.cumsum(fakes + reals)
    precision = np.divide(found, called, out=np.zeros(distinct), where=called > 0)
    return float((fakes * precision).sum() / found[-1])


def _counted(distinct: int, ranks: Ranks, generated: Bools) -> tuple[Ranks, Ranks]:
    """How many generated and how many real rows have each rank."""
    both = np.bincount(ranks, minlength=distinct)
    fakes = np.bincount(ranks[generated], minlength=distinct)
    return fakes, both - fakes


def _shares(logits: Floats, generated: Bools, prefix: str) -> dict[str, Interval]:
    """Wilson intervals of accuracy, real_accuracy and fake_accuracy, as far as there are images to count."""
    right = (logits > 0) == generated
    parts = (("accuracy", right), ("real_accuracy", right[~generated]), ("fake_accuracy", right[generated]))
    return {prefix + name: wilson(int(part.sum()), len(part)) for name, part in parts if len(part)}
