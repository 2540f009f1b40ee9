"""Reading curves out of a run's metrics.csv, where most cells are empty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
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


def curve(history: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    """(epochs passed, y) of one name: a value at the end of the first epoch stands at 1, halfway at 0.5.

    Steps are translated by where each epoch ended, so that several values of an epoch stand in their places;
    without steps a value stands at its epoch's end. A y that is NaN stays.
    """
    steps, ys = series(history, name, "step")
    ends: dict[float, float] = {}
    for row in history:
        epoch, step = cell(row, "epoch"), cell(row, "step")
        if epoch is not None and step is not None:
            ends[epoch] = max(step, ends.get(epoch, 0.0))
    if not steps or not ends:
        epochs, ys = series(history, name, "epoch")
        return [epoch + 1 for epoch in epochs], ys
    # a pair of (steps, epochs passed) an epoch; none where no step was taken, as behind an average of weights
    corners = [(0.0, 0.0)]
    for epoch in sorted(ends):
        if ends[epoch] > corners[-1][0]:
            corners.append((ends[epoch], epoch + 1))
    return [_between(corners, step) for step in steps], ys


def epochs_run(history: Sequence[Row]) -> int:
    """How many epochs came to their end, whose figures (`train/loss`) are only written there."""
    epochs, _ = series(history, "train/loss", "epoch")
    return len(set(epochs))


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


def _between(corners: Sequence[tuple[float, float]], at: float) -> float:
    """Straight lines through the corners (x ascending); beyond the last, its height."""
    for (low, before), (high, after) in pairwise(corners):
        if at <= high:
            return before + (after - before) * (at - low) / (high - low)
    return corners[-1][1]
