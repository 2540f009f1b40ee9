"""The pictures of predictions, as PNG bytes. Callers import this module late: it brings matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..evaluation.curves import Confusion, confusion, precision_recall, roc
from ..metrics.calibration import reliability
from .figure import (
    FAINT,
    GENERATED,
    INK,
    REAL,
    SPLIT_COLOUR,
    SPLIT_STYLE,
    percent_axes,
    render,
)
from .format import Interval

SQUARE = (4.7, 3.9)
MAX_POINTS = 2000


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
        percent_axes(ax, "both")
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
        percent_axes(ax, "both")
        ax.legend(loc="center left")

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
            if bounds is not None:
                ax.plot(bounds, [position, position], color=INK, linewidth=1.6, zorder=3)
            for value, colour, marker, text in (
                (accuracy, INK, "s", "all, with 95 % interval"),
                (real, REAL, "o", "real"),
                (fake, GENERATED, "D", "generated"),
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
        shares = [share for row in ordered for share in row[1:4] if not np.isnan(share)]
        lowest = min([0.9, *shares, *(row[4][0] for row in ordered if row[4] is not None)])
        ax.set(
            xlim=(max(0.0, lowest - 0.03), 1.005),
            ylim=(-0.6, len(ordered) - 0.4),
            xlabel="share of images judged rightly at logit 0",
        )
        percent_axes(ax, "x")
        ax.set_title(f"Judged rightly by generator, worst first ({split})")
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)

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
        percent_axes(upper, "y")
        percent_axes(lower, "x")

    return render(draw, SQUARE)


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
