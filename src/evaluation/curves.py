"""The curves and counts behind a detector's figures, from its predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Confusion:
    """Counts at one threshold; `logit > threshold` is the verdict `generated`."""

    real_as_real: int
    real_as_generated: int
    generated_as_real: int
    generated_as_generated: int


def confusion(predictions: pa.Table, threshold: float = 0.0) -> Confusion:
    """The confusion matrix at `threshold` (in logits)."""
    label = predictions["label"].to_numpy()
    said = predictions["logit"].to_numpy() > threshold
    return Confusion(
        real_as_real=int(((label == 0) & ~said).sum()),
        real_as_generated=int(((label == 0) & said).sum()),
        generated_as_real=int(((label == 1) & ~said).sum()),
        generated_as_generated=int(((label == 1) & said).sum()),
    )


def roc(predictions: pa.Table) -> tuple[Floats, Floats]:
    """(false positive rate, true positive rate), both [K] and ascending from 0 to 1, one point a distinct
    logit.

    Empty arrays where the table holds one class only: the curve is undefined.
    """
    true, false = _cumulated(predictions)
    if not len(true) or not true[-1] or not false[-1]:
        return np.empty(0), np.empty(0)
    return np.r_[0.0, false / false[-1]], np.r_[0.0, true / true[-1]]


def precision_recall(predictions: pa.Table) -> tuple[Floats, Floats]:
    """(recall, precision), both [K], recall ascending, one point a distinct logit; no interpolation.

    Empty arrays where the table holds one class only: without a generated image recall is undefined, without
    a real one precision says nothing.
    """
    true, false = _cumulated(predictions)
    if not len(true) or not true[-1] or not false[-1]:
        return np.empty(0), np.empty(0)
    return true / true[-1], true / (true + false)


def most_confidently_wrong(predictions: pa.Table, count: int = 24) -> pa.Table:
    """The misjudged rows (at logit 0) that are furthest from it, worst first; ties by index."""
    generated = pc.greater(predictions["logit"], 0.0)
    wrong = predictions.filter(pc.not_equal(generated, pc.equal(predictions["label"], 1)))
    confidence = np.abs(wrong["logit"].to_numpy())
    order = np.lexsort((wrong["index"].to_numpy(), -confidence))[:count]
    return wrong.take(pa.array(order))


def _cumulated(predictions: pa.Table) -> tuple[Floats, Floats]:
    """Generated and real rows at or above each distinct logit, from the highest down."""
    logit = predictions["logit"].to_numpy()
    order = np.argsort(-logit, kind="stable")
    generated = (predictions["label"].to_numpy()[order] == 1).astype(np.float64)
    last = np.flatnonzero(np.r_[np.diff(logit[order]) != 0, True]) if len(order) else np.empty(0, np.int64)
    return np.cumsum(generated)[last], np.cumsum(1.0 - generated)[last]
