"""An evaluation's table on the terminal, and as csv, json, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from ..evaluation.detection import ORACLE
from ..evaluation.published import Published
from ..evaluation.table import EvaluationTable, Line
from .published import beside, published_heading

HEADS: Mapping[str, str] = {
    "accuracy": "acc",
    "real_accuracy": "real",
    "fake_accuracy": "fake",
    "accuracy_tuned": "acc at t",
    "real_accuracy_tuned": "real at t",
    "fake_accuracy_tuned": "fake at t",
    "auroc": "AUROC",
    "ap": "AP",
    ORACLE: "oracle",
}
"""Short names of the columns that are printed."""

PublishedRows = Sequence[tuple[str, Published, Mapping[str, Mapping[str, float]]]]
"""(the run's name, a published table, its own figures) each."""

SAYS: Mapping[str, str] = {
    "mean": "macro mean",
    "min": "minimum",
    "std": "standard deviation",
    "all": "all images",
}


_NAME = 18  # columns of a terminal that a generator's name keeps


def terminal_table(found: EvaluationTable, title: str) -> Table:
    """Shares in percent; the interval of the accuracy beside it. It fits 80 columns; names fold first.

    The oracle stands in the files only.
    """
    columns = [name for name in HEADS if name in found.columns and name != ORACLE]
    table = Table(
        title=Text(title),
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    # figures never wrap, so that what a narrow terminal lacks would be taken from the names
    longest = max(len(line_name(line)) for line in found.lines)
    table.add_column("", overflow="fold", min_width=min(longest, _NAME))
    for name in columns:
        table.add_column(HEADS[name].replace(" at t", "\nat t"), justify="right", no_wrap=True)
        if name == "accuracy":
            table.add_column("95 %", justify="right", style="dim", no_wrap=True)
    before: Line | None = None
    for line in found.lines:
        if before is not None and line.data != before.data:
            table.add_section()
        if found.several and (before is None or line.data != before.data):
            table.add_row(Text(line.data or "all data sets", style="bold"))
        elif before is not None and before.kind == "generator" and line.kind != "generator":
            table.add_section()
        cells: list[str] = []
        for name in columns:
            cells.append(percent(line.figures.get(name)))
            if name == "accuracy":
                bounds = line.intervals.get(name)
                cells.append(f"{percent(bounds[0])}–{percent(bounds[1])}" if bounds else "")
        table.add_row(Text(line_name(line)), *cells)
        before = line
    table.caption = Text(terminal_caption(found))
    table.caption_justify = "left"
    return table


def terminal_caption(found: EvaluationTable) -> str:
    """What the columns mean, and what the oracle would be."""
    said = ["percent; – is undefined: it needs both classes"]
    if found.threshold is None:
        said.append("no threshold was fitted on validation, so decisions are at logit 0 only")
    else:
        said.append(f"t = logit {found.threshold:+.3f}, fitted on validation")
    oracle = found.lines[-1].figures.get(ORACLE, math.nan)
    if not math.isnan(oracle):
        said.append(
            f"oracle_accuracy {percent(oracle)} is the best of all thresholds: it has looked at the test set"
        )
    return "; ".join(said)


def page_section(found: EvaluationTable, split: str, published: PublishedRows) -> dict[str, object]:
    """What `evaluation.html` shows: the table's columns and lines as text, and the published tables."""
    head, *body = _cells(found)
    tables = []
    for method, table, own in published:
        names, rows = beside(method, table, own)
        tables.append({"head": names, "rows": rows, "table": table, "heading": published_heading(table)})
    kinds = [line.kind for line in found.lines]
    return {
        "split": split,
        "head": head,
        "lines": list(zip(kinds, body, strict=True)),
        "caption": _caption(found),
        "published": tables,
        "names": 2 if found.several else 1,
    }


def write_tables(
    found: EvaluationTable,
    out: Path,
    *,
    title: str,
    published: PublishedRows = (),
) -> list[Path]:
    """`table.csv`, `table.json`, `table.md` and `table.tex` in `out`; their paths.

    csv and json hold shares in [0, 1] and every interval, an undefined figure as an empty cell or null;
    Markdown and LaTeX percent, and published figures below. published: (method, table, own figures).
    """
    texts = {
        "csv": _csv(found),
        "json": _json(found, title, published),
        "md": _markdown(found, title, published),
        "tex": _latex(found, title, published),
    }
    paths = []
    for kind, text in texts.items():
        paths.append(out / f"table.{kind}")
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def _csv(found: EvaluationTable) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    bounds = [end for name in found.columns for end in (name, f"{name} low", f"{name} high")]
    writer.writerow(["data", "line", "kind", "generated", "real", *bounds])
    for line in found.lines:
        row: list[object] = [line.data, line.name, line.kind, line.generated, line.real]
        for name in found.columns:
            low, high = line.intervals.get(name, (math.nan, math.nan))
            values = (line.figures.get(name, math.nan), low, high)
            row += ["" if math.isnan(value) else repr(float(value)) for value in values]
        writer.writerow(row)
    return text.getvalue()


def _json(found: EvaluationTable, title: str, published: PublishedRows) -> str:
    lines = [
        {
            "data": line.data or None,
            "line": line.name,
            "kind": line.kind,
            "generated": line.generated,
            "real": line.real,
            "figures": {name: null(value) for name, value in line.figures.items()},
            "intervals": {name: list(bounds) for name, bounds in line.intervals.items()},
        }
        for line in found.lines
    ]
    tables = [
        {
            "data": table.data,
            "protocol": table.protocol,
            "rows": [
                {
                    "method": row.method,
                    "figure": row.figure,
                    "source": row.source,
                    "percent": {**row.percent, "mean": row.mean},
                }
                for row in table.rows
            ],
        }
        for _, table, _ in published
    ]
    about = {ORACLE: "its threshold was chosen by the labels it is judged by: it has looked at the test set"}
    value = {
        "title": title,
        "threshold": found.threshold,
        "about": about,
        "lines": lines,
        "published": tables,
    }
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _markdown(found: EvaluationTable, title: str, published: PublishedRows) -> str:
    parts = [f"**{_cell(title)}**", "", *markdown_rows(_cells(found)), "", _caption(found)]
    for method, table, own in published:
        parts += [
            "",
            f"**{published_heading(table)}**",
            "",
            *markdown_rows(_published_cells(method, table, own)),
        ]
        parts += ["", f"Published: {table.protocol}", ""]
        parts += [f"- {one}" for one in dict.fromkeys(f"{row.method}: {row.source}" for row in table.rows)]
    return "\n".join(parts) + "\n"


def markdown_rows(lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table of text, its first line the column names."""
    head, *body = [[_cell(text) for text in line] for line in lines]
    rule = ["---", *(["---:"] * (len(head) - 1))]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *body)]


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _latex(found: EvaluationTable, title: str, published: PublishedRows) -> str:
    parts = [tabular(_cells(found), title, _caption(found))]
    parts += [
        tabular(
            _published_cells(method, table, own), published_heading(table), f"Published: {table.protocol}"
        )
        for method, table, own in published
    ]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(parts)


def tabular(lines: Sequence[Sequence[str]], title: str, caption: str) -> str:
    """A LaTeX table of text, its first line the column names."""
    head, *body = [" & ".join(_escaped(text) for text in line) + r" \\" for line in lines]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(title)}. {_escaped(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(lines[0]) - 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _cells(found: EvaluationTable) -> list[list[str]]:
    """The table as text: percent, the accuracy with its interval."""
    columns = [name for name in HEADS if name in found.columns]
    lines = [[*(["data"] if found.several else []), "generator", *(HEADS[name] for name in columns)]]
    for line in found.lines:
        cells = [line.data or "all data sets"] if found.several else []
        cells.append(line_name(line))
        for name in columns:
            bounds = line.intervals.get(name) if name == "accuracy" else None
            interval = f" [{percent(bounds[0])}, {percent(bounds[1])}]" if bounds else ""
            cells.append(percent(line.figures.get(name)) + interval)
        lines.append(cells)
    return lines


def _published_cells(
    method: str, table: Published, own: Mapping[str, Mapping[str, float]]
) -> list[list[str]]:
    head, body = beside(method, table, own)
    return [head, *([line.method, line.figure, *line.cells] for line in body)]


def _caption(found: EvaluationTable) -> str:
    said = ["Percent; in brackets 95 % intervals; – is undefined, since it needs both classes"]
    if found.threshold is not None:
        said.append(f"t is the logit {found.threshold:+.3f}, fitted on validation, others are at logit 0")
    if ORACLE in found.columns:
        said.append("oracle is the best of all thresholds, chosen by looking at the test set")
    return "; ".join(said) + "."


def line_name(line: Line) -> str:
    """A line as it is printed."""
    return SAYS.get(line.kind, line.name)


def percent(value: float | None) -> str:
    """A share as percent with one decimal; a dash where it is undefined."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def null(value: float) -> float | None:
    """A figure for JSON, which knows no NaN."""
    return None if math.isnan(value) else value
