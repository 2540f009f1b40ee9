"""What of a search can be wrong, told before its first trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from typing import Any

from ..config.check import check_config
from ..config.compose import Composed, compose
from ..errors import ConfigError
from .space import Space

_CHOOSES = ("val/", "run/", "best/")


@dataclass(frozen=True)
class Plan:
    """objectives: figure of metrics.json → min or max. trials: how many. epochs: most of one trial, or 0."""

    objectives: dict[str, str]
    trials: int
    epochs: int


def plan(space: Space, sweep: Mapping[str, Any] | None) -> Plan:
    """Check a search as a whole.

    Every choice and both ends of every range are composed and checked, one away from the first point at a
    time. Raises one ConfigError with all problems.
    """
    if sweep is None:
        raise ConfigError(
            "a search needs settings: type sweep=optuna instead of hydra/sweeper=tapetum_search"
        )
    first = {key: one.ends()[0] for key, one in space.parameters.items()}
    problems: list[str] = []
    configs: list[Mapping[str, Any]] = []
    try:
        configs.append(checked(space.overrides(first)).config)
    except ConfigError as error:
        problems += error.problems
    for key, one in space.parameters.items():
        for value in one.ends()[1:]:
            try:
                configs.append(checked(space.overrides({**first, key: value})).config)
            except ConfigError as error:
                found = [problem for problem in error.problems if problem not in problems]
                problems += [f"with {one.override(value)}: {problem}" for problem in found]
    if not problems:
        problems += _problems(space, sweep, configs)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    objectives = sweep["objectives"] or {
        f"best/{configs[0]['train']['monitor']}": configs[0]["train"]["mode"]
    }
    trials = sweep["trials"]
    if sweep["sampler"] == "grid":
        trials = min(trials, prod(len(one.values() or []) for one in space.parameters.values()))
    return Plan(objectives, trials, max(_epochs(config) for config in configs))


def checked(overrides: Sequence[str]) -> Composed:
    """One trial's config; ConfigError with all that is wrong with it."""
    composed = compose(overrides)
    check_config(composed)
    return composed


def _epochs(config: Mapping[str, Any]) -> int:
    return max(0, config["trainer"].get("max_epochs") or 0)


def _problems(space: Space, sweep: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Settings that do not go together; every config is valid by itself."""
    for key, least in (("trials", 1), ("seed", 0), ("warmup", 0), ("startup_trials", 1)):
        if sweep[key] < least:
            yield f"sweep.{key}={sweep[key]} must be at least {least}: type sweep.{key}={least}"
    sampler, pruner, objectives = sweep["sampler"], sweep["pruner"], sweep["objectives"]
    monitored = {(config["train"]["monitor"], config["train"]["mode"]) for config in configs}
    if len(monitored) > 1 and not objectives:
        found = " and ".join(f"{monitor} ({mode})" for monitor, mode in sorted(monitored))
        yield f"trials go by different figures, {found}: type train.monitor=METRIC train.mode=max for all"
    if sampler == "cmaes" and find_spec("cmaes") is None:
        yield "sweep.sampler=cmaes needs the package cmaes, which is not installed: type pip install cmaes"
    if sampler == "cmaes" and len(objectives or ()) > 1:
        yield "sweep.sampler=cmaes knows one objective: type sweep.sampler=nsga2"
    if sampler == "grid":
        endless = [key for key, one in space.parameters.items() if one.values() is None]
        for key in endless:
            yield f"sweep.sampler=grid can't count {key}: type {key}=a,b,c or range(…), or sweep.sampler=tpe"
    yield from _objective_problems(objectives)
    if pruner == "none":
        return
    if len(objectives or ()) > 1:
        yield f"sweep.pruner={pruner} goes by one objective, not by {len(objectives)}: type sweep.pruner=none"
    for monitor, _ in sorted(monitored):
        if not monitor.startswith("val/"):
            yield (
                f"sweep.pruner={pruner} compares validations, and train.monitor={monitor} is none: type "
                f"train.monitor=val/METRIC, or sweep.pruner=none"
            )
    if pruner == "hyperband" and not all(_epochs(config) for config in configs):
        yield "sweep.pruner=hyperband shares out epochs: type trainer.max_epochs=N, or sweep.pruner=median"


def _objective_problems(objectives: Mapping[str, str] | None) -> Iterator[str]:
    for name, mode in (objectives or {}).items():
        if name.startswith(("test/", "best/test/")):
            yield (
                f"sweep.objectives: {name} would let the test split choose: type val/{name.split('test/')[1]}"
            )
        elif not name.startswith(_CHOOSES):
            yield f"sweep.objectives: {name} is no figure of a run: it looks like val/METRIC or run/seconds"

        if mode not in ("min", "max"):
            yield f"sweep.objectives: {name} is {mode}: type max or min"
