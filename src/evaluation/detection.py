"""A detector's predictions in, its figures out: overall, per generator, with 95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ..metrics.binary import binary_metrics
from ..metrics.calibration import brier, ece, nll
from ..metrics.intervals import bootstrap, wilson
from ..metrics.own import OwnMetric, own_metrics
from .generators import data_sets, metric_name, subsets
from .joint import joint_intervals

PER_GENERATOR = ("accuracy", "balanced_accuracy", "ap", "auroc", "real_accuracy", "fake_accuracy")
TUNED = ("accuracy", "real_accuracy", "fake_accuracy")
ORACLE = "oracle_accuracy"
"""The best accuracy that any threshold gives: a figure that has looked at the labels it is judged by."""
Interval = tuple[float, float]
Floats = npt.NDArray[np.float32]
Ranks = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def evaluate(
    predictions: pa.Table,
    *,
    threshold: float | None = None,
    metrics: Mapping[str, OwnMetric] | None = None,
    oracle: bool = False,
) -> dict[str, float]:
    """Every figure of one split, flat and without the split's name in front; NaN where undefined.

    All of `binary_metrics` at logit 0, `nll` (binary cross-entropy of the logit, in nats), `brier` and `ece`
    (of the probability), `{accuracy,real_accuracy,fake_accuracy}_tuned` at `threshold` (in logits, fitted on
    validation) if given, the user's own `metrics` by their names, `oracle_accuracy` if asked for, and, where
    the rows name generators, `generator/<NAME>/{accuracy,balanced_accuracy,ap,auroc,…}` with macro mean,
    minimum and (population) standard deviation as `generator_{mean,min,std}/…`. The generators are all there
    are, not a sample of many, hence the population's deviation. A figure undefined for one generator is
    undefined in its mean. The oracle accuracy of a generator has a threshold of its own. Where several data
    sets were joined, the same stands for each as `data/<NAME>/…`, and the rest is over all of them.
    Raises DataError where two generators or data sets would share a name.
    """
    figures = _whole(predictions, threshold, metrics or {}, oracle)
    for name, rows in data_sets(predictions).items():
        alone = predictions.filter(pa.array(rows))
        prefix = f"data/{metric_name(name)}/"
        own = _whole(alone, threshold, metrics or {}, oracle)
        # a generator's own lines stand once, among those of all data sets
        figures |= {prefix + key: value for key, value in own.items() if not key.startswith("generator/")}
    return figures


def _whole(
    predictions: pa.Table, threshold: float | None, metrics: Mapping[str, OwnMetric], oracle: bool
) -> dict[str, float]:
    """Every figure of a table as if it were one data set, without the `data/…` of several."""
    logits, labels = _tensors(predictions)
    figures = dict(binary_metrics(logits, labels))
    probability = predictions["probability"].to_numpy()
    figures |= own_metrics(metrics, logits, labels)
    figures["nll"] = nll(logits.numpy(), labels.numpy())
    figures["brier"] = brier(probability, labels.numpy())
    figures["ece"] = ece(probability, labels.numpy())
    figures |= _at_thresholds(logits, labels, threshold, oracle)
    found = subsets(predictions)
    names: list[str] = []
    for subset in found:
        rows = torch.from_numpy(subset.rows)
        values = binary_metrics(logits[rows], labels[rows])
        values = {name: values[name] for name in PER_GENERATOR}
        values |= _at_thresholds(logits[rows], labels[rows], threshold, oracle)
        figures |= {f"generator/{subset.metric_name}/{name}": value for name, value in values.items()}
        names = list(values)
    for name in names:
        values_of = np.array([figures[f"generator/{subset.metric_name}/{name}"] for subset in found])
        figures[f"generator_mean/{name}"] = float(values_of.mean())
        figures[f"generator_min/{name}"] = float(values_of.min())
        figures[f"generator_std/{name}"] = float(values_of.std()) if np.ptp(values_of) else 0.0
    return figures


def _at_thresholds(
    logits: torch.Tensor, labels: torch.Tensor, threshold: float | None, oracle: bool
) -> dict[str, float]:
    """The figures at a threshold other than logit 0, as far as they are asked for."""
    figures = {}
    if threshold is not None:
        values = binary_metrics(logits, labels, threshold)
        figures = {f"{name}_tuned": values[name] for name in TUNED}
    if oracle:
        figures[ORACLE] = oracle_accuracy(logits.numpy(), labels.numpy() == 1)
    return figures


def oracle_accuracy(logits: Floats, generated: Bools) -> float:
    """The highest accuracy that any threshold on `logits` gives on these very labels; NaN for one class.

    Never what a detector would reach on images to come: the threshold was chosen by the images it is judged
    on.
    """
    if not len(logits) or generated.all() or not generated.any():
        return math.nan
    distinct, ranks = np.unique(logits, return_inverse=True)
    fakes, reals = _counted(len(distinct), ranks, generated)
    # with the threshold at a distinct logit, what lies at or below it is called real
    right = np.cumsum(reals) + fakes.sum() - np.cumsum(fakes)
    return float(max(int(right.max()), int(fakes.sum()))) / len(logits)


def intervals(
    predictions: pa.Table, *, threshold: float | None = None, samples: int | None = None, seed: int = 0
) -> dict[str, Interval]:
    """95 % confidence intervals (low, high) of the figures of `evaluate` that are shares of images or
    rankings.

    Wilson's for accuracy, real_accuracy, fake_accuracy, recall, precision, accuracy_tuned and the accuracies
    of each generator; the percentile bootstrap over images for auroc and ap, `samples` resamples from `seed`
    (None: 1000, above 20,000 images fewer, never below 200); `joint.joint_intervals` for what is judged
    generator by generator. An undefined figure has no interval, nor have minimum and deviation over the
    generators, the oracle accuracy and the single data sets' figures other than shares and their macro mean.
    """
    logits = predictions["logit"].to_numpy()
    generated = predictions["label"].to_numpy() == 1
    bounds = _shares(logits, generated, "")
    if "fake_accuracy" in bounds:
        bounds["recall"] = bounds["fake_accuracy"]
    bounds |= _tuned_shares(logits, generated, threshold, "")
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
        bounds |= _tuned_shares(logits[subset.rows], generated[subset.rows], threshold, prefix)
    for name, rows in data_sets(predictions).items():
        prefix = f"data/{metric_name(name)}/"
        bounds |= _shares(logits[rows], generated[rows], prefix)
        bounds |= _tuned_shares(logits[rows], generated[rows], threshold, prefix)
    return bounds | joint_intervals(predictions, threshold=threshold, samples=samples, seed=seed)


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


def _shares(
    logits: Floats, generated: Bools, prefix: str, threshold: float = 0.0, suffix: str = ""
) -> dict[str, Interval]:
    """Wilson intervals of accuracy, real_accuracy and fake_accuracy, as far as there are images to count."""
    # in double precision, as `binary_metrics` compares
    right = (logits.astype(np.float64) > threshold) == generated
    parts = (("accuracy", right), ("real_accuracy", right[~generated]), ("fake_accuracy", right[generated]))
    return {prefix + name + suffix: wilson(int(part.sum()), len(part)) for name, part in parts if len(part)}


def _tuned_shares(
    logits: Floats, generated: Bools, threshold: float | None, prefix: str
) -> dict[str, Interval]:
    return {} if threshold is None else _shares(logits, generated, prefix, threshold, "_tuned")
