"""The comparison of runs for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from .compare import Comparison, spread_text
from .format import number, plain

_SHORT = {"test/generator_min/balanced_accuracy": "test/worst_generator"}
_LABEL = 18  # columns that a label needs, whatever the figures take


def comparison_table(found: Comparison, width: int = 120) -> Table:
    """One line a run, best first, then one a group of several seeds; as many figures as `width` allows.

    Runs are numbered: `comparison_lines` says which is which, since their names fold into crumbs.
    """
    several = [group for group in found.groups if len(group.runs) > 1]
    label = {run.name: group.label for group in found.groups for run in group.runs}
    heads = {name: _head(name, name == found.monitor) for name in found.metrics}
    shown: list[str] = []
    room = width - 14 - (_LABEL if found.differing else 0)
    for name in found.metrics:
        room -= 2 + max(8 if several else 6, *map(len, heads[name].split("\n")))
        shown += [name] if room >= 0 or not shown else []
    title = f"{len(found.runs)} runs by {found.monitor}"
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right")
    if found.differing:
        table.add_column("what differs", overflow="fold", min_width=_LABEL)
    table.add_column("seed", justify="right", no_wrap=True)
    for name in shown:
        table.add_column(heads[name], justify="right", no_wrap=True)
    for place, run in enumerate(found.runs, 1):
        figures = [number(run.metrics.get(name)) for name in shown]
        names = [str(place), label[run.name]] if found.differing else [str(place)]
        table.add_row(*(Text(cell) for cell in (*names, plain(run.config.get("seed")), *figures)))
    if several:
        table.add_section()
    for group in several:
        # the deviation stands below its mean, since side by side no terminal is wide enough
        cells = [spread_text(group.spread(name), len(group.runs)).replace(" ", "\n", 1) for name in shown]
        names = ["", group.label] if found.differing else [""]
        table.add_row(*(Text(cell, style="bold") for cell in (*names, f"n={len(group.runs)}", *cells)))
    caption = f"* {found.monitor} chose the checkpoints; the test figures chose nothing"
    table.caption = caption + ("; seeds: mean ± standard deviation" if several else "")
    table.caption_justify = "left"
    return table


def comparison_lines(found: Comparison) -> list[str]:
    """What is printed below the table: which run each number is, what to know, who is better."""
    runs = [f"{place:>2}  {run.name}" for place, run in enumerate(found.runs, 1)]
    return [*runs, *found.notes, *([found.verdict] if found.verdict else [])]


def _head(name: str, chose: bool) -> str:
    return _SHORT.get(name, name).replace("/", "/\n", 1).replace("_", "\n") + (" *" if chose else "")
