"""One's own figures in the rows of a published table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..config.joined import each
from ..evaluation.published import Published, own_figures, published
from ..evaluation.table import EvaluationTable


@dataclass(frozen=True)
class Beside:
    """One row: whose figures these are, which figure, and a cell a generator and one for the mean."""

    method: str
    figure: str
    cells: tuple[str, ...]
    own: bool
    source: str


Own = Mapping[str, Mapping[str, float]]
"""Figure → generator, or `mean` → share, as `own_figures` gives it."""


def published_beside(found: EvaluationTable, config: Mapping[str, Any]) -> list[tuple[str, Published, Own]]:
    """(the run's name, a published table, its own figures) for every data set of a config that has one."""
    tables: list[tuple[str, Published, Own]] = []
    for data, one in each(config).items():
        target = str(((one.get("data") or {}).get("index") or {}).get("_target_", ""))
        table = published(target.removeprefix("tapetum.indexes.").removesuffix(".index"))
        if table is not None:
            tables.append((str(config.get("name")), table, own_figures(found, data, table)))
    return tables


def beside(method: str, table: Published, own: Own) -> tuple[list[str], list[Beside]]:
    """(column names, rows): figure by figure the published rows, then one's own as `method`.

    Percent; a dash is a figure that is not published, or that the run does not have.
    """
    head = ["method", "figure", *table.generators, "mean"]
    rows: list[Beside] = []
    for figure in dict.fromkeys(row.figure for row in table.rows):
        for row in table.rows:
            if row.figure == figure:
                values = [*(row.percent.get(name) for name in table.generators), row.mean]
                rows.append(Beside(row.method, figure, _cells(values), False, row.source))
        if figure in own:
            mine = [own[figure].get(name) for name in (*table.generators, "mean")]
            shares = [None if value is None else 100 * value for value in mine]
            rows.append(Beside(method, figure, _cells(shares), True, "this evaluation"))
    return head, rows


def published_heading(table: Published) -> str:
    """What stands above the table."""
    return f"Beside published figures: {table.data}"


def published_table(method: str, table: Published, own: Own) -> Table:
    """The same for the terminal: generators from left to right, one's own rows bold."""
    head, rows = beside(method, table, own)
    # a column that nobody fills says nothing
    there = [
        place for place in range(len(head) - 2) if any(row.cells[place] != _NONE for row in rows if row.own)
    ]
    shown = Table(
        title=f"{published_heading(table)} (percent)",
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("method", overflow="fold", min_width=8)
    for place in there:
        # names fold at their underscores, figures never do
        shown.add_column(_folded(head[place + 2]), justify="right", no_wrap=True)
    before = ""
    for row in rows:
        if row.figure != before:
            if before:
                shown.add_section()
            shown.add_row(Text(row.figure, style="italic"))
            before = row.figure
        style = "bold" if row.own else ""
        cells = (Text(row.cells[place], style=style) for place in there)
        shown.add_row(Text(f"→ {row.method}" if row.own else row.method, style=style), *cells)
    shown.caption = f"published figures: {table.protocol}. → is this evaluation. Sources: report and table.md"
    shown.caption_justify = "left"
    return shown


_NONE = "–"


def _cells(values: Sequence[float | None]) -> tuple[str, ...]:
    return tuple(_NONE if value is None or math.isnan(value) else f"{value:.1f}" for value in values)


def _folded(name: str) -> str:
    """A name in lines of at most ten letters, broken after underscores."""
    lines = [""]
    for part in name.replace("_", "_\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > 10:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
