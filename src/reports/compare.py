"""Several runs, or the jobs of a sweep, side by side."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .comparison_notes import chosen_by, named, what_to_know
from .comparison_pairs import Against, against, in_words, main_difference
from .format import Interval, number
from .history import Mode, Row
from .labels import ABSENT, choices, group_labels

if TYPE_CHECKING:
    from ..evaluation.paired import Judged

MOST_SHOWN = 20
"""Groups, or runs, that a table or a picture of rows shows: more can't be read. runs.csv has all."""

SHOWN = (
    "test/accuracy",
    "test/accuracy_tuned",
    "test/auroc",
    "test/ap",
    "test/recall_at_1",
    "test/map_at_r",
    "test/generator_min/balanced_accuracy",
)


@dataclass(frozen=True)
class Pruned:
    """Where a search gave a job up: the epoch (from 1) and step, the monitored value then, and why."""

    epoch: int
    step: int
    value: float
    reason: str


@dataclass(frozen=True)
class RunSummary:
    """What a comparison needs of one run.

    name: as it is shown, different for each run. config: resolved, plain and nested, with `task`, `seed`,
    `train.monitor` and `train.mode`. history: the rows of metrics.csv. metrics: flat, as in metrics.json,
    empty where the run did not finish. intervals: 95 % bounds by the names of metrics. judged: its test
    predictions. unfinished: how it ended, where it did not finish. pruned: where a search gave it up.
    overrides: what made it a job of a sweep, and swept: the keys that the sweep varied; both empty elsewhere.
    """

    name: str
    config: Mapping[str, Any]
    history: Sequence[Row]
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    judged: Judged | None = None
    unfinished: str = ""
    pruned: Pruned | None = None
    overrides: Sequence[str] = ()
    swept: Sequence[str] = ()

    @property
    def state(self) -> str:
        """`finished`, or how the run ended."""
        if self.pruned is not None:
            return f"pruned after epoch {self.pruned.epoch}: {self.pruned.reason}"
        return "finished" if self.metrics else self.unfinished or "did not finish"


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

    @property
    def count(self) -> str:
        """How many of its runs finished, `3`, or `2 of 3`."""
        finished = sum(bool(run.metrics) for run in self.runs)
        return str(finished) if finished == len(self.runs) else f"{finished} of {len(self.runs)}"

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
    """The runs in the order of `monitor`, their groups likewise, and what differs between their configs.

    pruned: the runs that a search gave up, which are in no group, best last value first. label: what each run
    is called for short, pruned ones as well. reference: the label of the group that the others are held
    `against`, the best one with predictions; empty where no two groups have any. Of many groups only the
    first MOST_SHOWN are held against it. main: the figure of the pictures.
    """

    groups: list[Group]
    pruned: list[RunSummary]
    label: dict[str, str]
    monitor: str
    mode: Mode
    differing: list[str]
    values: dict[str, dict[str, str]]
    metrics: list[str]
    notes: list[str]
    reference: str
    against: list[Against]
    main: str | None

    @property
    def runs(self) -> list[RunSummary]:
        """All but the pruned, best first whatever their group; those without the monitored figure last."""
        return sorted(
            (run for group in self.groups for run in group.runs),
            key=lambda run: _rank(run.metrics.get(self.monitor), self.mode),
        )

    @property
    def best(self) -> RunSummary | None:
        """The best run of the best group; None where no run has the monitored figure."""
        if not self.groups or _group_rank(self.groups[0], self.monitor, self.mode)[0]:
            return None
        return self.groups[0].runs[0]

    @property
    def several(self) -> bool:
        """Whether any group has more than one run."""
        return any(len(group.runs) > 1 for group in self.groups)

    @property
    def figures(self) -> list[str]:
        """Names of the figures with a difference, without their split."""
        return list(dict.fromkeys(name for one in self.against for name in one.paired.differences))

    @property
    def verdict(self) -> str:
        """The difference between the two best groups in words; empty where it can't be told."""
        for one in self.against:
            name = main_difference(one.paired.differences, self.main)
            if name is not None:
                return " ".join([in_words(self.reference, one, name), *self._besides(one.label)])
        return ""

    def _besides(self, other: str) -> list[str]:
        """What the labels of the reference and another group leave out, which may be why they differ."""
        first = {group.label: group.runs[0].name for group in self.groups}
        one, two = first[self.reference], first[other]
        keys = [key for key in self.differing if self.values[key][one] != self.values[key][two]]
        targets = {key.removesuffix("._target_") for key in keys if key.endswith("._target_")}
        said = f"{self.reference}, {other}".split(", ")
        called = {_last(part.partition("=")[0]) for part in said}
        left_out = [
            key
            for key in keys
            if _last(key.removesuffix("._target_")) not in called
            and (key.endswith("._target_") or key.rpartition(".")[0] not in targets)  # arguments of another
        ]
        if not left_out:
            return []
        more = f" and {len(left_out) - _KEYS} more" if len(left_out) > _KEYS else ""
        return [f"They also differ in {', '.join(left_out[:_KEYS])}{more}."]


def comparison(runs: Sequence[RunSummary]) -> Comparison:
    """Group the runs by config without seed, sort by the monitored figure, find what differs.

    Raises DataError where two runs share a name, have different tasks, or there is none.
    """
    if not runs:
        raise DataError("nothing to compare: give at least one run")
    repeated = [name for name, count in Counter(run.name for run in runs).items() if count > 1]
    if repeated:
        raise DataError(f"several runs are called {', '.join(repeated)}: give each a name of its own")
    tasks = named({run.name: str(run.config.get("task")) for run in runs})
    if len(tasks) > 1:
        told = "; ".join(f"{task}: {', '.join(names)}" for task, names in tasks.items())
        raise DataError(f"runs of different tasks have no figure in common ({told}): name runs of one task")
    leaves = {run.name: choices(run.config) for run in runs}
    every: dict[str, None] = {key: None for run in runs for key in leaves[run.name]}
    differing = [key for key in every if len({leaves[run.name].get(key, _NONE) for run in runs}) > 1]
    monitor, mode, notes = chosen_by(runs)
    grouped: dict[str, list[RunSummary]] = {}
    for run in runs:
        grouped.setdefault(json.dumps(leaves[run.name], sort_keys=True), []).append(run)
    notes += what_to_know(runs, differing, list(grouped.values()))
    if len(grouped) > 1:
        labels = group_labels([leaves[members[0].name] for members in grouped.values()], differing)
    else:
        labels = [str(runs[0].config.get("name", runs[0].name))]
    label = {run.name: own for own, members in zip(labels, grouped.values(), strict=True) for run in members}
    groups = []
    for members in grouped.values():
        kept = [run for run in members if run.pruned is None]
        if kept:
            kept.sort(key=lambda run: _rank(run.metrics.get(monitor), mode))
            groups.append(Group(label[kept[0].name], kept))
    groups.sort(key=lambda group: _group_rank(group, monitor, mode))
    pruned = {run.name: run.pruned.value for run in runs if run.pruned is not None}
    values = {key: {run.name: leaves[run.name].get(key, ABSENT) for run in runs} for key in differing}
    there = {name for group in groups for run in group.runs for name in run.metrics}
    reference, others = against(groups[:MOST_SHOWN])
    return Comparison(
        groups,
        sorted((run for run in runs if run.name in pruned), key=lambda run: _rank(pruned[run.name], mode)),
        label,
        monitor,
        mode,
        differing,
        values,
        metrics=_columns(there, monitor),
        notes=notes,
        reference=reference,
        against=others,
        main=_main(there, monitor),
    )


def spread_text(spread: Spread | None, expected: int) -> str:
    """`0.9801 ± 0.0067`, with `(n = 2)` where not all of the `expected` runs have the figure."""
    if spread is None:
        return ABSENT
    text = number(spread.mean)
    if spread.deviation is not None:
        text += f" ± {number(spread.deviation)}"
    return text if spread.runs == expected else f"{text} (n\u00a0=\u00a0{spread.runs})"


_NONE = object()
_KEYS = 4


def _rank(value: float | None, mode: Mode) -> tuple[bool, float]:
    if value is None or math.isnan(value):
        return True, 0.0
    return False, -value if mode == "max" else value


def _group_rank(group: Group, monitor: str, mode: Mode) -> tuple[bool, float]:
    spread = group.spread(monitor)
    return _rank(None if spread is None else spread.mean, mode)


def _columns(there: set[str], monitor: str) -> list[str]:
    """The monitored figure, then the test figures that tell most, as far as any run has them."""
    generators = {name.split("/")[2] for name in there if name.startswith("test/generator/")}
    shown = SHOWN if len(generators) != 1 else SHOWN[:-1]  # the worst of one says nothing more
    return [name for name in dict.fromkeys((monitor, *shown)) if name in there]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _main(there: set[str], monitor: str) -> str | None:
    """The figure of the pictures: the test twin of the monitored one, or the best there is."""
    twin = "test/" + monitor.partition("/")[2]
    return next((name for name in (twin, "test/auroc", "test/accuracy", monitor) if name in there), None)
