"""The picture of a training, as PNG bytes. Callers import this module late: it brings matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .figure import CYCLE, INK, REAL, SPLIT_COLOUR, SPLIT_STYLE, STYLES, render, whole_numbers
from .history import Best, Row, curve

_RATE = "Learning rate"
_COLUMNS = 3


@dataclass(frozen=True)
class Panel:
    """What is drawn together: (name, colour, style, width) of each line.

    from_zero: the axis begins at 0. unless_zero: lines that are 0 throughout say nothing and are left out.
    """

    title: str
    lines: tuple[tuple[str, str, Any, float], ...]
    from_zero: bool = False
    unless_zero: bool = False


_TRAIN_LOSS = ("train/loss", SPLIT_COLOUR["train"], SPLIT_STYLE["train"], 1.8)
DETECTION = (
    Panel("Loss", (_TRAIN_LOSS, ("val/loss", SPLIT_COLOUR["val"], SPLIT_STYLE["val"], 1.8))),
    Panel(
        "Accuracy, AUROC",
        (
            ("train/accuracy", SPLIT_COLOUR["train"], SPLIT_STYLE["train"], 1.4),
            ("val/accuracy", SPLIT_COLOUR["val"], "-", 1.4),
            ("val/auroc", REAL, (0, (1, 1.5)), 1.4),
        ),
    ),
)
RETRIEVAL = (
    Panel("Loss", (_TRAIN_LOSS,)),
    Panel(
        "Queries found",
        tuple(
            (f"val/{name}", CYCLE[number], STYLES[number], 1.4)
            for number, name in enumerate(
                ("map_at_r", "recall_at_1", "knn_accuracy", "knn_balanced_accuracy")
            )
        ),
    ),
    Panel("Spread of the embeddings", (("val/embedding/spread", SPLIT_COLOUR["val"], "-", 1.8),), True),
    Panel("Batches with nothing to learn", (("train/zero_triplet_batches", INK, "-", 1.8),), True, True),
)
"""There is no validation loss: validation searches."""
CAPTIONING = (
    DETECTION[0],
    Panel(
        "Captions written",
        tuple(
            (f"val/{name}", CYCLE[number], STYLES[number], 1.4)
            for number, name in enumerate(("rouge_l", "bleu_4", "exact_match"))
        ),
        True,
    ),
    Panel("CIDEr-D", (("val/cider", SPLIT_COLOUR["val"], "-", 1.4),), True),
)
ANSWERS = (
    DETECTION[0],
    Panel(
        "Answers written",
        tuple(
            (f"val/{name}", CYCLE[number], STYLES[number], 1.4)
            for number, name in enumerate(("exact_match", "token_f1", "rouge_l"))
        ),
        True,
    ),
)


def training_curves(
    history: Sequence[Row], monitor: str, best: Best | None, panels: Sequence[Panel]
) -> bytes | None:
    """The panels and the learning rate over the epochs, as far as logged, the best epoch marked.

    The first panel also has the loss step by step, the second a monitored figure that none has. None where
    the history holds nothing of all that.
    """
    drawn = [(panel, lines) for panel, lines in _training_panels(history, monitor, panels) if lines]
    if not drawn:
        return None
    at = None if best is None else _epoch_of(history, monitor, best)
    rows = -(-len(drawn) // _COLUMNS)
    columns = -(-len(drawn) // rows)

    def draw(figure: Figure) -> None:
        alone = rows == 1  # only then does a narrow panel stand below no wide one
        widths = [0.8 if alone and panel.title == _RATE else 1.25 for panel, _ in drawn[:columns]]
        axes = figure.subplots(rows, columns, squeeze=False, width_ratios=widths).flatten()
        for ax, (panel, lines) in zip(axes, drawn, strict=False):
            _draw_panel(ax, panel, lines)
            if best is not None and at is not None:
                ax.axvline(at, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
                if any(line.name == monitor for line in lines):
                    _mark(ax, at, best)
            ax.legend(loc="best")
        for ax in axes[len(drawn) :]:
            ax.set_axis_off()

    return render(draw, (10.4 if columns == 3 else 3.9 * columns + 0.8, 3.3 if rows == 1 else 2.8 * rows))


def _draw_panel(ax: Any, panel: Panel, lines: Sequence[_Line]) -> None:
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
    ax.set_title(panel.title)
    ax.set_xlabel("epoch")
    whole_numbers(ax)
    if panel.from_zero:
        ax.set_ylim(bottom=0)
    if panel.title == _RATE:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


@dataclass(frozen=True)
class _Line:
    """A named curve over the epochs passed and how it is drawn."""

    name: str
    colour: str
    style: Any
    width: float
    xs: list[float]
    ys: list[float]


def _training_panels(
    history: Sequence[Row], monitor: str, panels: Sequence[Panel]
) -> list[tuple[Panel, list[_Line]]]:
    """Panels with their lines and the learning rate's, as far as logged; the monitored line thick, solid."""

    def line(name: str, colour: str, style: Any = "-", width: float = 1.4) -> _Line:
        monitored = name == monitor
        return _Line(
            name, colour, "-" if monitored else style, 2.4 if monitored else width, *curve(history, name)
        )

    found = [(panel, [line(*one) for one in panel.lines]) for panel in panels]
    drawn = {one.name for _, lines in found for one in lines}
    losses = found[0][1]
    steps = line("train/loss_step", SPLIT_COLOUR["train"], "-", 0.7)
    if len(steps.xs) > max(3, 2 * len(losses[0].xs)):  # else they are the epochs once more
        losses.insert(0, steps)
    if monitor not in drawn:
        panel, scores = found[1]
        found[1] = (
            replace(panel, title=f"{panel.title}, {monitor}"),
            [*scores, line(monitor, SPLIT_COLOUR["test"])],
        )
    rates: list[_Line] = []
    for name in sorted({name for row in history for name in row if name.startswith("lr/")}):
        rate = line(name, CYCLE[len(rates) % len(CYCLE)], STYLES[len(rates) % len(STYLES)], 1.8)
        if all(rate.ys != other.ys for other in rates):  # groups with and without decay have one rate
            rates.append(rate)
    found.append((Panel(_RATE, (), from_zero=True), rates))
    return [
        (panel, [one for one in lines if one.xs and (not panel.unless_zero or any(one.ys))])
        for panel, lines in found
    ]


def _epoch_of(history: Sequence[Row], monitor: str, best: Best) -> float | None:
    """Where on the axis of epochs the best value stands."""
    xs, ys = curve(history, monitor)
    return next((x for x, y in zip(xs, ys, strict=True) if y == best.value), None)


def _mark(ax: Any, at: float, best: Best) -> None:
    """A ring around the best value; value and epoch in words above the panel, where no curve runs."""
    ax.plot(at, best.value, marker="o", markersize=9, markerfacecolor="none", markeredgecolor=INK, zorder=6)
    where = "" if best.epoch is None else f", epoch {best.epoch + 1:g}"
    ax.set_title(f"best {best.value:.4f}{where}", loc="right", fontsize=8.5, fontweight="normal", color=INK)
