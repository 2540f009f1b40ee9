"""The pictures of a report, as PNG bytes. Callers import this module late: it brings matplotlib.

Class colours are always the same (blue real, red generated), splits have their own; all are from Paul Tol's
colour-blind safe `bright` scheme (SRON technical note, 2021), and no two lines differ in colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..evaluation.curves import Confusion, confusion, precision_recall, roc
from ..metrics.calibration import reliability
from .format import Interval
from .history import Best, Row, series
from .page import PNG_PIXELS_PER_INCH

REAL, GENERATED = "#4477AA", "#EE6677"
SPLIT_COLOUR = {"train": "#8A8F98", "val": "#228833", "test": "#AA3377"}
SPLIT_STYLE: dict[str, Any] = {"train": (0, (4, 2)), "val": "-", "test": "-."}
CYCLE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#3B3F46", "#999933")
STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
INK, FAINT, RULE = "#24292f", "#6b7280", "#e3e6ea"
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": "#b8bec7",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "savefig.dpi": PNG_PIXELS_PER_INCH,
}
WIDE, SQUARE = (9.6, 3.0), (4.7, 3.9)
MAX_POINTS = 2000


def training_curves(history: Sequence[Row], axis: str, monitor: str, best: Best | None) -> bytes | None:
    """Loss, scores and learning rate side by side over `axis`; None where the history holds none of them."""
    panels: list[tuple[str, list[tuple[str, str, Any, list[float], list[float]]]]] = []
    losses = _lines(history, axis, [(f"{split}/loss", split) for split in ("train", "val")])
    scores: list[tuple[str, str, Any, list[float], list[float]]] = []
    for split, name, colour, style in (
        ("train", "accuracy", SPLIT_COLOUR["train"], SPLIT_STYLE["train"]),
        ("val", "accuracy", SPLIT_COLOUR["val"], "-"),
        ("val", "auroc", "#4477AA", (0, (1, 1.5))),
    ):
        xs, ys = series(history, f"{split}/{name}", axis)
        if xs:
            scores.append((f"{split}/{name}", colour, style, xs, ys))
    if monitor not in {"train/loss", "val/loss", "train/accuracy", "val/accuracy", "val/auroc"}:
        xs, ys = series(history, monitor, axis)
        if xs:
            scores.append((monitor, "#AA3377", "-", xs, ys))
    rates: list[tuple[str, str, Any, list[float], list[float]]] = []
    for position, name in enumerate(sorted({key for row in history for key in row if key.startswith("lr/")})):
        xs, ys = series(history, name, axis)
        if xs:
            rates.append((name, CYCLE[position % len(CYCLE)], STYLES[position % len(STYLES)], xs, ys))
    for title, lines in (("Loss", losses), ("Accuracy, AUROC", scores), ("Learning rate", rates)):
        if lines:
            panels.append((title, lines))
    if not panels:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (title, lines) in zip(axes, panels, strict=True):
            for name, colour, style, xs, ys in lines:
                dots = {"marker": "o", "markersize": 3} if len(xs) < 30 else {}
                ax.plot(xs, ys, color=colour, linestyle=style, label=name, **dots)
            ax.set_title(title)
            ax.set_xlabel(axis)
            at = None if best is None else (best.epoch if axis == "epoch" else best.step)
            if at is not None:
                ax.axvline(at, color=INK, linewidth=0.8, alpha=0.55, linestyle=(0, (2, 2)), zorder=1)
            whole_numbers(ax)
            if title == "Learning rate":
                ax.set_ylim(bottom=0)
                ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
                ax.yaxis.get_offset_text().set_color(FAINT)
            ax.legend(loc="best")

    return render(draw, (9.6 if len(panels) == 3 else 3.3 * len(panels) + 1.0, 3.0))


def roc_curves(predictions: Mapping[str, pa.Table], aurocs: Mapping[str, float]) -> bytes | None:
    """One ROC curve a split; None where no split holds both classes."""
    curves = {split: roc(table) for split, table in predictions.items()}
    curves = {split: curve for split, curve in curves.items() if len(curve[0])}
    if not curves:
        return None

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        ax.plot([0, 1], [0, 1], color="#b8bec7", linewidth=0.9, label="chance")
        for split, (fpr, tpr) in curves.items():
            kept = _thin(len(fpr))
            ax.plot(
                fpr[kept],
                tpr[kept],
                color=_colour(split),
                linestyle=_style(split),
                zorder=3,
                label=f"{split}: AUROC {aurocs.get(split, float('nan')):.4f}",
            )
        ax.set(
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            xlabel="real images called generated",
            ylabel="generated images found",
        )
        ax.set_title(f"ROC ({_counts(predictions, curves)})")
        _percent_axes(ax, "both")
        ax.legend(loc="lower right")

    return render(draw, SQUARE)


def precision_recall_curves(predictions: Mapping[str, pa.Table], aps: Mapping[str, float]) -> bytes | None:
    """One precision-recall curve a split; None where no split holds both classes."""
    curves = {split: precision_recall(table) for split, table in predictions.items()}
    curves = {split: curve for split, curve in curves.items() if len(curve[0])}
    if not curves:
        return None

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        lowest = 1.0
        for split, (recall, precision) in curves.items():
            kept = _thin(len(recall))
            share = float((predictions[split]["label"].to_numpy() == 1).mean())
            lowest = min(lowest, share, float(precision.min()))
            ax.plot(
                recall[kept],
                precision[kept],
                color=_colour(split),
                linestyle=_style(split),
                zorder=3,
                label=f"{split}: AP {aps.get(split, float('nan')):.4f}",
            )
            ax.axhline(share, color="#b8bec7", linewidth=0.9)
            ax.annotate(
                f"chance {100 * share:.0f} %",
                (0, share),
                xytext=(2, 3),
                textcoords="offset points",
                color=FAINT,
                fontsize=7.5,
            )
        ax.set(
            xlim=(-0.01, 1.01),
            ylim=(max(0.0, lowest - 0.08), 1.01),
            xlabel="recall: generated images found",
            ylabel="precision: found images that are generated",
        )
        ax.set_title(f"Precision and recall ({_counts(predictions, curves)})")
        _percent_axes(ax, "both")
        ax.legend(loc="lower left" if lowest < 0.45 else "best")

    return render(draw, SQUARE)


def confusion_matrix(predictions: pa.Table, split: str) -> bytes | None:
    """Counts and row shares at logit 0; None for an empty table."""
    if not len(predictions):
        return None
    counts = confusion(predictions)

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        _matrix(ax, counts)
        ax.set_title(f"Confusion at logit 0 ({split}, {len(predictions):,} images)")

    return render(draw, SQUARE)


def score_histograms(predictions: pa.Table, split: str, tuned: float | None) -> bytes | None:
    """Logits by class, as densities of each class, with the thresholds; None for an empty table."""
    if not len(predictions):
        return None
    logit = predictions["logit"].to_numpy()
    label = predictions["label"].to_numpy()

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        low, high = np.quantile(logit, [0.001, 0.999])
        low, high = min(float(low), -1.0), max(float(high), 1.0)
        # 0 is always an edge between bins, so no bar stands on both sides of the decision
        width = (high - low) / 48
        edges = (np.arange(np.floor(low / width), np.ceil(high / width) + 1) * width).tolist()
        for value, name, colour in ((0, "real", REAL), (1, "generated", GENERATED)):
            scores = np.clip(logit[label == value], edges[0], edges[-1])
            if not len(scores):
                continue
            weights = np.full(len(scores), 1 / len(scores))
            ax.hist(scores, edges, weights=weights, color=colour, alpha=0.28, linewidth=0)
            ax.hist(
                scores,
                edges,
                weights=weights,
                color=colour,
                histtype="step",
                linewidth=1.5,
                label=f"{name} ({len(scores):,})",
            )
        ax.axvline(0, color=INK, linewidth=0.9)
        top = ax.get_ylim()[1]
        ax.set_ylim(0, top * 1.12)
        ax.annotate(
            "real ← 0 → generated",
            (0, top * 1.12),
            xytext=(0, -2),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.5,
            color=FAINT,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
        if tuned is not None:
            ax.axvline(
                tuned,
                color=SPLIT_COLOUR["val"],
                linewidth=1.1,
                linestyle=(0, (3, 2)),
                label=f"fitted on val: {tuned:+.2f}",
            )
        ax.set(xlabel="logit (the outermost bins hold what lies beyond)", ylabel="share of the class per bin")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        ax.set_title(f"Scores by class ({split}, {len(logit):,} images)")
        ax.legend(loc="upper right", bbox_to_anchor=(1.0, 0.93))

    return render(draw, SQUARE)


def generator_bars(
    rows: Sequence[tuple[str, float, float, float, Interval | None]], split: str
) -> bytes | None:
    """Accuracy of each generator with its interval, worst first, beside its real and fake accuracy.

    rows: (name, accuracy, real accuracy, fake accuracy, interval of the accuracy), shares in [0, 1] or NaN.
    """
    if not rows:
        return None
    ordered = sorted(rows, key=lambda row: (np.isnan(row[1]), row[1]), reverse=True)

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        for position, (_, accuracy, real, fake, bounds) in enumerate(ordered):
            if np.isnan(accuracy):
                continue
            ax.barh(
                position,
                accuracy,
                height=0.56,
                color="#d5dae1",
                zorder=2,
                label="accuracy, 95 % interval" if position == 0 else None,
            )
            if bounds is not None:
                ax.plot(bounds, [position, position], color=INK, linewidth=1.4, zorder=4)
            for value, colour, marker, text in (
                (real, REAL, "o", "on real images"),
                (fake, GENERATED, "D", "on generated images"),
            ):
                if not np.isnan(value):
                    ax.plot(
                        value,
                        position,
                        marker=marker,
                        color=colour,
                        markersize=5,
                        zorder=5,
                        linestyle="",
                        markeredgecolor="white",
                        markeredgewidth=0.7,
                        label=text if position == 0 else None,
                    )
        ax.set_yticks(range(len(ordered)), [row[0] for row in ordered])
        ax.tick_params(axis="y", labelcolor=INK)
        ax.grid(axis="y", visible=False)
        ax.axvline(0.5, color="#b8bec7", linewidth=0.9)
        ax.set(xlim=(0, 1.01), ylim=(-0.6, len(ordered) - 0.4), xlabel="accuracy at logit 0")
        _percent_axes(ax, "x")
        ax.set_title(f"By generator, worst first ({split})".replace("worst first", "worst at the bottom"))
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)

    return render(draw, (9.6, 1.25 + 0.34 * len(ordered)))


def reliability_diagram(predictions: pa.Table, split: str, ece: float, bins: int = 15) -> bytes | None:
    """Mean probability against observed share in equal bins, with counts; None for an empty table."""
    if not len(predictions):
        return None
    table = reliability(predictions["probability"].to_numpy(), predictions["label"].to_numpy(), bins)
    xs, ys = table.confidence, table.frequency

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        upper.plot([0, 1], [0, 1], color="#b8bec7", linewidth=0.9)
        upper.vlines(xs, np.minimum(xs, ys), np.maximum(xs, ys), color=GENERATED, alpha=0.35, linewidth=5)
        upper.plot(xs, ys, color=INK, marker="o", markersize=4, linewidth=1.3)
        upper.set(ylim=(-0.02, 1.02), ylabel="share generated")
        upper.set_title(f"Reliability ({split}, {len(predictions):,} images, ECE {ece:.3f})")
        lower.bar(
            table.lower,
            table.count,
            width=table.upper - table.lower,
            align="edge",
            color="#c3cad4",
            edgecolor="white",
        )
        lower.set(xlim=(-0.01, 1.01), xlabel="predicted probability of `generated`", ylabel="images")
        lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        _percent_axes(upper, "y")
        _percent_axes(lower, "x")

    return render(draw, SQUARE)


def render(draw: Callable[[Figure], None], size: tuple[float, float]) -> bytes:
    """PNG bytes of what `draw` puts on a fresh figure of `size` inches."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": ""})
    return buffer.getvalue()


def _lines(
    history: Sequence[Row], axis: str, wanted: Sequence[tuple[str, str]]
) -> list[tuple[str, str, Any, list[float], list[float]]]:
    found = [(name, _colour(split), _style(split), *series(history, name, axis)) for name, split in wanted]
    return [line for line in found if line[3]]


def _matrix(ax: Any, counts: Confusion) -> None:
    table = np.array(
        [
            [counts.real_as_real, counts.real_as_generated],
            [counts.generated_as_real, counts.generated_as_generated],
        ],
        dtype=np.float64,
    )
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    for row in range(2):
        for column in range(2):
            colour = "white" if shares[row, column] > 0.7 else INK
            ax.text(
                column,
                row - 0.06,
                f"{int(table[row, column]):,}",
                ha="center",
                va="center",
                color=colour,
                fontsize=14,
                fontweight="bold",
            )
            share = f"{100 * shares[row, column]:.1f} %" if totals[row, 0] else "no such image"
            ax.text(column, row + 0.16, share, ha="center", va="center", color=colour, fontsize=8.5)
    ax.set_xticks([0, 1], ["called real", "called generated"])
    ax.set_yticks([0, 1], [f"real\n({int(totals[0, 0]):,})", f"generated\n({int(totals[1, 0]):,})"])
    ax.tick_params(labelcolor=INK)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.axhline(0.5, color="white", linewidth=3)
    ax.axvline(0.5, color="white", linewidth=3)


def _thin(length: int) -> Any:
    """Positions of at most MAX_POINTS points, first and last included; more could not be seen."""
    if length <= MAX_POINTS:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, MAX_POINTS).round().astype(int))


def _counts(predictions: Mapping[str, pa.Table], splits: Mapping[str, object]) -> str:
    return ", ".join(f"{split} {len(predictions[split]):,}" for split in splits) + " images"


def _colour(split: str) -> str:
    return SPLIT_COLOUR.get(split, INK)


def _style(split: str) -> Any:
    return SPLIT_STYLE.get(split, ":")


def _percent_axes(ax: Any, which: str) -> None:
    form = FuncFormatter(lambda value, _: f"{100 * value:.0f} %")
    if which in ("x", "both"):
        ax.xaxis.set_major_formatter(form)
    if which in ("y", "both"):
        ax.yaxis.set_major_formatter(form)


def whole_numbers(ax: Any) -> None:
    """No half epochs on the x axis."""
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
