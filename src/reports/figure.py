"""What all pictures have in common: colours, type, and how they become PNG bytes.

Class colours are always the same (blue real, red generated), splits have their own; all are from Paul Tol's
colour-blind safe `bright` scheme (SRON technical note, 2021), and no two lines differ in colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

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
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fancybox": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "savefig.dpi": PNG_PIXELS_PER_INCH,
}


def render(draw: Callable[[Figure], None], size: tuple[float, float]) -> bytes:
    """PNG bytes of what `draw` puts on a fresh figure of `size` inches."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": ""})
    return buffer.getvalue()


def percent_axes(ax: Any, which: Literal["x", "y", "both"]) -> None:
    """Shares on an axis read as `40 %`."""
    form = FuncFormatter(lambda value, _: f"{100 * value:.0f} %")
    if which in ("x", "both"):
        ax.xaxis.set_major_formatter(form)
    if which in ("y", "both"):
        ax.yaxis.set_major_formatter(form)


def whole_numbers(ax: Any) -> None:
    """No half epochs on the x axis."""
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
