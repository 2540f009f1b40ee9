"""Several runs, or the jobs of a sweep, side by side."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .format import Interval, number, plain, signed
from .history import Mode, Row
from .labels import ABSENT, choices, group_labels
from .page import Picture, write_page
from .terminal import run_line

if TYPE_CHECKING:
    from ..evaluation.paired import Difference, Judged, Paired

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
class RunSummary:
    """What a comparison needs of one run.

    name: as it is shown, different for each run. config: resolved, plain and nested, with `task`, `seed`,
    `train.monitor` and `train.mode`. history: the rows of metrics.csv. metrics: flat, as in metrics.json,
    empty where the run did not finish. intervals: 95 % bounds by the names of metrics. judged: its test
    predictions. unfinished: how it ended, where it did not finish.
    """

    name: str
    config: Mapping[str, Any]
    history: Sequence[Row]
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    judged: Judged | None = None
    unfinished: str = ""


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
class Against:
    """How a group differs from the reference on the same test images: the group minus the reference."""

    label: str
    paired: Paired


@dataclass(frozen=True)
class Comparison:
    """The runs in the order of `monitor`, their groups likewise, and what differs between their configs.

    reference: the label of the group that the others are held `against`, the best one with predictions;
    empty where no two groups have any. main: the figure of the pictures.
    """

    groups: list[Group]
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
        """All runs, best first whatever their group; those without the monitored figure last."""
        return sorted(
            (run for group in self.groups for run in group.runs),
            key=lambda run: _rank(run.metrics.get(self.monitor), self.mode),
        )

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
                return " ".join([_verdict(self.reference, one, name), *self._besides(one.label)])
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
    tasks = _named({run.name: str(run.config.get("task")) for run in runs})
    if len(tasks) > 1:
        told = "; ".join(f"{task}: {', '.join(names)}" for task, names in tasks.items())
        raise DataError(f"runs of different tasks have no figure in common ({told}): name runs of one task")
    leaves = {run.name: choices(run.config) for run in runs}
    every: dict[str, None] = {key: None for run in runs for key in leaves[run.name]}
    differing = [key for key in every if len({leaves[run.name].get(key, _NONE) for run in runs}) > 1]
    monitor, mode, notes = _monitored(runs)
    notes += _notes(runs, differing)
    grouped: dict[str, list[RunSummary]] = {}
    for run in runs:
        grouped.setdefault(json.dumps(leaves[run.name], sort_keys=True), []).append(run)
    notes += _twins(list(grouped.values()))
    if len(grouped) > 1:
        labels = group_labels([leaves[members[0].name] for members in grouped.values()], differing)
    else:
        labels = [str(runs[0].config.get("name", runs[0].name))]
    groups = [
        Group(label, sorted(members, key=lambda run: _rank(run.metrics.get(monitor), mode)))
        for label, members in zip(labels, grouped.values(), strict=True)
    ]
    groups.sort(key=lambda group: _group_rank(group, monitor, mode))
    values = {key: {run.name: leaves[run.name].get(key, ABSENT) for run in runs} for key in differing}
    there = {name for run in runs for name in run.metrics}
    reference, against = _against(groups)
    return Comparison(
        groups,
        monitor,
        mode,
        differing,
        values,
        metrics=_columns(there, monitor),
        notes=notes,
        reference=reference,
        against=against,
        main=_main(there, monitor),
    )


def compare(found: Comparison, out: Path) -> Path:
    """`out/index.html`, its pictures and `out/runs.csv`; returns the page's path."""
    from . import comparison_plots as plots
    from .matrix import heat_map, matrix, write_matrix

    place = {run.name: position for position, group in enumerate(found.groups) for run in group.runs}
    label = {run.name: group.label for group in found.groups for run in group.runs}
    curves = plots.overlaid_curves(
        [(label[run.name], place[run.name], run.history) for run in found.runs], found.monitor, found.mode
    )
    drawn = [("curves", curves, f"{found.monitor} and loss of every run over the epochs")]
    if found.main is not None:
        main = found.main
        rows = [
            (
                group.label,
                [(run.metrics[main], run.intervals.get(main)) for run in group.runs if main in run.metrics],
            )
            for group in found.groups
        ]
        drawn.append(("figures", plots.dots(rows, main), f"{main} of every run"))
    shown = main_difference(dict.fromkeys(found.figures), found.main)
    if shown is not None:
        lines = [
            (one.label, one.paired.differences[shown])
            for one in found.against
            if shown in one.paired.differences
        ]
        png = plots.differences(lines, f"test/{shown}", found.reference)
        drawn.append(("differences", png, f"differences in test/{shown} to {found.reference}"))
    crossed = matrix([(run.config, run.metrics) for run in found.runs])
    if crossed is not None:
        drawn.append(("matrix", heat_map(crossed), f"{crossed.figure}, trained on by tested on"))
    pictures = [Picture(name, png, alt) for name, png, alt in drawn if png is not None]
    runs = found.runs
    values: dict[str, object] = {
        "title": f"{len(runs)} runs compared" if len(runs) > 1 else "1 run",
        "found": found,
        "pictures": {picture.name: picture for picture in pictures},
        "seeds": {run.name: plain(run.config.get("seed")) for run in runs},
        "names": sorted({name for run in runs for name in run.metrics}),
        "label": label,
        "training": {run.name: run_line(run.metrics) or run.unfinished for run in runs},
        "spread_text": spread_text,
        "crossed": crossed,
    }
    page = write_page("compare.html", values, pictures, out)
    write_csv(found, out / "runs.csv")
    if crossed is not None:
        write_matrix([(run.config, run.metrics) for run in found.runs], out / "matrix.csv")
    return page


def spread_text(spread: Spread | None, expected: int) -> str:
    """`0.9801 ± 0.0067`, with `(n = 2)` where not all of the `expected` runs have the figure."""
    if spread is None:
        return ABSENT
    text = number(spread.mean)
    if spread.deviation is not None:
        text += f" ± {number(spread.deviation)}"
    return text if spread.runs == expected else f"{text} (n\u00a0=\u00a0{spread.runs})"


def main_difference(differences: Mapping[str, Difference | None], main: str | None) -> str | None:
    """The difference that speaks for all: of the main figure, else AUROC, else an accuracy."""
    wanted = (str(main).partition("/")[2], "auroc", "accuracy_tuned", "accuracy")
    return next((name for name in wanted if name in differences), None)


def write_csv(found: Comparison, path: Path) -> Path:
    """One line a run: name, seed, differing keys, metrics, bounds as `<metric> low` and `… high`."""
    runs = found.runs
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    bounded = [name for name in names if any(name in run.intervals for run in runs)]
    columns = ["run", "seed", *found.differing, *names]
    columns += [f"{name} {side}" for name in bounded for side in ("low", "high")]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for run in runs:
            row: dict[str, object] = {"run": run.name, "seed": run.config.get("seed"), **run.metrics}
            row |= {key: found.values[key][run.name] for key in found.differing}
            for name, (low, high) in run.intervals.items():
                if name in bounded:
                    row |= {f"{name} low": low, f"{name} high": high}
            writer.writerow(row)
    return path


_NONE = object()
_KEYS = 4


_LEARNT_FROM = (".train_generators", ".classes")
"""Arguments of layouts that choose among training images only."""


def _monitored(runs: Sequence[RunSummary]) -> tuple[str, Mode, list[str]]:
    """What the runs are sorted by: the figure that chose most of them, if any has it; and what to know."""
    monitors = Counter(
        (str(run.config["train"]["monitor"]), str(run.config["train"]["mode"])) for run in runs
    )
    (monitor, mode), _ = monitors.most_common(1)[0]
    notes = []
    if len(monitors) > 1:
        others = ", ".join(f"{name} ({way})" for name, way in monitors)
        notes.append(f"The runs were chosen by different figures: {others}. They are sorted by {monitor}.")
    there = {name for run in runs for name in run.metrics}
    if there and monitor not in there:
        notes.append(f"No run has a figure called {monitor}, so the order says nothing.")
    return monitor, "min" if mode == "min" else "max", notes


def _notes(runs: Sequence[RunSummary], differing: Sequence[str]) -> list[str]:
    """What a reader must know before holding one figure against another."""
    notes = [f"{run.name} {run.unfinished}." for run in runs if run.unfinished]
    silent = [run.name for run in runs if not run.metrics and not run.unfinished]
    if silent:
        notes.append(f"Without figures, since they did not finish: {', '.join(silent)}.")
    images = {_digest(run.judged) for run in runs if run.judged is not None}
    data = [key for key in differing if key.startswith(("data.root", "data.index"))]
    if len(images) == 1 and all(key.endswith(_LEARNT_FROM) for key in data):
        data = []  # what is learnt from differs, as in a cross-generator matrix, and what is judged does not
    if data:
        notes.append(
            f"The runs do not have the same data ({', '.join(data)}): a figure on one set of images can't be "
            "held against a figure on another."
        )
        return notes
    if len(images) > 1:
        notes.append(
            "The runs were not judged on the same test images (data.limit draws them by the seed), and their "
            "figures differ for that reason, too. Differences are counted on the images that both judged."
        )
    return notes


def _digest(judged: Judged) -> bytes:
    """Equal for runs that judged the same images, and small where those are millions."""
    return hashlib.sha256("\0".join(sorted(judged.predictions["path"].to_pylist())).encode()).digest()


def _twins(grouped: Sequence[Sequence[RunSummary]]) -> list[str]:
    """Runs with one config and one seed, which are no sample of anything."""
    notes = []
    for members in grouped:
        for seed, names in _named({run.name: plain(run.config.get("seed")) for run in members}).items():
            if len(names) > 1:
                notes.append(
                    f"{', '.join(names)} have one config and one seed ({seed}): their spread is not one over "
                    "seeds."
                )
    return notes


def _named(values: Mapping[str, str]) -> dict[str, list[str]]:
    """Value → the names that have it."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return names


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


def _against(groups: Sequence[Group]) -> tuple[str, list[Against]]:
    """Every group with predictions held against the best of them; ('', []) below two."""
    every = [(group, [run.judged for run in group.runs if run.judged is not None]) for group in groups]
    judged = [(group, runs) for group, runs in every if runs]
    if len(judged) < 2:
        return "", []
    from ..evaluation.paired import Paired, paired

    (reference, first), *others = judged
    place = _data(reference.runs[0].config)
    found = []
    for group, second in others:
        same = _data(group.runs[0].config) == place
        compared = paired(second, first) if same else Paired({}, 0, 0, "they were judged on different data")
        found.append(Against(group.label, compared))
    return reference.label, found


def _data(config: Mapping[str, Any]) -> tuple[object, ...]:
    """What the paths of predictions belong to, wherever it lies: the layout and the roots' last names."""
    data = config.get("data", {})
    indexes = data.get("index") or {}
    targets = [one.get("_target_") for one in (indexes if isinstance(indexes, list) else [indexes])]
    roots = {"": data.get("root"), **(data.get("roots") or {})}
    return (*targets, *((split, PurePath(str(root)).name) for split, root in roots.items()))


def _verdict(reference: str, one: Against, name: str) -> str:
    """The reference minus the other, though `one` holds it the other way round."""
    found = one.paired.differences[name]
    both = "" if one.paired.images == one.paired.of else " that both judged"
    images = f"{one.paired.images:,} test images{both}"
    value = f"{signed(-found.value)} (95 % interval {signed(-found.high)} to {signed(-found.low)})"
    if found.shown:
        way = "above" if found.value < 0 else "below"
        return f"On {images}, {reference} is {way} {one.label} in {name}: {value}."
    return f"The {images} can't tell {reference} from {one.label}: their difference in {name} is {value}."
