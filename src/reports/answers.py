"""The report of a run on conversations: what was asked, what was answered, and how right that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..evaluation.vlm import SCORES, Interval, by_question, of_conversations
from ..evaluation.vlm import intervals as bounds_of
from ..metrics.answers import answer_scores
from .format import interval, number
from .history import best
from .run import Found, RunReport, main_split, training_picture, what_chose, write_run_page
from .sections import LoadImage, no_curve, thumbnail

SHOWN = 12
_NAMES = {"exact_match": "right", "token_f1": "token F1", "rouge_l": "ROUGE-L", "loss": "loss a token"}


class Card(NamedTuple):
    """An image with a question and its answers; `uri` is empty where it could not be shown, and why."""

    path: str
    uri: str
    reason: str
    small: bool
    question: str
    answer: str
    text: str
    right: bool


class Shown(NamedTuple):
    """Cards of a split: some of those `of` that were answered wrongly, and a draw."""

    wrong: Sequence[Card]
    of: int
    drawn: Sequence[Card]


def write_answers_report(source: RunReport, out: Path) -> Path:
    """`out/index.html` (everything inside) and its pictures as `out/*.png`; returns the page's path.

    source.predictions: tables of conversations, see `evaluation.vlm`, of `val` and `test`.
    """
    from .training_curve import ANSWERS

    split = main_split(source.predictions)
    top = best(source.history, source.monitor, source.mode)
    metrics = dict(source.metrics)
    intervals: dict[str, Interval] = {}
    for name, table in source.predictions.items():
        if f"{name}/exact_match" not in metrics:
            metrics |= {f"{name}/{figure}": value for figure, value in of_conversations(table).items()}
        intervals |= {f"{name}/{figure}": bounds for figure, bounds in bounds_of(table).items()}
    values: dict[str, object] = {
        "tiles": [],
        "sentences": what_chose(source, split, top),
        "absent": {
            "training_curve": no_curve(bool(source.history)),
            "scores": "No answers were written, so there is nothing to look at.",
        },
        "split": None,
        "images": {f"{name} images": len(table) for name, table in source.predictions.items()},
    }
    if split is not None and len(source.predictions[split]):
        table = source.predictions[split]
        values |= {
            "split": split,
            "tiles": _tiles(split, metrics, intervals),
            "scores": _scores(split, metrics),
            "questions": [(one, *found) for one, found in by_question(table).items()],
            "shown": _shown(table, source.load_image, int(source.config["seed"])),
        }
    picture = training_picture(source, top, ANSWERS, "loss, scores and learning rate over the training")
    return write_run_page("answers.html", source, Found(top, metrics, intervals, [picture], []), values, out)


def _tiles(
    split: str, metrics: Mapping[str, float], bounds: Mapping[str, Interval]
) -> list[tuple[str, str, str]]:
    """(name, figure, what stands below) of the headline figures."""
    found = []
    for name, title in _NAMES.items():
        value = metrics.get(f"{split}/{name}")
        if value is None:
            continue
        below = interval(bounds.get(f"{split}/{name}"))
        baseline = metrics.get(f"{split}/most_frequent_of_question/{name}")
        if baseline is not None:
            below = "; ".join(filter(None, [below, f"most frequent answer {number(baseline)}"]))
        found.append((title, number(value), below))
    return found


def _scores(split: str, metrics: Mapping[str, float]) -> list[tuple[str, float, float | None, float | None]]:
    """(score, of the model, of the most frequent answer to the question, and of all)."""
    return [
        (
            _NAMES[name],
            metrics[f"{split}/{name}"],
            metrics.get(f"{split}/most_frequent_of_question/{name}"),
            metrics.get(f"{split}/most_frequent/{name}"),
        )
        for name in SCORES
        if f"{split}/{name}" in metrics
    ]


def _shown(table: pa.Table, load_image: LoadImage | None, seed: int) -> Shown:
    right = np.array(answer_scores(table["text"].to_pylist(), table["answer"].to_pylist())["exact_match"]) > 0
    order = np.random.default_rng(seed).permutation(len(table))
    wrong = order[~right[order]]

    def card(row: int) -> Card:
        one = table.slice(row, 1).to_pylist()[0]
        uri, reason, small = thumbnail(one["path"], load_image)
        said = (one["question"], one["answer"], one["text"])
        return Card(one["path"], uri, reason, small, *said, bool(right[row]))

    some, drawn = wrong[:SHOWN].tolist(), order[:SHOWN].tolist()
    return Shown([card(row) for row in some], len(wrong), [card(row) for row in drawn])
