"""The table that a run ends with."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from .format import Interval, duration, interval, number

FIRST = (
    *("loss", "perplexity", "exact_match", "cider", "rouge_l", "bleu_1", "bleu_2", "bleu_3", "bleu_4"),
    *("nll", "accuracy", "accuracy_tuned", "balanced_accuracy", "auroc", "ap"),
    *("recall_at_1", "recall_at_5", "recall_at_10", "map", "map_at_r", "r_precision", "minp"),
    *(f"{rule}_{name}" for name in ("accuracy", "balanced_accuracy") for rule in ("nn", "knn", "centroid")),
    *("unknown_queries", "coverage"),
)
SPLITS = ("train", "val", "test")
_ORACLE = "oracle_accuracy (has looked at the test set)"


def metrics_table(
    metrics: Mapping[str, float],
    *,
    monitor: str | None = None,
    intervals: Mapping[str, Interval] | None = None,
    title: str | None = None,
) -> Table:
    """Metrics as one row a name and one column a split, the figure that chose the checkpoint marked with `*`.

    metrics: flat, `val/auroc`, `test/accuracy`, as in metrics.json; NaN prints as `undefined`. Generators
    have a table of their own (`generator_table`), and what concerns the run a line (`run_line`). monitor:
    the figure that chose the checkpoint. intervals: 95 % bounds under the same names as metrics.
    """
    rows, found = by_split(metrics)
    splits = [split for split in found if split != "run"]
    table = Table(title=title, title_justify="left", header_style="bold", caption_justify="left")
    table.add_column("metric")
    for split in splits:
        table.add_column(split, justify="right")
        if intervals and any(name.startswith(f"{split}/") for name in intervals):
            table.add_column("95 % interval", justify="right", style="dim")
    for name, values in rows.items():
        if name.startswith(("generator", "data/")) or set(values) == {"run"}:
            continue
        cells: list[Text] = []
        for split in splits:
            chose = f"{split}/{name}" == monitor
            value = number(values[split]) if split in values else ""
            cells.append(Text(f"* {value}" if chose else value, style="bold" if chose else ""))
            if intervals and any(key.startswith(f"{split}/") for key in intervals):
                cells.append(Text(interval(intervals.get(f"{split}/{name}"))))
        table.add_row(Text(_ORACLE if name == "oracle_accuracy" else name), *cells)
    table.caption = caption(splits, monitor)
    return table


def generator_table(metrics: Mapping[str, float], split: str = "test") -> Table | None:
    """One row a generator and one column a figure, mean and minimum below; None without generators."""
    prefix = f"{split}/generator/"
    names = sorted({key.removeprefix(prefix).rpartition("/")[0] for key in metrics if key.startswith(prefix)})
    if not names:
        return None
    # Balanced, since the real images are often shared by all generators and outnumber each one's own.
    columns = ("balanced_accuracy", "real_accuracy", "fake_accuracy", "auroc", "ap")
    table = Table(title=f"{split}, generator by generator", title_justify="left", header_style="bold")
    table.add_column("generator", overflow="fold")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name in names:
        table.add_row(Text(name), *(number(metrics.get(f"{prefix}{name}/{column}")) for column in columns))
    table.add_section()
    for statistic in ("mean", "min"):
        values = (number(metrics.get(f"{split}/generator_{statistic}/{column}")) for column in columns)
        table.add_row(Text(statistic, style="bold"), *values)
    return table


def run_line(metrics: Mapping[str, float]) -> str:
    """`best epoch 7, 10 epochs run, 340 steps, 1 min 20 s`, as far as the metrics tell."""
    parts = []
    if "run/best_epoch" in metrics:
        parts.append(f"best epoch {metrics['run/best_epoch']:.0f}")
    if "run/epochs" in metrics:
        parts.append(f"{metrics['run/epochs']:.0f} epoch{'s' if metrics['run/epochs'] != 1 else ''} run")
    if "run/steps" in metrics:
        parts.append(f"{metrics['run/steps']:,.0f} steps")
    if "run/seconds" in metrics:
        parts.append(duration(metrics["run/seconds"]))
    return ", ".join(parts)


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
