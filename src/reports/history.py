"""Reading curves out of a run's metrics.csv, where most cells are empty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Row = Mapping[str, object]
Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Best:
    """Where the monitored figure was best: its value, epoch and step (None where the row names none)."""

    value: float
    epoch: float | None
    step: float | None


def series(history: Sequence[Row], name: str, axis: str) -> tuple[list[float], list[float]]:
    """(x, y) of one name over `axis` (`epoch` or `step`), without the rows where either is empty.

    A y that is NaN stays: a loss that broke shows as a gap, not as a curve that goes on.
    """
    xs: list[float] = []
    ys: list[float] = []
    for row in history:
        x, y = cell(row, axis), cell(row, name)
        if x is not None and y is not None and not math.isnan(x):
            xs.append(x)
            ys.append(y)
    return xs, ys


def names(history: Sequence[Row]) -> list[str]:
    """Every name with at least one value, in order of appearance, without `epoch` and `step`."""
    seen: dict[str, None] = {}
    for row in history:
        for name in row:
            if name not in ("epoch", "step") and name not in seen and cell(row, name) is not None:
                seen[name] = None
    return list(seen)


def best_axis(history: Sequence[Row]) -> str:
    """`epoch` where no name has two values in one epoch or no row has a step, otherwise `step`."""
    if all(cell(row, "step") is None for row in history):
        return "epoch"
    for name in names(history):
        epochs, _ = series(history, name, "epoch")
        if len(set(epochs)) < len(epochs):
            return "step"
    return "epoch"


def best(history: Sequence[Row], monitor: str, mode: Mode) -> Best | None:
    """The first row where `monitor` is best; None where it never had a finite value."""
    found: Best | None = None
    for row in history:
        value = cell(row, monitor)
        if value is None or not math.isfinite(value):
            continue
        if found is None or (value > found.value if mode == "max" else value < found.value):
            found = Best(value, cell(row, "epoch"), cell(row, "step"))
    return found


def cell(row: Row, name: str) -> float | None:
    """A cell as a number; None where it is empty. Cells read by `csv` come as text."""
    value = row.get(name)
    if value is None or value == "":
        return None
    return float(str(value))
