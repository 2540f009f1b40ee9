"""The pictures of a search, as PNG bytes. Callers import this module late: it brings matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ..evaluation.retrieval import Judged
from ..evaluation.retrieval_predictions import embeddings
from ..evaluation.retrieval_tables import confusion, separation
from ..metrics.open_set import rejection_curve
from ..metrics.retrieval import cmc
from .figure import CYCLE, INK, SPLIT_COLOUR, SPLIT_STYLE, percent_axes, render

SQUARE = (4.7, 3.9)
WIDE = 9.6
MOST_CLASSES = 20
"""A confusion matrix of more can't be read: it shows those that are confused most."""
MOST_POINTS = 2000
MARKERS = ("o", "s", "^", "D", "v", "P", "h", "<")
RIGHT, WRONG = "#228833", "#CC3311"


def confusion_matrix(judged: Judged) -> bytes | None:
    """Counts and row shares by the rule that was chosen; None without a query.

    Classes of no query and that none is taken for are left out; of more than 20, those with the most
    confusions are shown and the rest stands together in the last column.
    """
    found = confusion(judged)
    named = found.counts[:, :-1]
    seen = np.flatnonzero(found.counts.sum(axis=1) + named.sum(axis=0))
    wrong = found.counts.sum(axis=1) + named.sum(axis=0) - 2 * named.diagonal()
    kept = seen
    if len(seen) > MOST_CLASSES:
        kept = np.sort(seen[np.lexsort((seen, -wrong[seen]))][:MOST_CLASSES])
    if not len(kept):
        return None
    counts = named[np.ix_(kept, kept)]
    columns = [found.names[place] for place in kept]
    beyond = found.counts[kept].sum(axis=1) - counts.sum(axis=1)
    if beyond.any():
        counts = np.concatenate([counts, beyond[:, None]], axis=1)
        left_out = len(kept) < len(seen)
        columns.append("any other" if left_out else "no answer")
    title = (
        "Named as, row by row"
        if len(kept) == len(seen)
        else f"The {len(kept)} of {len(seen)} classes confused most"
    )
    rows = [f"{found.names[place]} ({int(found.counts[place].sum()):,})" for place in kept]

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        _matrix(ax, counts, rows, columns)
        ax.set_title(f"{title} ({len(judged.queries):,} queries)")

    side = 0.36 * len(kept)
    return render(draw, (min(WIDE, 3.0 + 1.3 * side), 1.9 + side))


def cmc_curves(judged: Mapping[str, Judged]) -> bytes | None:
    """One cumulative match curve a split; None where no split has a known query."""
    curves = {split: cmc(one.answers).numpy() for split, one in judged.items() if one.answers.known.any()}
    if not curves:
        return None

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        last = max(int(np.argmax(curve >= curve[-1])) + 1 for curve in curves.values())
        for split, curve in curves.items():
            shown = curve[: max(last, 10)]
            ax.step(
                np.arange(1, len(shown) + 1),
                shown,
                where="post",
                color=_colour(split),
                linestyle=_style(split),
                label=f"{split}: rank 1 {100 * curve[0]:.1f} %",
            )
        lowest = min(float(curve[0]) for curve in curves.values())
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.set(
            ylim=(max(0.0, lowest - 0.1), 1.01),
            xlabel="among the first k gallery images",
            ylabel="queries with one of their class",
        )
        ax.set_title("Found by rank (CMC)")
        percent_axes(ax, "y")
        ax.legend(loc="lower right")

    return render(draw, SQUARE)


def rejection_curves(judged: Mapping[str, Judged]) -> bytes | None:
    """How right the answers are when the least similar are rejected, a curve a split; None without any."""
    curves = {
        split: rejection_curve(one.answers.similarity[:, 0], one.answers.hits(one.rule))
        for split, one in judged.items()
        if len(one.queries)
    }
    if not curves:
        return None

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        lowest = 1.0
        for split, curve in curves.items():
            coverage, accuracy = curve.coverage.numpy(), curve.accuracy.numpy()
            count = len(judged[split].queries)  # the first few of them are too few for a share
            steady = coverage * count >= min(50, 0.1 * count)
            lowest = min(lowest, float(accuracy[steady].min()))
            ax.plot(
                coverage[steady],
                accuracy[steady],
                color=_colour(split),
                linestyle=_style(split),
                label=f"{split}: all answered {100 * accuracy[-1]:.1f} %",
            )
        ax.set(
            xlim=(-0.01, 1.01),
            ylim=(max(0.0, lowest - 0.08), 1.01),
            xlabel="queries answered, the most similar first",
            ylabel="of them named rightly",
        )
        ax.set_title("Rejecting what is not similar enough")
        percent_axes(ax, "both")
        ax.legend(loc="lower left")

    return render(draw, SQUARE)


def similarity_histograms(judged: Judged) -> bytes | None:
    """Each query's similarity to its nearest right and its nearest wrong gallery row; None without either."""
    right, wrong = (side[np.isfinite(side)] for side in separation(judged))
    if not len(right) and not len(wrong):
        return None

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        both = np.concatenate([right, wrong])
        low, high = float(np.quantile(both, 0.002)), min(1.0, float(both.max()))
        bins = min(48, max(12, int(2 * np.sqrt(len(right) + len(wrong)))))
        edges = np.linspace(min(low, high - 1e-3), high, bins + 1).tolist()
        for values, name, colour, fill in (
            (right, "nearest of its own class", RIGHT, 0.28),
            (wrong, "nearest of another class", WRONG, 0.28),
        ):
            if not len(values):
                continue
            weights = np.full(len(values), 1 / len(values))
            clipped = np.clip(values, edges[0], edges[-1])
            ax.hist(clipped, edges, weights=weights, color=colour, alpha=fill, linewidth=0)
            style = "-" if colour == RIGHT else (0, (4, 2))
            ax.hist(
                clipped,
                edges,
                weights=weights,
                color=colour,
                histtype="step",
                linewidth=1.5,
                linestyle=style,
                label=f"{name} (median {np.median(values):.3f})",
            )
        ax.set(
            xlabel="cosine similarity (the lowest bin holds what lies below)",
            ylabel="share of the queries per bin",
        )
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        ax.set_ylim(0, ax.get_ylim()[1] * 1.22)
        ax.set_title("How similar is the nearest image?")
        ax.legend(loc="upper left")

    return render(draw, SQUARE)


def projection(judged: Judged) -> bytes | None:
    """The queries on their two principal components, coloured by class, misses marked; None below three.

    At most 2,000 of them, of every class a share that is as even as can be.
    """
    chosen = evenly(judged.queries["label"].to_numpy(), MOST_POINTS)
    if len(chosen) < 3:
        return None
    vectors = embeddings(judged.queries.take(chosen)).astype(np.float64)
    points, share = principal(vectors)
    labels = judged.queries["label"].to_numpy()[chosen]
    known = judged.answers.known.numpy()[chosen]
    hit = judged.answers.hits(judged.rule).numpy()[chosen]
    present, counts = np.unique(labels, return_counts=True)
    most = present[np.lexsort((present, -counts))][:12]
    shown = [label for label in present if label in most]

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        others = ~np.isin(labels, shown)
        _scatter(ax, points, others, hit, known, "#b8bec7", "o", f"{len(present) - len(shown)} more classes")
        for number, label in enumerate(shown):
            colour = (CYCLE + _MORE)[number % 12]
            marker = MARKERS[number % len(MARKERS)]
            _scatter(ax, points, labels == label, hit, known, colour, marker, judged.classes[int(label)])
        if not hit.all():
            ax.scatter([], [], s=34, marker="o", facecolors="none", edgecolors=INK, label="named wrongly")
        if not known.all():
            ax.scatter([], [], s=30, marker="x", c=INK, label="not in the gallery")
        ax.set(xlabel="first principal component", ylabel="second")
        ax.set_xticklabels([])
        ax.set_yticklabels([])
        of = "" if len(chosen) == len(judged.queries) else f" of {len(judged.queries):,}, evenly by class"
        ax.set_title(f"{len(chosen):,} queries{of}: the plane holds {100 * share:.0f} % of their variance")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", markerscale=1.4)

    return render(draw, (WIDE, 5.4))


def evenly(labels: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """Ascending positions of at most `most` rows: one of each class, then a second of each, and so on.

    Which of a class come first is drawn, the same way every time.
    """
    drawn = np.random.default_rng(0).permutation(len(labels))
    order = drawn[np.argsort(labels[drawn], kind="stable")]
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.arange(len(labels)) - np.repeat(first, counts)
    return np.sort(order[np.argsort(place, kind="stable")[:most]])


def principal(vectors: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """(points [N, 2] on the two directions of largest variance, their share of it); the sign is fixed."""
    centred = vectors - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    plane = directions[:, ::-1][:, :2]
    if plane.shape[1] < 2:
        plane = np.concatenate([plane, np.zeros_like(plane)], axis=1)
    largest = np.abs(plane).argmax(axis=0)
    signs = np.where(plane[largest, np.arange(plane.shape[1])] < 0, -1.0, 1.0)
    total = float(values.sum())
    return centred @ (plane * signs), float(values[-2:].sum()) / total if total > 0 else 1.0


_MORE = ("#882255", "#44AA99", "#DDAA33", "#332288")


def _scatter(
    ax: Any,
    points: npt.NDArray[np.float64],
    mine: npt.NDArray[np.bool_],
    hit: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    colour: str,
    marker: str,
    name: str,
) -> None:
    if not mine.any():
        return
    named = mine & known
    size = 13 if len(points) > 400 else 26
    ax.scatter(*points[named].T, s=size, marker=marker, c=colour, alpha=0.65, linewidths=0, zorder=2)
    ax.scatter([], [], s=18, marker=marker, c=colour, label=f"{name} ({int(mine.sum()):,})")
    missed = named & ~hit
    ax.scatter(
        *points[missed].T,
        s=2.2 * size,
        marker="o",
        facecolors="none",
        edgecolors=INK,
        linewidths=0.7,
        zorder=3,
    )
    lost = mine & ~known
    ax.scatter(*points[lost].T, s=2 * size, marker="x", c=colour, linewidths=1.1, zorder=3)


def _matrix(ax: Any, counts: npt.NDArray[np.int64], rows: list[str], columns: list[str]) -> None:
    totals = counts.sum(axis=1, keepdims=True).astype(np.float64)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    size = 7.5 if len(rows) <= 12 else 6.5
    for row, column in zip(*np.nonzero(counts), strict=True):
        ax.text(
            column,
            row,
            f"{counts[row, column]:,}",
            ha="center",
            va="center",
            fontsize=size,
            fontweight="bold" if row == column else "normal",
            color="white" if shares[row, column] > 0.7 else INK,
        )
    ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(labelcolor=INK, labelsize=size + 0.5)
    ax.set(xlabel="named as", ylabel="true class (queries)")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def _colour(split: str) -> str:
    return SPLIT_COLOUR.get(split, INK)


def _style(split: str) -> Any:
    return SPLIT_STYLE.get(split, ":")
