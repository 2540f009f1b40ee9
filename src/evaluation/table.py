"""The table of an evaluation: a line a generator, what they come to, and the whole, of every data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from .detection import ORACLE, Interval, intervals
from .generators import data_sets, metric_name, subsets

Kind = Literal["generator", "mean", "min", "std", "all"]
SHARES = ("accuracy", "real_accuracy", "fake_accuracy")
FIGURES = (*SHARES, *(f"{name}_tuned" for name in SHARES), "balanced_accuracy", "auroc", "ap", ORACLE)
"""The columns, in their order: at logit 0, at the threshold fitted on validation, rankings, the oracle."""


@dataclass(frozen=True)
class Line:
    """One line: a generator, their macro mean, minimum or standard deviation, or all images.

    data: the data set, empty for what is over all of several. generated, real: images judged, None where a
    line is made of lines. figures: by the names of FIGURES, NaN where undefined, absent where not asked for.
    """

    data: str
    name: str
    kind: Kind
    generated: int | None
    real: int | None
    figures: Mapping[str, float]
    intervals: Mapping[str, Interval]


@dataclass(frozen=True)
class EvaluationTable:
    """All lines; the logit fitted on validation, if there is one."""

    lines: Sequence[Line]
    threshold: float | None

    @property
    def columns(self) -> list[str]:
        """The figures that any line has."""
        return [name for name in FIGURES if any(name in line.figures for line in self.lines)]

    @property
    def several(self) -> bool:
        """Whether there are several data sets."""
        return any(line.data for line in self.lines)


def evaluation_table(
    predictions: pa.Table,
    metrics: Mapping[str, float],
    *,
    split: str = "test",
    bounds: Mapping[str, Interval] | None = None,
) -> EvaluationTable:
    """The lines of one split's predictions.

    metrics: flat, as in metrics.json, `val/threshold` among them where it was fitted. bounds: intervals by
    the same names; None computes them. Data sets follow each other, each with its generators, mean, minimum,
    deviation and all its images; the lines over all sets come last. Of one data set, a line's `data` is
    empty.
    """
    threshold = metrics.get("val/threshold") if split == "test" else None
    if bounds is None:
        computed = intervals(predictions, threshold=threshold)
        bounds = {f"{split}/{name}": value for name, value in computed.items()}
    known = bounds
    labels = predictions["label"].to_numpy()
    found = subsets(predictions)

    def line(data: str, shown: str, kind: Kind, prefix: str, counts: tuple[int, int] | None) -> Line:
        place = f"{split}/{prefix}"
        figures = {name: metrics[place + name] for name in FIGURES if place + name in metrics}
        sure = {name: known[place + name] for name in figures if place + name in known}
        generated, real = counts or (None, None)
        return Line(data, shown, kind, generated, real, figures, sure)

    def summary(data: str, prefix: str, generated: int, real: int, generators: int) -> list[Line]:
        macro: tuple[Kind, ...] = ("mean", "min", "std") if generators else ()
        lines = [line(data, kind, kind, f"{prefix}generator_{kind}/", None) for kind in macro]
        return [*lines, line(data, "all", "all", prefix, (generated, real))]

    sets = data_sets(predictions)
    lines: list[Line] = []
    for data, rows in sets.items() or [("", None)]:
        own = [subset for subset in found if rows is None or subset.data == data]
        for subset in own:
            counts = subset.generated, subset.real
            prefix = f"generator/{subset.metric_name}/"
            lines.append(line(data, subset.generator, "generator", prefix, counts))
        inside = labels if rows is None else labels[rows]
        prefix = "" if rows is None else f"data/{metric_name(data)}/"
        lines += summary(data, prefix, int((inside == 1).sum()), int((inside == 0).sum()), len(own))
    if sets:
        lines += summary("", "", int((labels == 1).sum()), int((labels == 0).sum()), len(found))
    return EvaluationTable(lines, threshold)
