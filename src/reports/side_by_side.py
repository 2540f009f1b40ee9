"""The evaluations of several runs beside each other, line by line, and their paired differences."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from ..evaluation.table import EvaluationTable, Line
from .compare import Comparison
from .evaluation_table import line_name, markdown_rows, null, percent, tabular
from .format import chance, signed

Tables = Sequence[tuple[str, EvaluationTable]]
"""(the run's name, which begins with its number, and its table), in the order of the numbers."""

_SHOWN = {"accuracy": "acc", "auroc": "AUROC"}
_PAIRED = ("run", "figure", "difference", "95 % interval", "p", "images")


def side_table(tables: Tables) -> Table:
    """Accuracy at logit 0 and AUROC of every run, line by line; runs by their numbers."""
    runs = "; ".join(name for name, _ in tables)
    return _table("line by line (percent; – is undefined)", side_cells(tables), f"runs: {runs}")


def paired_table(found: Comparison) -> Table:
    """Every run held against the best one: difference, 95 % interval and p of each figure."""
    title = f"differences to {found.reference} on the same images"
    caption = "accuracies: McNemar's exact test; AUROC: DeLong; * the interval leaves 0 out"
    return _table(title, [list(_PAIRED), *_paired_cells(found)], caption)


def side_cells(tables: Tables) -> list[list[str]]:
    """`side_table` as text, its first line the column names."""
    every: dict[tuple[str, str], Line] = {}
    for _, table in tables:
        for line in table.lines:
            every.setdefault((line.data, line.name), line)
    found = [{(line.data, line.name): line for line in table.lines} for _, table in tables]
    several = any(table.several for _, table in tables)
    numbers = [name.split(" ", 1)[0] for name, _ in tables]
    lines = [["", *(f"{short} {number}" for short in _SHOWN.values() for number in numbers)]]
    for key, line in every.items():
        values = [own[key].figures.get(name) if key in own else None for name in _SHOWN for own in found]
        data = f"{line.data or 'all data sets'}: " if several else ""
        lines.append([data + line_name(line), *(percent(value) for value in values)])
    return lines


def write_side_tables(tables: Tables, found: Comparison, out: Path) -> None:
    """`table.csv` (a row a run, line and figure), `table.json`, `table.md` and `table.tex` in `out`."""
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "data", "line", "kind", "figure", "value", "low", "high"])
        for run, table in tables:
            for line in table.lines:
                for name, value in line.figures.items():
                    ends = line.intervals.get(name, (math.nan, math.nan))
                    cells = ["" if math.isnan(one) else repr(float(one)) for one in (value, *ends)]
                    writer.writerow([run, line.data, line.name, line.kind, name, *cells])
    text = json.dumps(_plain(tables, found), indent=2, ensure_ascii=False, allow_nan=False)
    (out / "table.json").write_text(text + "\n", encoding="utf-8")
    sides, pairs = side_cells(tables), [list(_PAIRED), *_paired_cells(found)]
    about = f"Percent; – is undefined. Runs: {'; '.join(name for name, _ in tables)}."
    held = f"Differences to {found.reference} on the same images"
    markdown, latex = [*markdown_rows(sides), "", about], tabular(sides, "Runs side by side", about)
    if len(pairs) > 1:
        tests = "Accuracies: McNemar's exact test; AUROC: DeLong; * the interval leaves 0 out."
        markdown += ["", f"**{held}**", "", *markdown_rows(pairs), "", tests]
        latex += "\n" + tabular(pairs, held, tests)
    (out / "table.md").write_text("\n".join(markdown) + "\n", encoding="utf-8")
    (out / "table.tex").write_text("% needs \\usepackage{booktabs}\n" + latex, encoding="utf-8")


def _plain(tables: Tables, found: Comparison) -> dict[str, object]:
    lines = {
        run: [
            {
                "data": line.data or None,
                "line": line.name,
                "kind": line.kind,
                "figures": {name: null(value) for name, value in line.figures.items()},
            }
            for line in table.lines
        ]
        for run, table in tables
    }
    pairs = [
        {
            "run": one.label,
            "figure": name,
            "difference": null(difference.value),
            "interval": [null(difference.low), null(difference.high)],
            "p": null(difference.p),
            "images": one.paired.images,
        }
        for one in found.against
        for name, difference in one.paired.differences.items()
    ]
    return {"runs": lines, "reference": found.reference or None, "paired": pairs}


def _paired_cells(found: Comparison) -> list[list[str]]:
    lines = []
    for one in found.against:
        if one.paired.reason:
            lines.append([one.label, f"not held against it: {one.paired.reason}", "", "", "", ""])
        for name, difference in one.paired.differences.items():
            star = " *" if difference.shown else ""
            bounds = f"{signed(difference.low)} to {signed(difference.high)}"
            figures = [signed(difference.value) + star, bounds, chance(difference.p)]
            lines.append([one.label, name, *figures, f"{one.paired.images:,}"])
    return lines


def _table(title: str, lines: Sequence[Sequence[str]], caption: str) -> Table:
    table = Table(
        title=Text(title), title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for place, name in enumerate(lines[0]):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for cells in lines[1:]:
        table.add_row(*(Text(cell) for cell in cells))
    table.caption, table.caption_justify = Text(caption), "left"
    return table
