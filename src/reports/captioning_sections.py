"""What stands in the sections of a captioner's report, as plain values for the template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..evaluation.captioning import most_frequent
from ..metrics.captions import tokenize
from ..metrics.exact import matches
from .format import Interval, interval, number
from .sections import LoadImage, thumbnail

SHOWN = 12
_TILES = ("exact_match", "cider", "rouge_l", "bleu_4", "loss")
_NAMES = {
    "exact_match": "right to the word",
    "cider": "CIDEr-D",
    "rouge_l": "ROUGE-L",
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "loss": "loss a token",
}


class Card(NamedTuple):
    """An image with what is said of it; `uri` is empty where it could not be shown, `reason` says why."""

    path: str
    uri: str
    reason: str
    small: bool
    text: str
    references: Sequence[str]
    rouge_l: float
    cider: float
    right: bool


class Shown(NamedTuple):
    """Cards of a split: those that come nearest to their references, those that are farthest, and a draw."""

    worst: Sequence[Card]
    best: Sequence[Card]
    drawn: Sequence[Card]


def tiles(
    split: str, metrics: Mapping[str, float], bounds: Mapping[str, Interval]
) -> list[tuple[str, str, str]]:
    """(name, figure, what stands below) of the headline figures."""
    found = []
    for name in _TILES:
        value = metrics.get(f"{split}/{name}")
        if value is None:
            continue
        below = interval(bounds.get(f"{split}/{name}"))
        baseline = metrics.get(f"{split}/most_frequent/{name}")
        if baseline is not None:
            below = "; ".join(filter(None, [below, f"most frequent caption {number(baseline)}"]))
        found.append((_NAMES[name], number(value), below))
    return found


def scores(split: str, metrics: Mapping[str, float]) -> list[tuple[str, float | None, float | None]]:
    """(score, of the model, of the most frequent training caption), each None where it is not known."""
    names = [name for name in _NAMES if name != "loss" and f"{split}/{name}" in metrics]
    return [
        (_NAMES[name], metrics.get(f"{split}/{name}"), metrics.get(f"{split}/most_frequent/{name}"))
        for name in names
    ]


def scale(split: str, metrics: Mapping[str, float], table: pa.Table) -> str:
    """What the scores are, so that nobody compares what can't be compared."""
    references = metrics.get(f"{split}/references", float("nan"))
    said = (
        "All of [0, 1] but CIDEr-D, which is coco-caption's (1.13 is what papers print as 113) and rises "
        f"with the number of different references; references an image: {references:.3g}; tokens as the Penn "
        "Treebank's without punctuation, ROUGE-L with beta 1.2. "
    )
    if len(table) < 200:
        said += f"CIDEr-D weighs words by these {len(table):,} images alone, and is unsteady for so few. "
    baseline = most_frequent(table)
    return said + (
        f"The most frequent caption of the data's train split is “{baseline}”." if baseline else ""
    )


def wording(table: pa.Table) -> list[tuple[str, str, str]]:
    """(what, of the captions, of the references): how they are worded."""
    own = [tokenize(text) for text in table["text"].to_pylist()]
    theirs = [tokenize(text) for texts in table["references"].to_pylist() for text in texts]
    repeated = Counter(table["text"].to_pylist())
    return [
        ("words a caption, mean", _mean(own), _mean(theirs)),
        ("different words", f"{len(_words(own)):,}", f"{len(_words(theirs)):,}"),
        (
            "different captions",
            f"{len(repeated):,} of {len(own):,}",
            f"{len({' '.join(one) for one in theirs}):,} of {len(theirs):,}",
        ),
        ("empty captions", f"{sum(not one for one in own):,}", f"{sum(not one for one in theirs):,}"),
    ]


def shown(
    table: pa.Table, found: Mapping[str, npt.NDArray[np.float64]], load_image: LoadImage | None, seed: int
) -> Shown:
    """Pictures with their captions: the worst by ROUGE-L, the best, and some drawn by the run's seed.

    found: `caption_scores` of the table.
    """
    order = np.lexsort((found["cider"], found["rouge_l"]))
    worst = order[:SHOWN].tolist()
    best = [row for row in order[::-1][:SHOWN].tolist() if row not in worst]
    drawn = np.random.default_rng(seed).permutation(len(table))[:SHOWN].tolist()
    right = matches(table["text"].to_pylist(), table["references"].to_pylist())

    def card(row: int) -> Card:
        one: dict[str, Any] = table.slice(row, 1).to_pylist()[0]
        uri, reason, small = thumbnail(one["path"], load_image)
        return Card(
            one["path"],
            uri,
            reason,
            small,
            one["text"],
            one["references"],
            float(found["rouge_l"][row]),
            float(found["cider"][row]),
            right[row],
        )

    return Shown(*([card(row) for row in rows] for rows in (worst, best, drawn)))


def _mean(tokens: Sequence[Sequence[str]]) -> str:
    return f"{sum(map(len, tokens)) / len(tokens):.1f}" if tokens else "–"


def _words(tokens: Sequence[Sequence[str]]) -> set[str]:
    return {word for one in tokens for word in one}
