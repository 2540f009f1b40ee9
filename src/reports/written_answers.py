"""What a model wrote where it was asked whether an image is real, beside what its likelihoods say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

_EXAMPLES = 5
_LONGEST = 60
_FIGURES = ("accuracy", "precision", "recall", "f1")


@dataclass(frozen=True)
class Written:
    """judged, said: accuracy, precision, recall and F1 of class generated, by likelihood and as written.

    invalid: share of answers that are neither. valid: the accuracy without those. examples: the most frequent
    of them, and how often each was written.
    """

    judged: Sequence[float]
    said: Sequence[float]
    invalid: float
    valid: float
    examples: Sequence[tuple[str, int]]


def written(split: str, metrics: Mapping[str, float], table: pa.Table) -> Written | None:
    """Of a table with `text` and `valid`; None for predictions of what writes nothing."""
    if "valid" not in table.column_names or f"{split}/invalid" not in metrics:
        return None
    odd = Counter(table.filter(pc.invert(table["valid"]))["text"].to_pylist())
    return Written(
        [metrics[f"{split}/{name}"] for name in _FIGURES],
        [metrics[f"{split}/written_{name}"] for name in _FIGURES],
        metrics[f"{split}/invalid"],
        metrics[f"{split}/written_accuracy_valid"],
        [(_short(text), count) for text, count in odd.most_common(_EXAMPLES)],
    )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
