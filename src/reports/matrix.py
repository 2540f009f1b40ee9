"""The cross-generator matrix: runs trained on one generator each, judged on every generator."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..config.joined import is_joined
from .figure import INK, render
from .labels import TRAINED

FIGURES = ("balanced_accuracy", "accuracy", "auroc", "ap")


@dataclass(frozen=True)
class Matrix:
    """A figure by the generators trained on (rows) and tested on (columns).

    values: [rows][columns], the mean over the runs of a row (seeds), NaN where it is undefined or not there.
    runs: how many runs a row has.
    """

    figure: str
    trained: tuple[str, ...]
    tested: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    runs: tuple[int, ...]

    @property
    def own(self) -> list[float]:
        """Figures on the generator that was trained on."""
        return [value for row, column, value in self._cells() if row == column]

    @property
    def others(self) -> list[float]:
        """Figures on generators that were not trained on."""
        return [value for row, column, value in self._cells() if column not in row.split(" + ")]

    def _cells(self) -> list[tuple[str, str, float]]:
        return [
            (row, column, value)
            for row, values in zip(self.trained, self.values, strict=True)
            for column, value in zip(self.tested, values, strict=True)
            if not math.isnan(value)
        ]


def trained_on(config: Mapping[str, Any]) -> str | None:
    """The generators that a run's config chose to train on, `A + B` of several; None where it chose none.

    Of an evaluation, what its run chose, where the config has it.
    """
    config = config.get(TRAINED, config)
    if is_joined(config):
        return None
    index = (config.get("data") or {}).get("index") or {}
    chosen = index.get("train_generators")
    return " + ".join(map(str, chosen)) if isinstance(chosen, (list, tuple)) and chosen else None


def matrix(
    runs: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]], figure: str = "balanced_accuracy"
) -> Matrix | None:
    """The matrix of (config, flat metrics) of runs; None where fewer than two training choices have figures.

    Runs of one choice, which differ in the seed, are averaged; a figure that one of them lacks is undefined.
    """
    by_choice: dict[str, list[Mapping[str, float]]] = {}
    for config, metrics in runs:
        choice = trained_on(config)
        if choice is not None and metrics:
            by_choice.setdefault(choice, []).append(metrics)
    prefix, end = "test/generator/", f"/{figure}"
    tested = sorted(
        {
            name.removeprefix(prefix).removesuffix(end)
            for several in by_choice.values()
            for metrics in several
            for name in metrics
            if name.startswith(prefix) and name.endswith(end)
        }
    )
    if len(by_choice) < 2 or not tested:
        return None
    # in the columns' order as far as they are columns, so that the diagonal is one
    trained = sorted(by_choice, key=lambda name: (name not in tested, name))
    values = tuple(
        tuple(
            statistics.fmean(metrics.get(f"{prefix}{column}{end}", math.nan) for metrics in by_choice[row])
            for column in tested
        )
        for row in trained
    )
    return Matrix(
        figure, tuple(trained), tuple(tested), values, tuple(len(by_choice[row]) for row in trained)
    )


def heat_map(found: Matrix) -> bytes:
    """The matrix as PNG bytes; every cell with its figure in percent, a dash where it is undefined."""

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        ax.imshow(found.values, cmap="Blues", vmin=0.5, vmax=1.0, aspect="auto")
        for row, values in enumerate(found.values):
            for column, value in enumerate(values):
                own = found.trained[row] == found.tested[column]
                ax.text(
                    column,
                    row,
                    "–" if math.isnan(value) else f"{100 * value:.1f}",
                    ha="center",
                    va="center",
                    color="white" if value > 0.8 else INK,
                    fontweight="bold" if own else "normal",
                )
        ax.set_xticks(range(len(found.tested)), found.tested, rotation=30, ha="right", color=INK)
        ax.set_yticks(range(len(found.trained)), found.trained, color=INK)
        ax.set(xlabel="tested on", ylabel="trained on")
        ax.grid(visible=False)
        ax.set_title(f"{found.figure} in percent; bold: the generator trained on")

    return render(draw, (2.6 + 0.8 * len(found.tested), 1.9 + 0.4 * len(found.trained)))


def write_matrix(runs: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]], path: Path) -> None:
    """Every figure of FIGURES as csv: `figure, trained on, runs`, a column a generator tested on."""
    every = [found for figure in FIGURES if (found := matrix(runs, figure)) is not None]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["figure", "trained on", "runs", *every[0].tested])
        for found in every:
            for row, count, values in zip(found.trained, found.runs, found.values, strict=True):
                cells = ["" if math.isnan(value) else repr(value) for value in values]
                writer.writerow([found.figure, row, count, *cells])
