"""The comparison of runs for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from .compare import MOST_SHOWN, Comparison, Group, spread_text
from .format import number, plain
from .parameters import command

_HEADS = {"test/generator_min/balanced_accuracy": "test/worst_generator"}
_NAME = 4
_LABEL = 18  # columns that a label needs, whatever the figures take


def comparison_table(found: Comparison, width: int = 120) -> Table:
    """One line a run, best first, then one a group of several seeds; as many figures as `width` allows.

    At most MOST_SHOWN lines: of more runs only the groups are shown, the best of them, and without seeds the
    best runs. A run goes by its name where that is as short as a job's number, else by its place, and
    `comparison_lines` says which is which: longer names would fold into crumbs.
    """
    several = _seeds(found)
    runs = [] if _groups_only(found) else found.runs[:MOST_SHOWN]
    heads = {name: _head(name, name == found.monitor) for name in found.metrics}
    shown: list[str] = []
    room = width - 14 - (_LABEL if found.differing else 0)
    for name in found.metrics:
        room -= 2 + max(8 if several else 6, *map(len, heads[name].split("\n")))
        shown += [name] if room >= 0 or not shown else []
    table = Table(
        title=_title(found), title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("run" if runs and _short(found) else "", justify="right", no_wrap=True)
    if found.differing:
        table.add_column("what differs", overflow="fold", min_width=_LABEL)
    table.add_column("seed", justify="right", no_wrap=True)
    for name in shown:
        table.add_column(heads[name], justify="right", no_wrap=True)
    for place, run in enumerate(runs, 1):
        figures = [number(run.metrics.get(name)) for name in shown]
        called = run.name if _short(found) else str(place)
        names = [called, found.label[run.name]] if found.differing else [called]
        table.add_row(*(Text(cell) for cell in (*names, plain(run.config.get("seed")), *figures)))
    if runs and several:
        table.add_section()
    for group in several[:MOST_SHOWN]:
        # the deviation stands below its mean, since side by side no terminal is wide enough
        cells = [spread_text(group.spread(name), len(group.runs)).replace(" ", "\n", 1) for name in shown]
        names = ["", group.label] if found.differing else [""]
        table.add_row(*(Text(cell, style="bold") for cell in (*names, f"n={group.count}", *cells)))
    caption = f"* {found.monitor} chose the checkpoints; the test figures chose nothing"
    if several:
        caption += "; seeds: mean ± standard deviation"
    if left := len(found.metrics) - len(shown):
        caption += f"; a wider terminal shows {left} more"
    table.caption = caption
    table.caption_justify = "left"
    return table


def comparison_lines(found: Comparison) -> list[str]:
    """What is printed below the table: which run each number is, what to know, who is better, what to type.

    The last line is the command that makes the best job of a sweep again.
    """
    runs = [] if _groups_only(found) or _short(found) else found.runs[:MOST_SHOWN]
    lines = [f"{place:>2}  {run.name}" for place, run in enumerate(runs, 1)]
    lines += [*found.notes, *([found.verdict] if found.verdict else [])]
    # A search has said its best command before, also where that is of another sweep.
    typed = command(found.best) if found.best is not None and not found.best.config.get("sweep") else ""
    return [*lines, f"best    {typed}"] if typed else lines


def _short(found: Comparison) -> bool:
    """Whether the names of the runs are as short as the places that would stand for them."""
    return all(len(run.name) <= _NAME for run in found.runs)


def _seeds(found: Comparison) -> list[Group]:
    """The groups of several runs; where only groups are shown, all of them."""
    return found.groups if _groups_only(found) else [group for group in found.groups if len(group.runs) > 1]


def _groups_only(found: Comparison) -> bool:
    """Whether runs and means together would be too many lines, and the means say more."""
    means = sum(len(group.runs) > 1 for group in found.groups)
    return means > 0 and len(found.runs) + means > MOST_SHOWN


def _title(found: Comparison) -> str:
    every, shown = len(found.runs), MOST_SHOWN
    title = f"{every} runs by {found.monitor}"
    if _groups_only(found):
        groups = len(found.groups)
        title = f"{every} runs in {groups} groups by {found.monitor}"
        return title if groups <= shown else f"{title}, the best {shown} groups; runs.csv has all"
    return title if every <= shown else f"{title}, the best {shown}; runs.csv has all"


def _head(name: str, chose: bool) -> str:
    return _HEADS.get(name, name).replace("/", "/\n", 1).replace("_", "\n") + (" *" if chose else "")
