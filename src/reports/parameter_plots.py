"""The pictures of a sweep's parameters, as PNG bytes. Imported late, since it brings matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from .figure import FAINT, GENERATED, INK, REAL, render
from .labels import ABSENT, short
from .parameters import Parameter, Varied

BEST = GENERATED
PRUNED = "#aab1bb"
WIDE = 9.6
MANY = 40
"""Runs of whose lines only those of the best third are drawn in full."""
FEW = 12
"""Values of a number that are ticks, and whose runs have a mean; of more there are too few runs each."""
_WORSE_TO_BETTER = LinearSegmentedColormap.from_list("figure", ("#cfdceb", "#7fa6cf", REAL, "#1c3d63"))
_FAR_OUT = 3.0  # quartile distances beyond which a bad run would press all others together (Tukey, 1977)
_TICK = 18  # letters of an option beside its axis
_RIBBON = 0.028  # of an axis' height to either side, over which the runs of one value are spread
_PANELS = 3


def parallel_coordinates(varied: Varied) -> bytes:
    """One axis a parameter and the monitored figure as the last; a line a run, the best one red, pruned grey.

    The runs that share a value are spread a little around it, in the order of their figure.
    """
    low, high = limits([*varied.finished.values(), *varied.pruned.values()], varied.mode)
    parameters = varied.parameters
    last = len(parameters)
    figures = varied.pruned | varied.finished
    order = sorted(figures, key=lambda run: figures[run])
    heights = {
        run: [*row, (min(max(figures[run], low), high) - low) / (high - low)]
        for run, row in _heights(parameters, order).items()
    }
    norm = Normalize(low, high)
    colours = _WORSE_TO_BETTER if varied.mode == "max" else _WORSE_TO_BETTER.reversed()
    best = varied.best.name
    many = len(varied.finished) > MANY
    shown = list(varied.finished)[: len(varied.finished) // 3] if many else list(varied.finished)

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        ax.set_axis_off()
        ax.set(xlim=(-0.09 * last, last * 1.11), ylim=(-0.16, 1.24))
        for run in varied.pruned:
            ax.plot(heights[run], color=PRUNED, linewidth=0.6, alpha=0.7, zorder=1.5)
        for run in reversed(varied.finished):  # the better a run, the later it is drawn
            if run != best:
                colour, alpha = colours(norm(figures[run])), 0.85 if run in shown else 0.22
                ax.plot(heights[run], color=colour, linewidth=1.0 if many else 1.4, alpha=alpha, zorder=2)
        ax.plot(heights[best], color=BEST, linewidth=2.6, zorder=4, solid_joinstyle="round")
        for place, parameter in enumerate(parameters):
            missing = any(run not in parameter.values for run in figures)
            _axis(ax, place, parameter.name, _ticks(parameter), missing)
            _below(ax, place, _clipped(short(parameter.key, parameter.typed.get(best, ABSENT))))
        ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
        spots = [((tick - low) / (high - low), f"{tick:g}") for tick in ticks]
        better = "higher" if varied.mode == "max" else "lower"
        _axis(ax, last, f"{varied.monitor}\n({better} is better)", spots, False, right=True)
        _below(ax, last, f"{figures[best]:.4g}")
        strip = colours(np.linspace(0, 1, 256))[:, None, :]
        ax.imshow(strip, extent=(last + 0.015, last + 0.055, 0, 1), origin="lower", aspect="auto", zorder=3)
        said = f"A line a run; red, its values below: the best, run {best}"
        said += "; pale: all but the best third" if many else ""
        said += "; grey: pruned, at its last value" if varied.pruned else ""
        _title(figure, said + _cut_off(figures.values(), low, high), WIDE)

    return render(draw, (WIDE, 4.3))


def panels(varied: Varied) -> bytes:
    """The monitored figure over each parameter: a dot a run, mean and deviation of those of one value."""
    low, high = limits([*varied.finished.values(), *varied.pruned.values()], varied.mode)
    margin = 0.06 * (high - low)
    columns = min(_PANELS, len(varied.parameters))
    rows = math.ceil(len(varied.parameters) / columns)
    wide = {1: 5.6, 2: 7.6}.get(columns, WIDE)
    figures = varied.pruned | varied.finished

    def draw(figure: Figure) -> None:
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for ax in axes.flat[len(varied.parameters) :]:
            ax.set_axis_off()
        for ax, parameter in zip(axes.flat, varied.parameters, strict=False):
            _panel(ax, parameter, varied, low, high)
            ax.set_ylim(low - margin, high + margin)
        for row in axes:
            row[0].set_ylabel(varied.monitor)
        means = any(_means(one, varied.finished, low, high) for one in varied.parameters)
        said = "A dot a run, red: the best"
        said += "; bars: mean ± standard deviation of the runs of one value" if means else ""
        said += "; grey crosses: pruned, at their last value" if varied.pruned else ""
        said += _cut_off(figures.values(), low, high)
        _title(figure, said + (" and in no bar" if means and "edge" in said else ""), wide)

    return render(draw, (wide, 0.6 + 2.75 * rows))


def limits(values: Sequence[float], mode: str) -> tuple[float, float]:
    """The ends of the figure's axis: all values, unless bad ones lie far out behind the worse quartile."""
    first, third = np.quantile(values, [0.25, 0.75])
    low, high = min(values), max(values)
    far = _FAR_OUT * (third - first)
    if far > 0 and mode == "max":
        low = min(value for value in values if value >= first - far)
    elif far > 0:
        high = max(value for value in values if value <= third + far)
    if low == high:
        pad = abs(low) * 0.05 or 0.5
        return float(low - pad), float(high + pad)
    return float(low), float(high)


def _cut_off(values: Any, low: float, high: float) -> str:
    beyond = sum(not low <= value <= high for value in values)
    return f"; {beyond} far worse, at the edge" if beyond else ""


def _heights(parameters: Sequence[Parameter], order: Sequence[str]) -> dict[str, list[float]]:
    """Where each run's line crosses each axis, 0 to 1; below it where the run lacks the parameter."""
    heights: dict[str, list[float]] = {run: [] for run in order}
    for parameter in parameters:
        sharing: dict[float, list[str]] = {}
        for run in order:
            at = parameter.values.get(run)
            sharing.setdefault(-0.07 if at is None else _scaled(parameter, at), []).append(run)
        gap = min(0.5 / len(sharing), _RIBBON)
        for at, runs in sharing.items():
            spread = np.linspace(-gap, gap, len(runs)) if len(runs) > 1 else np.zeros(1)
            for run, offset in zip(runs, spread, strict=True):
                heights[run].append(at + float(offset))
    return heights


def _scaled(parameter: Parameter, value: float) -> float:
    """A value's height on its axis, 0 to 1."""
    low, high = min(parameter.values.values()), max(parameter.values.values())
    if parameter.scale == "log":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _ticks(parameter: Parameter) -> list[tuple[float, str]]:
    """(height, words) of what is written beside an axis."""
    if parameter.options:
        places = [(_scaled(parameter, float(place)), word) for place, word in enumerate(parameter.options)]
        return [(at, _clipped(word)) for at, word in places]
    values = parameter.distinct
    if len(values) > FEW or not _apart([_scaled(parameter, value) for value in values], 0.05):
        low, high = values[0], values[-1]
        locator = LogLocator(subs=(1.0,)) if parameter.scale == "log" else MaxNLocator(5)
        inner = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
        ends = [_scaled(parameter, low), _scaled(parameter, high)]
        inner = [tick for tick in inner if all(abs(_scaled(parameter, tick) - end) > 0.06 for end in ends)]
        values = [low, *inner, high]
    return [(_scaled(parameter, value), f"{value:.3g}") for value in values]


def _clipped(word: str) -> str:
    return word if len(word) <= _TICK else word[: _TICK - 1] + "…"


def _apart(heights: Sequence[float], distance: float) -> bool:
    return all(second - first >= distance for first, second in pairwise(heights))


def _axis(
    ax: Any, place: float, name: str, ticks: Sequence[tuple[float, str]], missing: bool, right: bool = False
) -> None:
    ax.plot([place, place], [0, 1], color=FAINT, linewidth=1.0, zorder=3)
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    side = {"ha": "left"} if right else {"ha": "right"}
    for height, word in [*ticks, *([(-0.07, "not there")] if missing else [])]:
        ax.plot([place - 0.015, place + 0.015], [height, height], color=FAINT, linewidth=1.0, zorder=3)
        at = place + (0.08 if right else -0.03)
        ax.text(at, height, word, va="center", fontsize=7.5, color=FAINT, bbox=box, zorder=5, **side)
    lines = [line for part in name.split("\n") for line in wrap(part.replace("_", "_ "), 16)]
    words = "\n".join(lines).replace("_ ", "_")
    ax.text(place, 1.06, words, ha="center", va="bottom", fontsize=8.5, fontweight="bold", color=INK)


def _below(ax: Any, place: float, word: str) -> None:
    ax.text(place, -0.13, word, ha="center", va="center", fontsize=8, fontweight="bold", color=BEST)


def _panel(ax: Any, parameter: Parameter, varied: Varied, low: float, high: float) -> None:
    jitter = _jitter(parameter, [*varied.finished, *varied.pruned])
    best = varied.best.name
    edge = "v" if varied.mode == "max" else "^"
    for runs, marker, look in (
        (varied.pruned, "x", {"color": PRUNED, "markersize": 4, "alpha": 0.9}),
        (varied.finished, "o", {"color": REAL, "markersize": 4.5, "alpha": 0.55, "mew": 0}),
    ):
        for shape, inside in ((marker, True), (edge, False)):
            there = [
                run
                for run in runs
                if run in parameter.values and run != best and (low <= runs[run] <= high) is inside
            ]
            xs = [parameter.values[run] + jitter[run] for run in there]
            ys = [min(max(runs[run], low), high) for run in there]
            ax.plot(xs, ys, linestyle="none", marker=shape, **look)
    for at, (mean, deviation) in _means(parameter, varied.finished, low, high).items():
        ax.errorbar(
            at, mean, deviation, color=INK, marker="_", markersize=11, mew=1.8, elinewidth=1.1, capsize=2.5,
            zorder=3,
        )  # fmt: skip
    if best in parameter.values:
        ax.plot(
            parameter.values[best] + jitter[best], min(max(varied.finished[best], low), high), "o",
            color=BEST, markersize=6, markeredgecolor="white", markeredgewidth=0.8, zorder=5,
        )  # fmt: skip
    lacking = sum(run not in parameter.values for run in varied.finished)
    ax.set_title("\n".join(wrap(parameter.name, 34)) + (f" (not in {lacking} runs)" if lacking else ""))
    _x_axis(ax, parameter)


def _x_axis(ax: Any, parameter: Parameter) -> None:
    if parameter.options:
        words = ["\n".join(wrap(word, 12)[:2]) for word in parameter.options]
        crowded = sum(max(map(len, word.split("\n"))) for word in words) > 36
        ax.set_xticks(range(len(words)), parameter.options if crowded else words)
        if crowded:
            ax.tick_params(axis="x", labelrotation=40, labelsize=7.5)
            for label in ax.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        ax.set_xlim(-0.6, len(words) - 0.4)
        ax.grid(axis="x", visible=False)
        return
    form = FuncFormatter(lambda value, _: f"{value:g}")
    heights = [_scaled(parameter, value) for value in parameter.distinct]
    if parameter.scale == "log":
        ax.set_xscale("log")
    ax.margins(x=0.08)
    if len(heights) <= 6 and _apart(heights, 0.12):
        ax.xaxis.set_major_locator(FixedLocator(parameter.distinct))
    elif parameter.scale == "linear":
        ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(form)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", which="minor", length=0)


def _jitter(parameter: Parameter, runs: Sequence[str]) -> dict[str, float]:
    """Runs of one option beside each other, always the same way; numbers stand where they are."""
    if not parameter.options:
        return dict.fromkeys(runs, 0.0)
    sharing: dict[float, list[str]] = {}
    for run in runs:
        sharing.setdefault(parameter.values[run], []).append(run)
    found: dict[str, float] = {}
    for members in sharing.values():
        # the golden ratio leaves no two neighbours of the order beside each other
        steps = [(place * 0.618034) % 1 - 0.5 if len(members) > 1 else 0.0 for place in range(len(members))]
        found |= {run: 0.5 * step for run, step in zip(members, steps, strict=True)}
    return found


def _means(
    parameter: Parameter, finished: Mapping[str, float], low: float, high: float
) -> dict[float, tuple[float, float]]:
    """Value → (mean, sample deviation) of the runs that share it, those at the edge left out.

    Empty where most values are a run's own.
    """
    if not parameter.options and len(parameter.distinct) > FEW:
        return {}
    sharing: dict[float, list[float]] = {}
    for run, figure in finished.items():
        if run in parameter.values and low <= figure <= high:
            sharing.setdefault(parameter.values[run], []).append(figure)
    return {at: (float(np.mean(ys)), float(np.std(ys, ddof=1))) for at, ys in sharing.items() if len(ys) > 1}


def _title(figure: Figure, text: str, width: float) -> None:
    """Over as many lines as a figure so many inches wide needs."""
    lines = "\n".join(wrap(text, int(11.5 * width)))
    figure.suptitle(lines, x=0.006, ha="left", fontsize=9.5, fontweight="bold")
