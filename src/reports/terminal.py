"""The table that a run ends with."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from .format import Interval, interval, number

FIRST = ("loss", "nll", "accuracy", "accuracy_tuned", "balanced_accuracy", "auroc", "ap")
SPLITS = ("train", "val", "test")


def metrics_table(
    metrics: Mapping[str, float],
    *,
    monitor: str | None = None,
    intervals: Mapping[str, Interval] | None = None,
    title: str | None = None,
) -> Table:
    """Metrics as one row a name and one column a split, the figure that chose the checkpoint marked with `*`.

    metrics: flat, `val/auroc`, `test/accuracy`, as in metrics.json; NaN prints as `undefined`.
    monitor: the figure that chose the checkpoint. intervals: 95 % bounds under the same names as metrics.
    """
    rows, splits = by_split(metrics)
    table = Table(title=title, title_justify="left", header_style="bold", caption_justify="left")
    table.add_column("metric")
    for split in splits:
        table.add_column(split, justify="right")
        if intervals and any(name.startswith(f"{split}/") for name in intervals):
            table.add_column("95 % interval", justify="right", style="dim")
    generators = False
    for name, values in rows.items():
        if name.startswith("generator") and not generators:
            table.add_section()
            generators = True
        cells: list[Text] = []
        for split in splits:
            chose = f"{split}/{name}" == monitor
            value = number(values[split]) if split in values else ""
            cells.append(Text(f"* {value}" if chose else value, style="bold" if chose else ""))
            if intervals and any(key.startswith(f"{split}/") for key in intervals):
                cells.append(Text(interval(intervals.get(f"{split}/{name}"))))
        table.add_row(Text(name.removeprefix("generator/")), *cells)
    table.caption = caption(splits, monitor)
    return table


def caption(splits: list[str], monitor: str | None) -> str:
    """What chose and what did not, in one line."""
    parts: list[str] = []
    if monitor is not None:
        parts.append(f"* {monitor} chose the checkpoint")
    if "val" in splits:
        parts.append("val figures were looked at while choosing")
    if "test" in splits:
        parts.append("test figures chose nothing")
    return "; ".join(parts)


def by_split(metrics: Mapping[str, float]) -> tuple[dict[str, dict[str, float]], list[str]]:
    """({name without split: {split: value}}, splits found): the well-known names first, generators last.

    A figure of no split (`duration_s`, `best_epoch`) stands under its whole name in the column `run`.
    """
    rows: dict[str, dict[str, float]] = {}
    found: set[str] = set()
    for key, value in metrics.items():
        split, _, name = key.partition("/")
        if split not in SPLITS or not name:
            split, name = "run", key
        rows.setdefault(name, {})[split] = value
        found.add(split)
    return dict(sorted(rows.items(), key=lambda item: _rank(item[0]))), [
        split for split in (*SPLITS, "run") if split in found
    ]


def _rank(name: str) -> tuple[int, int, str]:
    if name.startswith("generator"):
        return (2, 0 if name.startswith("generator_") else 1, name)
    return (0, FIRST.index(name), name) if name in FIRST else (1, 0, name)
