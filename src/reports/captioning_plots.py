"""Pictures of a captioner's report, as PNG bytes. Callers import this module late: it brings matplotlib."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.figure import Figure

from ..metrics.captions import tokenize
from .figure import CYCLE, INK, percent_axes, render

_BINS = 20
_SIZE = (5.2, 3.4)


def score_histogram(rouge_l: npt.NDArray[np.float64]) -> bytes:
    """Images by ROUGE-L, float64 [N] in [0, 1]."""

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        ax.hist(rouge_l, bins=_BINS, range=(0, 1), color=CYCLE[0])
        ax.set(xlabel="ROUGE-L of an image", ylabel="images", xlim=(0, 1))
        ax.set_title("How near")

    return render(draw, _SIZE)


def length_histograms(table: pa.Table) -> bytes:
    """Shares of captions and of references by their number of words."""
    own = [len(tokenize(text)) for text in table["text"].to_pylist()]
    theirs = [len(tokenize(text)) for texts in table["references"].to_pylist() for text in texts]
    longest = int(np.quantile([*own, *theirs], 0.995)) + 1
    edges = np.arange(longest + 2) - 0.5

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        for name, lengths, colour, style in (
            ("captions", own, CYCLE[0], "-"),
            ("references", theirs, INK, "--"),
        ):
            shares, _ = np.histogram(np.minimum(lengths, longest), edges)
            ax.stairs(shares / max(1, len(lengths)), edges, color=colour, linestyle=style, label=name)
        ax.set(xlabel="words", ylabel="share", xlim=(edges[0], edges[-1]))
        ax.set_ylim(bottom=0)
        ax.set_title("How long")
        percent_axes(ax, "y")
        ax.legend()

    return render(draw, _SIZE)
