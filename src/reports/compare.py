"""Several runs, or the jobs of a sweep, side by side."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ..errors import DataError
from .format import Interval, flatten, number, plain
from .history import Mode, Row
from .page import Picture, write_page

# where a run's files lie, what it is called and how it is watched can move no figure
NO_CHOICE = ("name", "paths.", "hydra.", "logger.", "launcher.", "resume")
SHOWN = (
    "test/accuracy",
    "test/accuracy_tuned",
    "test/auroc",
    "test/ap",
    "test/generator_min/balanced_accuracy",
)


@dataclass(frozen=True)
class RunSummary:
    """What a comparison needs of one run.

    name: as it is shown, different for each run. config: resolved, plain and nested, with `seed`,
    `train.monitor` and `train.mode`. history: the rows of metrics.csv. metrics: flat, as in metrics.json,
    empty where the run did not finish. intervals: 95 % bounds by the names of metrics.
    """

    name: str
    config: Mapping[str, Any]
    history: Sequence[Row]
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """A figure over seeds: mean, sample standard deviation (None below two runs), number of runs."""

    mean: float
    deviation: float | None
    runs: int


@dataclass(frozen=True)
class Group:
    """Runs whose configs differ in the seed only, best first."""

    label: str
    runs: list[RunSummary]

    def spread(self, metric: str) -> Spread | None:
        """`metric` over the runs that have it, None where none has; one NaN makes it undefined."""
        values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        if not values:
            return None
        if any(math.isnan(value) for value in values):
            return Spread(math.nan, None, len(values))
        return Spread(
            statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)
        )


@dataclass(frozen=True)
class Comparison:
    """The runs in the order of `monitor`, their groups likewise, and what differs between their configs."""

    groups: list[Group]
    monitor: str
    mode: Mode
    differing: list[str]
    values: dict[str, dict[str, str]]
    metrics: list[str]
    notes: list[str]

    @property
    def runs(self) -> list[RunSummary]:
        """All runs, best first whatever their group; those without the monitored figure last."""
        return sorted((run for group in self.groups for run in group.runs), key=self.rank)

    def rank(self, run: RunSummary) -> tuple[bool, float]:
        """What runs are sorted by."""
        return _rank(run.metrics.get(self.monitor), self.mode)


def compare(runs: Sequence[RunSummary], out: Path) -> Path:
    """`out/index.html`, its pictures and `out/runs.csv`; returns the page's path.

    Raises DataError where two runs share a name or there is none.
    """
    from . import comparison_plots as plots

    found = comparison(runs)
    main = _main_metric(found)
    place = {
        id(run): (group.label, number) for number, group in enumerate(found.groups) for run in group.runs
    }
    curves = plots.overlaid_curves([(*place[id(run)], run.history) for run in found.runs], found.monitor)
    points = None
    if main is not None:
        rows = [
            (
                group.label,
                [(run.metrics[main], run.intervals.get(main)) for run in group.runs if main in run.metrics],
            )
            for group in found.groups
        ]
        points = plots.dots(rows, main)
    drawn = [
        ("curves", curves, f"{found.monitor} of every run over the epochs"),
        ("figures", points, f"{main} of every run"),
    ]
    pictures = [Picture(name, png, alt) for name, png, alt in drawn if png is not None]
    values: dict[str, object] = {
        "title": f"{len(runs)} runs compared",
        "found": found,
        "main": main,
        "pictures": {picture.name: picture for picture in pictures},
        "seeds": {run.name: plain(run.config.get("seed")) for run in runs},
        "names": sorted({name for run in runs for name in run.metrics}),
        "label": {run.name: group.label for group in found.groups for run in group.runs},
        "spread_text": spread_text,
        "several": any(len(group.runs) > 1 for group in found.groups),
    }
    page = write_page("compare.html", values, pictures, out)
    write_csv(runs, out / "runs.csv")
    return page


def comparison(runs: Sequence[RunSummary]) -> Comparison:
    """Group the runs by config without seed, sort by the monitored figure, find what differs."""
    if not runs:
        raise DataError("nothing to compare: give at least one run")
    repeated = [name for name, count in Counter(run.name for run in runs).items() if count > 1]
    if repeated:
        raise DataError(f"several runs are called {', '.join(repeated)}: give each a name of its own")
    leaves = {run.name: choices(run.config) for run in runs}
    every: dict[str, None] = {key: None for run in runs for key in leaves[run.name]}
    differing = [key for key in every if len({leaves[run.name].get(key, _ABSENT) for run in runs}) > 1]
    monitors = Counter(_monitor(run) for run in runs)
    (monitor, mode), _ = monitors.most_common(1)[0]
    notes = []
    if len(monitors) > 1:
        others = ", ".join(f"{name} ({way})" for name, way in monitors)
        notes.append(f"The runs were chosen by different figures: {others}. They are sorted by {monitor}.")
    unfinished = [run.name for run in runs if not run.metrics]
    if unfinished:
        notes.append(f"Without figures, since they did not finish: {', '.join(unfinished)}.")
    grouped: dict[str, list[RunSummary]] = {}
    for run in runs:
        grouped.setdefault(json.dumps(leaves[run.name], sort_keys=True), []).append(run)
    labels = _labels(list(grouped.values()), leaves, differing)
    groups = [
        Group(label, sorted(members, key=lambda run: _rank(run.metrics.get(monitor), mode)))
        for label, members in zip(labels, grouped.values(), strict=True)
    ]
    groups.sort(key=lambda group: _group_rank(group, monitor, mode))
    values = {key: {run.name: leaves[run.name].get(key, "–") for run in runs} for key in differing}
    return Comparison(groups, monitor, mode, differing, values, _metrics(runs, monitor), notes)


def choices(config: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key → value as text of what could move a figure, seeds apart.

    Left out are the keys of NO_CHOICE, `seed`, and every key called seed that repeats the root's value
    (resolved from `${seed}`).
    """
    root = config.get("seed")
    kept: dict[str, str] = {}
    for key, value in flatten(config).items():
        if key == "seed" or (key.endswith(".seed") and value == root):
            continue
        if any(key == name or (name.endswith(".") and key.startswith(name)) for name in NO_CHOICE):
            continue
        kept[key] = plain(value)
    return kept


def comparison_table(runs: Sequence[RunSummary]) -> Table:
    """The comparison for the terminal: one line a run, best first, then one a group of several seeds."""
    found = comparison(runs)
    several = [group for group in found.groups if len(group.runs) > 1]
    label = {run.name: group.label for group in found.groups for run in group.runs}
    table = Table(title=f"{len(runs)} runs by {found.monitor}", title_justify="left", header_style="bold")
    table.add_column("run", overflow="fold")
    if found.differing:
        table.add_column("what differs", overflow="fold")
    table.add_column("seed", justify="right")
    for name in found.metrics:
        head = name.replace("/", "/\n", 1) + (" *" if name == found.monitor else "")
        table.add_column(head, justify="right", overflow="fold")
    for run in found.runs:
        figures = [number(run.metrics.get(name)) for name in found.metrics]
        names = [run.name, label[run.name]] if found.differing else [run.name]
        table.add_row(*(Text(cell) for cell in (*names, plain(run.config.get("seed")), *figures)))
    if several:
        table.add_section()
    for group in several:
        cells = [spread_text(group.spread(name), len(group.runs)) for name in found.metrics]
        seeds = f"{len(group.runs)} seeds"
        names = [seeds, group.label] if found.differing else [seeds]
        table.add_row(*(Text(cell, style="bold") for cell in (*names, "", *cells)))
    caption = f"* {found.monitor} chose the checkpoints; the test figures chose nothing"
    table.caption = caption + ("; seeds: mean ± standard deviation" if several else "")
    table.caption_justify = "left"
    return table


def spread_text(spread: Spread | None, expected: int) -> str:
    """`0.9801 ± 0.0067`, with `(n = 2)` where not all of the `expected` runs have the figure."""
    if spread is None:
        return "–"
    text = number(spread.mean)
    if spread.deviation is not None:
        text += f" ± {number(spread.deviation)}"
    return text if spread.runs == expected else f"{text} (n\u00a0=\u00a0{spread.runs})"


def write_csv(runs: Sequence[RunSummary], path: Path) -> Path:
    """One line a run: name, seed, differing keys, metrics, bounds as `<metric> low` and `… high`."""
    found = comparison(runs)
    names = list(dict.fromkeys(name for run in found.runs for name in run.metrics))
    bounded = [name for name in names if any(name in run.intervals for run in runs)]
    columns = ["run", "seed", *found.differing, *names]
    columns += [f"{name} {side}" for name in bounded for side in ("low", "high")]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for run in found.runs:
            row: dict[str, object] = {"run": run.name, "seed": run.config.get("seed"), **run.metrics}
            row |= {key: found.values[key][run.name] for key in found.differing}
            for name, (low, high) in run.intervals.items():
                if name in bounded:
                    row |= {f"{name} low": low, f"{name} high": high}
            writer.writerow(row)
    return path


_ABSENT = object()


def _monitor(run: RunSummary) -> tuple[str, Mode]:
    train = run.config["train"]
    return str(train["monitor"]), "min" if train["mode"] == "min" else "max"


def _rank(value: float | None, mode: Mode) -> tuple[bool, float]:
    if value is None or math.isnan(value):
        return True, 0.0
    return False, -value if mode == "max" else value


def _group_rank(group: Group, monitor: str, mode: Mode) -> tuple[bool, float]:
    spread = group.spread(monitor)
    return _rank(None if spread is None else spread.mean, mode)


def _labels(
    grouped: list[list[RunSummary]], leaves: Mapping[str, Mapping[str, str]], differing: list[str]
) -> list[str]:
    """What tells each group from the others, as short as it can be: the fewest differing keys that do."""
    if not differing:
        return [members[0].name for members in grouped]
    rows = [[leaves[members[0].name].get(key, "–") for key in differing] for members in grouped]
    used: list[int] = []
    while len({tuple(row[at] for at in used) for row in rows}) < len(rows):
        rest = [at for at in range(len(differing)) if at not in used]
        used.append(max(rest, key=lambda at: _told_apart(rows, [*used, at], differing[at])))
    names = [_tail(differing[at], differing) for at in used]
    return [
        ", ".join(f"{name}={_short(differing[at], row[at])}" for name, at in zip(names, used, strict=True))
        for row in rows
    ]


def _told_apart(rows: list[list[str]], used: list[int], key: str) -> tuple[int, bool, bool]:
    """How many groups the columns tell apart; among equals, the network says most, and what was built more
    than how.
    """
    apart = len({tuple(row[at] for at in used) for row in rows})
    return apart, key == "model.net._target_", key.endswith("._target_")


def _tail(key: str, keys: Sequence[str]) -> str:
    """The shortest end of a dotted key that no other shares; a target goes by what it builds."""
    bare = key.removesuffix("._target_")
    others = [other.removesuffix("._target_") for other in keys if other != key]
    parts = bare.split(".")
    for length in range(1, len(parts)):
        tail = ".".join(parts[-length:])
        if not any(other == tail or other.endswith(f".{tail}") for other in others):
            return tail
    return key


def _short(key: str, value: str) -> str:
    """A target by what it builds, `tapetum.detectors.npr.NPR` as `NPR`."""
    return value.rpartition(".")[2] if key.endswith("_target_") else value


def _metrics(runs: Sequence[RunSummary], monitor: str) -> list[str]:
    """The columns: the monitored figure, then the test figures that tell most, as far as any run has them."""
    there = {name for run in runs for name in run.metrics}
    return [name for name in dict.fromkeys((monitor, *SHOWN)) if name in there]


def _main_metric(found: Comparison) -> str | None:
    """The figure of the dots: the test twin of the monitored one, or the best there is."""
    there = {name for run in found.runs for name in run.metrics}
    twin = "test/" + found.monitor.partition("/")[2]
    return next((name for name in (twin, "test/accuracy", found.monitor) if name in there), None)
