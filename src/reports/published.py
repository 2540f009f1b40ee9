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


def published_tables(method: str, table: Published, own: Own, width: int) -> list[Table]:
    """The same for a terminal `width` columns wide: generators from left to right, one's own rows bold.

    What does not fit goes on in a table below. Columns that one's own run does not fill are left out, and of
    each table the lines that have nothing in it.
    """
    head, rows = beside(method, table, own)
    there = [
        place for place in range(len(head) - 2) if any(row.cells[place] != _NONE for row in rows if row.own)
    ]
    names = [f"→ {row.method}" if row.own else row.method for row in rows]
    label = min(max(map(len, names)), _LABEL)
    blocks = _blocks([(place, _folded(head[place + 2])) for place in there], width - label)
    shown = []
    for number, block in enumerate(blocks):
        heading = f"{published_heading(table)} (percent{', continued' if number else ''})"
        shown.append(_block(heading, block, rows, label))
    if shown:
        said = f"published figures: {table.protocol}. → is this evaluation. Sources: report and table.md"
        shown[-1].caption, shown[-1].caption_justify = Text(said), "left"
    return shown


def _block(heading: str, block: Sequence[tuple[int, str]], rows: Sequence[Beside], label: int) -> Table:
    """Some of the columns, (place among the cells, name), of all rows that have anything there."""
    shown = Table(
        title=Text(heading),
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    shown.add_column("method", overflow="fold", min_width=label)
    for _, name in block:
        shown.add_column(name, justify="right", no_wrap=True)
    full = [row for row in rows if any(row.cells[place] != _NONE for place, _ in block)]
    before = ""
    for row in full:
        if not any(row.figure == other.figure and not other.own for other in full):
            continue  # nothing published to stand beside
        if row.figure != before:
            if before:
                shown.add_section()
            shown.add_row(Text(row.figure, style="italic"))
            before = row.figure
        style = "bold" if row.own else ""
        cells = (Text(row.cells[place], style=style) for place, _ in block)
        shown.add_row(Text(f"→ {row.method}" if row.own else row.method, style=style), *cells)
    return shown


def _blocks(columns: Sequence[tuple[int, str]], room: int) -> list[list[tuple[int, str]]]:
    """The columns in order, as many in each block as there is room for, one at least."""
    blocks: list[list[tuple[int, str]]] = []
    left = 0
    for place, name in columns:
        wide = max(_FIGURE, *map(len, name.split("\n"))) + 1
        if not blocks or wide > left:
            blocks.append([])
            left = room
        blocks[-1].append((place, name))
        left -= wide
    return blocks


_FIGURE = len("100.0")
_LABEL = 18  # of the terminal's columns, for the names of methods
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
