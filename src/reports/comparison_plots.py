"""The pictures of a comparison, as PNG bytes. Callers import this module late: it brings matplotlib."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .figure import CYCLE, INK, REAL, STYLES, render, whole_numbers
from .format import Interval
from .history import Row, series


def overlaid_curves(runs: Sequence[tuple[str, int, Sequence[Row]]], monitor: str) -> bytes | None:
    """`monitor` over the epochs, one line a run, one colour a group; None where no run has it.

    runs: (label of the group, number of the group, history).
    """
    lines = [(label, group, *series(rows, monitor, "epoch")) for label, group, rows in runs]
    lines = [line for line in lines if line[2]]
    if not lines:
        return None

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        named: set[int] = set()
        for label, group, xs, ys in lines:
            ax.plot(
                xs,
                ys,
                color=CYCLE[group % len(CYCLE)],
                linestyle=STYLES[group // len(CYCLE) % len(STYLES)],
                linewidth=1.5,
                alpha=0.9,
                marker="o" if len(xs) < 30 else None,
                markersize=2.5,
                label=None if group in named else label,
            )
            named.add(group)
        ax.set(xlabel="epoch", ylabel=monitor)
        ax.set_title(f"{monitor}: {len(lines)} runs, one colour for each group")
        whole_numbers(ax)
        if len(named) <= 12:
            ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))

    return render(draw, (9.6, 3.6))


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
                ax.plot(
                    value,
                    position + offset,
                    marker="o",
                    color=REAL,
                    markersize=5,
                    markeredgecolor="white",
                    markeredgewidth=0.7,
                    zorder=4,
                )
            if len(points) > 1:
                mean = float(np.mean([point[0] for point in points]))
                ax.plot([mean, mean], [position - 0.32, position + 0.32], color=INK, linewidth=1.6, zorder=3)
        ax.set_yticks(range(len(kept)), [label for label, _ in reversed(kept)])
        ax.tick_params(axis="y", labelcolor=INK)
        ax.grid(axis="y", visible=False)
        ax.set(xlabel=metric, ylim=(-0.6, len(kept) - 0.4))
        ax.set_title(
            f"{metric}: dots are runs with their 95 % interval, the upright line is the group's mean"
        )

    return render(draw, (9.6, 1.2 + 0.42 * len(kept)))
