"""What a sweep varied, against the figure that chose: parameters, their scales and values."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .compare import Comparison, RunSummary
from .format import flatten, plain
from .history import Mode
from .importance import Importance, importance
from .labels import ABSENT, is_choice, short, tail

MOST_PARAMETERS = 10
"""Axes that stand beside each other: of more, the first."""
MOST_OPTIONS = 10
"""Values of a categorical axis: of more, those that most runs have, and the others as one."""
LOG_SPAN = 30
"""Positive numbers whose largest is so many times their smallest stand on a logarithmic axis."""
OTHERS = "others"
LONGEST_OPTION = 24
_ONLY_IN_SWEEPS = ("sweep.", "launcher", "hydra")
"""What overrides of a job begin with that say how the sweep went about it."""

Scale = Literal["linear", "log", "categorical"]


@dataclass(frozen=True)
class Parameter:
    """One key that was varied.

    name: the key for short. typed: run → its value as one would type it. values: run → the number itself, or
    of a categorical one the place among `options`, its values for short. A run that lacks the key is not in
    `typed`, and of numbers not in `values`.
    """

    key: str
    name: str
    scale: Scale
    typed: Mapping[str, str]
    values: Mapping[str, float]
    options: tuple[str, ...] = ()

    @property
    def distinct(self) -> list[float]:
        """The values there are, in order."""
        return sorted(set(self.values.values()))


@dataclass(frozen=True)
class Varied:
    """The parameters of a comparison's runs.

    finished, pruned: run → the monitored value, best first; of a pruned run its last. left_out: the keys
    beyond MOST_PARAMETERS. best: the run whose values are worth taking. command: what makes it again, empty
    where the run is no job of a sweep.
    """

    monitor: str
    mode: Mode
    parameters: list[Parameter]
    left_out: list[str]
    finished: dict[str, float]
    pruned: dict[str, float]
    best: RunSummary
    command: str
    importance: Importance


def varied(found: Comparison) -> Varied | None:
    """The parameters that the runs differ in; None where they differ in none or no run has the figure.

    Of a sweep's jobs these are the keys that the sweep varied; of any other runs, the keys in which their
    configs differ, without those that another one brings along. Seeds are no parameter.
    """
    runs = [*found.runs, *found.pruned]
    every = _of_sweep(runs) if all(run.swept for run in runs) else _of_configs(found, runs)
    finished = {run.name: run.metrics[found.monitor] for run in found.runs if found.monitor in run.metrics}
    finished = {name: value for name, value in finished.items() if math.isfinite(value)}
    if not every or not finished or found.best is None:
        return None
    shown = every[:MOST_PARAMETERS]
    return Varied(
        found.monitor,
        found.mode,
        shown,
        [parameter.key for parameter in every[MOST_PARAMETERS:]],
        finished,
        {
            run.name: run.pruned.value
            for run in found.pruned
            if run.pruned is not None and math.isfinite(run.pruned.value)
        },
        found.best,
        command(found.best),
        importance({one.key: (one.scale, one.values) for one in shown}, finished, found.mode),
    )


def command(run: RunSummary) -> str:
    """The command line that makes a sweep's job again by itself; empty for a run that is none."""
    alone = [word for word in run.overrides if not word.lstrip("+~").startswith(_ONLY_IN_SWEEPS)]
    return shlex.join(["python", "train.py", *alone]) if run.overrides else ""


def _of_sweep(runs: Sequence[RunSummary]) -> list[Parameter]:
    """The swept keys whose values differ; a group's option is told by the job's override only."""
    keys = [key for key in dict.fromkeys(key for run in runs for key in run.swept) if is_choice(key)]
    values: dict[str, dict[str, Any]] = {key: {} for key in keys}
    for run in runs:
        leaves = flatten(run.config)
        typed = dict(one.lstrip("+").partition("=")[::2] for one in run.overrides)
        for key in keys:
            if key in leaves or key in typed:
                values[key][run.name] = leaves[key] if key in leaves else typed[key]
    every = [run.name for run in runs]
    made = [_parameter(key, tail(key, keys), values[key], every) for key in keys]
    return [one for one in made if one is not None]


def _of_configs(found: Comparison, runs: Sequence[RunSummary]) -> list[Parameter]:
    """The differing keys; what comes along with a target, and keys that change together, are one."""
    targets = {key.removesuffix("._target_") for key in found.differing if key.endswith("._target_")}
    free = [key for key in found.differing if key.endswith("._target_") or not _below(key, targets)]
    every = [run.name for run in runs]
    configs = len({tuple(found.values[key][name] for key in free) for name in every})
    kept, seen = [], set()
    for key in free:
        column = [found.values[key][name] for name in every]
        numbers = {value: place for place, value in enumerate(dict.fromkeys(column))}
        pattern = tuple(numbers[value] for value in column)
        # values of a random search are all different, and that says nothing
        if len(numbers) < configs and pattern in seen:
            continue
        seen.add(pattern)
        kept.append(key)
    leaves = {run.name: flatten(run.config) for run in runs}
    made = [
        _parameter(
            key,
            tail(key, found.differing),
            {name: own[key] for name, own in leaves.items() if key in own},
            every,
        )
        for key in kept
    ]
    return [one for one in made if one is not None]


def _below(key: str, targets: set[str]) -> bool:
    return any(key.startswith(f"{target}.") for target in targets)


def _parameter(key: str, name: str, values: Mapping[str, Any], runs: Sequence[str]) -> Parameter | None:
    """Numbers as such, everything else by its words; None where all runs have one value."""
    typed = {run: plain(value) for run, value in values.items()}
    if values and all(_is_number(value) for value in values.values()):
        numbers = {run: float(value) for run, value in values.items()}
        low, high = min(numbers.values()), max(numbers.values())
        if low < high:
            scale: Scale = "log" if low > 0 and high > LOG_SPAN * low else "linear"
            return Parameter(key, name, scale, typed, numbers)
    words = {run: _clipped(short(key, typed[run])) if run in typed else ABSENT for run in runs}
    counts = Counter(words.values())
    if len(counts) < 2:
        return None
    if len(counts) > MOST_OPTIONS:
        kept = {word for word, _ in counts.most_common(MOST_OPTIONS - 1)}
        words = {run: word if word in kept else OTHERS for run, word in words.items()}
    options = sorted(set(words.values()), key=lambda word: (word == OTHERS, word == ABSENT, _order(word)))
    places = {word: float(place) for place, word in enumerate(options)}
    numbers = {run: places[word] for run, word in words.items()}
    return Parameter(key, name, "categorical", typed, numbers, tuple(options))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _clipped(text: str) -> str:
    return text if len(text) <= LONGEST_OPTION else text[: LONGEST_OPTION - 1] + "…"


def _order(word: str) -> tuple[bool, float, str]:
    """Numbers by size and before words."""
    try:
        return False, float(word), word
    except ValueError:
        return True, 0.0, word
