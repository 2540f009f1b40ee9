"""The picture of a training, as PNG bytes. Callers import this module late: it brings matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .figure import CYCLE, INK, REAL, SPLIT_COLOUR, SPLIT_STYLE, STYLES, render, whole_numbers
from .history import Best, Row, curve


def training_curves(history: Sequence[Row], monitor: str, best: Best | None) -> bytes | None:
    """Loss, the monitored figure and its kin, and learning rate over the epochs, the best epoch marked.

    None where the history holds none of them.
    """
    panels = [panel for panel in _training_panels(history, monitor) if panel[1]]
    if not panels:
        return None
    at = None if best is None else _epoch_of(history, monitor, best)

    def draw(figure: Figure) -> None:
        widths = [0.8 if title == "Learning rate" else 1.25 for title, _ in panels]
        axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
        for ax, (title, lines) in zip(axes, panels, strict=True):
            for line in lines:
                dots = {"marker": "o", "markersize": 3} if len(line.xs) < 30 and line.width > 1 else {}
                ax.plot(
                    line.xs,
                    line.ys,
                    color=line.colour,
                    linestyle=line.style,
                    linewidth=line.width,
                    alpha=1.0 if line.width > 1 else 0.5,
                    label=line.name,
                    **dots,
                )
            ax.set_title(title)
            ax.set_xlabel("epoch")
            whole_numbers(ax)
            if best is not None and at is not None:
                ax.axvline(at, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
                if any(line.name == monitor for line in lines):
                    _mark(ax, at, best)
            if title == "Learning rate":
                ax.set_ylim(bottom=0)
                ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.legend(loc="best")

    return render(draw, (10.4 if len(panels) == 3 else 3.9 * len(panels) + 0.8, 3.3))


@dataclass(frozen=True)
class _Line:
    """A named curve over the epochs passed and how it is drawn."""

    name: str
    colour: str
    style: Any
    width: float
    xs: list[float]
    ys: list[float]


def _training_panels(history: Sequence[Row], monitor: str) -> list[tuple[str, list[_Line]]]:
    """(title, lines) of loss, scores and learning rate, as far as logged; the monitored line thick."""

    def line(name: str, colour: str, style: Any = "-", width: float = 1.4) -> _Line:
        return _Line(name, colour, style, 2.4 if name == monitor else width, *curve(history, name))

    losses = [
        line(f"{split}/loss", SPLIT_COLOUR[split], SPLIT_STYLE[split], 1.8) for split in ("train", "val")
    ]
    steps = line("train/loss_step", SPLIT_COLOUR["train"], "-", 0.7)
    if len(steps.xs) > max(3, 2 * len(losses[0].xs)):  # else they are the epochs once more
        losses.insert(0, steps)
    scores = [
        line("train/accuracy", SPLIT_COLOUR["train"], SPLIT_STYLE["train"]),
        line("val/accuracy", SPLIT_COLOUR["val"]),
        line("val/auroc", REAL, (0, (1, 1.5)) if monitor != "val/auroc" else "-"),
    ]
    drawn = {found.name for found in (*losses, *scores)}
    if monitor not in drawn:
        scores.append(line(monitor, SPLIT_COLOUR["test"]))
    rates: list[_Line] = []
    for name in sorted({name for row in history for name in row if name.startswith("lr/")}):
        rate = line(name, CYCLE[len(rates) % len(CYCLE)], STYLES[len(rates) % len(STYLES)], 1.8)
        if all(rate.ys != other.ys for other in rates):  # groups with and without decay have one rate
            rates.append(rate)
    title = "Accuracy, AUROC" if monitor in drawn else f"Accuracy, AUROC, {monitor}"
    panels = (("Loss", losses), (title, scores), ("Learning rate", rates))
    return [(title, [found for found in lines if found.xs]) for title, lines in panels]


def _epoch_of(history: Sequence[Row], monitor: str, best: Best) -> float | None:
    """Where on the axis of epochs the best value stands."""
    xs, ys = curve(history, monitor)
    return next((x for x, y in zip(xs, ys, strict=True) if y == best.value), None)


def _mark(ax: Any, at: float, best: Best) -> None:
    """A ring around the best value; value and epoch in words above the panel, where no curve runs."""
    ax.plot(at, best.value, marker="o", markersize=9, markerfacecolor="none", markeredgecolor=INK, zorder=6)
    where = "" if best.epoch is None else f", epoch {best.epoch + 1:g}"
    ax.set_title(f"best {best.value:.4f}{where}", loc="right", fontsize=8.5, fontweight="normal", color=INK)
