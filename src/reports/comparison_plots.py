"""The pictures of a comparison, as PNG bytes. Callers import this module late: it brings matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from .figure import CYCLE, FAINT, INK, REAL, STYLES, render, whole_numbers
from .format import Interval
from .history import Mode, Row, best, curve

if TYPE_CHECKING:
    from ..evaluation.paired import Difference

_Line = tuple[str, int, list[float], list[float]]
_MOST_NAMED = 12
_LETTERS = 13  # of a legend, an inch
_LABEL = 36  # letters of a row's name before it goes on in the next line


def overlaid_curves(runs: Sequence[tuple[str, int, Sequence[Row]]], monitor: str, mode: Mode) -> bytes | None:
    """`monitor` and the losses over the epochs, one colour a group; None where no run has any of them.

    A thin line is a run with its best value ringed; a group of several runs has its mean as a thick line.
    runs: (label of the group, number of the group, history).
    """
    panels: list[tuple[str, list[_Line], list[_Line]]] = []
    for name, twin in ((monitor, None), ("val/loss", "train/loss")):
        lines, fainter = _lines(runs, name), _lines(runs, twin)
        if (lines or fainter) and all(name != title for title, _, _ in panels):
            panels.append((name, lines, fainter))
    if not panels:
        return None
    tops = [(group, best(rows, monitor, mode), curve(rows, monitor)) for _, group, rows in runs]
    names = {group: label for label, group, _ in runs}

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (title, lines, fainter) in zip(axes, panels, strict=True):
            for lot, style in ((fainter, (0, (2, 2))), (lines, None)):
                _draw_groups(ax, lot, style)
            if title == monitor:
                for group, top, (xs, ys) in tops:
                    if top is not None:
                        at = xs[ys.index(top.value)]
                        ax.plot(at, top.value, "o", markersize=7, mfc="none", mec=_colour(group), zorder=5)
            ax.set_xlabel("epoch")
            ax.set_title(f"{title} (dotted: train)" if fainter and lines else title)
            whole_numbers(ax)
        if len(names) <= _MOST_NAMED:
            handles = [
                figure.axes[0].plot([], [], color=_colour(group), linestyle=_style(group), label=label)[0]
                for group, label in sorted(names.items())
            ]
            fitting = int(_LETTERS * width / (max(map(len, names.values())) + 7))  # 7: the line before it
            columns = max(1, min(3, fitting, len(handles)))
            figure.legend(handles=handles, loc="outside lower left", ncols=columns)

    width = 9.6 if len(panels) > 1 else 7.0
    return render(draw, (width, 3.7))


def dots(groups: Sequence[tuple[str, Sequence[tuple[float, Interval | None]]]], metric: str) -> bytes | None:
    """`metric` of each run with its interval, one row a group, the mean as a tick; or None."""
    kept = [(label, [point for point in points if not np.isnan(point[0])]) for label, points in groups]
    kept = [(label, points) for label, points in kept if points]
    if not kept:
        return None

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        for position, (_, points) in enumerate(reversed(kept)):
            offsets = np.linspace(0.18, -0.18, len(points)) if len(points) > 1 else [0.0]
            for offset, (value, bounds) in zip(offsets, points, strict=True):
                if bounds is not None:
                    ax.plot(bounds, [position + offset] * 2, color=REAL, linewidth=1.4, alpha=0.55)
                _dot(ax, value, position + offset, REAL)
            if len(points) > 1:
                mean = float(np.mean([point[0] for point in points]))
                ax.plot([mean, mean], [position - 0.32, position + 0.32], color=INK, linewidth=1.6, zorder=3)
        _rows(ax, [label for label, _ in reversed(kept)])
        ax.set(xlabel=metric)
        upright = ", the upright line is the group's mean" if any(len(runs) > 1 for _, runs in kept) else ""
        _title(figure, f"{metric}: dots are runs with their 95 % interval{upright}")

    return render(draw, (9.6, 1.2 + _row(len(kept)) * len(kept)))


def differences(rows: Sequence[tuple[str, Difference]], metric: str, reference: str) -> bytes | None:
    """Each group minus the reference in `metric`, with its interval, dark where it leaves 0 out; or None."""
    if not rows:
        return None

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        ax.axvline(0, color=INK, linewidth=0.9)
        for position, (_, found) in enumerate(reversed(rows)):
            colour = INK if found.shown else FAINT
            width = 1.8 if found.shown else 1.2
            ax.plot([found.low, found.high], [position] * 2, color=colour, linewidth=width)
            _dot(ax, found.value, position, colour)
        _rows(ax, [label for label, _ in reversed(rows)])
        ax.set(xlabel=f"{metric}, difference to {reference}")
        _title(figure, "Difference on the same images with its 95 % interval; grey: 0 is inside")

    return render(draw, (9.6, 1.2 + _row(len(rows)) * len(rows)))


def _lines(runs: Sequence[tuple[str, int, Sequence[Row]]], name: str | None) -> list[_Line]:
    if name is None:
        return []
    found = [(label, group, *curve(rows, name)) for label, group, rows in runs]
    return [line for line in found if line[2]]


def _draw_groups(ax: Any, lines: Sequence[_Line], style: Any) -> None:
    """Every run thin; the mean of a group whose runs have values at the same epochs thick."""
    for group in dict.fromkeys(line[1] for line in lines):
        members = [(xs, ys) for _, number, xs, ys in lines if number == group]
        alone = len(members) == 1
        look = {"color": _colour(group), "linestyle": style or _style(group)}
        for xs, ys in members:
            dots = {"marker": "o", "markersize": 2.5} if len(xs) < 30 and style is None else {}
            ax.plot(xs, ys, linewidth=1.5 if alone else 0.8, alpha=0.9 if alone else 0.45, **look, **dots)
        shared = set.intersection(*(set(xs) for xs, _ in members))
        if not alone and shared:
            at = sorted(shared)
            mean = [float(np.mean([ys[xs.index(x)] for xs, ys in members])) for x in at]
            ax.plot(at, mean, linewidth=2.2 if style is None else 1.4, **look)


def _dot(ax: Any, x: float, y: float, colour: str) -> None:
    ax.plot(
        x, y, marker="o", color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.7, zorder=4
    )


def _rows(ax: Any, labels: Sequence[str]) -> None:
    """One line of the y axis a label, from below."""
    ax.set_yticks(range(len(labels)), ["\n".join(wrap(label, _LABEL)) for label in labels])
    ax.tick_params(axis="y", labelcolor=INK)
    ax.grid(axis="y", visible=False)
    ax.set_ylim(-0.6, len(labels) - 0.4)


def _row(rows: int) -> float:
    """Inches a row; of many, what two lines of a label take."""
    return 0.42 if rows <= 10 else 0.3


def _title(figure: Figure, text: str) -> None:
    """Above the labels, too, which may be wide: beside them a title would not fit."""
    figure.suptitle(text, x=0.006, ha="left", fontsize=9.5, fontweight="bold")


def _colour(group: int) -> str:
    return CYCLE[group % len(CYCLE)]


def _style(group: int) -> Any:
    return STYLES[group // len(CYCLE) % len(STYLES)]
