"""A search: jobs that an optuna study proposes, one at a time, from how the others ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..config.compose import compose
from ..errors import ConfigError, did_you_mean
from ..runs.resume import differences
from ..runs.study import TrialOf, absolute, open_storage, pruner_of, quiet_optuna, write_trial
from .jobs import Job, Outcome
from .search_checks import checked, plan
from .space import Space, command_line, written

_OWNER = "directory"
_OVERRIDES = "overrides"
_SPACE, _OBJECTIVES = "space", "objectives"


class OptunaSearch:
    """A `Source` of jobs, which are the trials of a study; several sweeps may share one.

    A trial belongs to the sweep whose directory's name it carries. Those that a sweep left running when it
    was killed come first when it goes on, with the overrides that they had; those that failed count.

    Args:
        space: what to search over.
        sweep: the keys of `config.schema.Sweep`.
        directory: of the sweep.

    Raises ConfigError, before anything is made, for a space whose ends are no valid trainings, for settings
    that do not go together, and for a study that was about something else.
    """

    def __init__(self, space: Space, sweep: Mapping[str, Any] | None, directory: Path) -> None:
        self._space, self._directory = space, directory
        self._plan = plan(space, sweep)
        self._sweep = dict(sweep or {})
        self.swept = list(space.parameters)
        self.total = self._plan.trials
        storage = self._sweep["storage"]
        if storage is None:
            directory.mkdir(parents=True, exist_ok=True)
        self._storage = absolute(str(directory / "study.journal") if storage is None else storage)
        with quiet_optuna():
            self.study = self._open()
        self._left: list[FrozenTrial] | None = None

    def next(self) -> Job | None:
        """The next trial as a job; one whose config turns out wrong counts as failed."""
        while (trial := self._next_trial()) is not None:
            number, values = trial.number, trial.params
            overrides = self._space.overrides(values)
            self.total = max(self.total, number + 1)
            try:
                config = checked(overrides).config
            except ConfigError as error:
                self._tell(number, reason=" ".join(str(error).split()))
                continue
            write_trial(
                self._directory / str(number),
                TrialOf(self._storage, self.study.study_name, number, self._plan.epochs),
            )
            return Job(number, overrides, config)
        return None

    def ended(self, outcome: Outcome) -> None:
        """Tell the study; an interrupted trial stays open, for the sweep to go on with."""
        number = outcome.job.number
        if outcome.status == "finished":
            figures = outcome.run.read_metrics()
            values = [figures.get(name, math.nan) for name in self._plan.objectives]
            wrong = [
                f"{name} is NaN"
                if name in figures
                else f"{name} is not among its figures{did_you_mean(name, figures)}"
                for name, value in zip(self._plan.objectives, values, strict=True)
                if math.isnan(value)
            ]
            self._tell(number, values, reason="; ".join(wrong))
        elif outcome.status == "pruned":
            with quiet_optuna():
                self.study.tell(number, state=TrialState.PRUNED)
        elif outcome.status == "failed":
            self._tell(number, reason=outcome.reason)

    def best(self) -> list[str]:
        """What the study found, in lines: the best trial, or of several objectives those that none beats."""
        with quiet_optuna():
            finished = [
                one
                for one in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
                if _OWNER in one.user_attrs  # others may have been told of by hand
            ]
            if not finished:
                return ["no trial has finished, so that there is no best one"]
            several = len(self._plan.objectives) > 1
            best = self.study.best_trials if several else [self.study.best_trial]
            found = [one for one in best if _OWNER in one.user_attrs]
        lines = [f"{len(found)} of {len(finished)} trials are beaten by no other"] if several else []
        for trial in sorted(found, key=lambda one: one.number):
            reached = ", ".join(
                f"{name.removeprefix('best/')} {value:.4g}"
                for name, value in zip(self._plan.objectives, trial.values, strict=True)
            )
            where = f"{trial.user_attrs[_OWNER]}/{trial.number}"
            lines.append(f"found   {reached} in {where}")
            lines.append(f"again   {command_line(_alone(trial.user_attrs[_OVERRIDES]))}")
        return lines

    def _next_trial(self) -> FrozenTrial | None:
        with quiet_optuna():
            trials = self.study.get_trials()
            own = [one for one in trials if one.user_attrs.get(_OWNER) == self._directory.name]
            if self._left is None:
                self._left = [one for one in own if one.state == TrialState.RUNNING]
            if self._left:
                return self._left.pop(0)
            points = math.prod(len(one.values() or []) for one in self._space.parameters.values())
            all_of_a_grid = self._sweep["sampler"] == "grid" and len(trials) >= points
            if len(own) >= self._plan.trials or all_of_a_grid:
                return None
            asked = self.study.ask(self._space.distributions)
            asked.set_user_attr(_OVERRIDES, list(self._space.overrides(asked.params)))
            asked.set_user_attr(_OWNER, self._directory.name)
            return self.study.trials[asked.number]

    def _tell(self, number: int, values: Sequence[float] | None = None, *, reason: str = "") -> None:
        """A trial's values, or that it failed and why."""
        with quiet_optuna():
            if not reason:
                self.study.tell(number, values)
                return
            self.study.tell(number, state=TrialState.FAIL)
        print(f"trial {number} counts as failed: {reason}", flush=True)

    def _open(self) -> optuna.Study:
        """The study, new or as it was left; ConfigError where it was about something else."""
        ways = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        directions = [ways[mode] for mode in self._plan.objectives.values()]
        name = self._sweep["study"] or self._directory.name
        storage = open_storage(self._storage)
        names = optuna.get_all_study_names(storage)
        space = {key: written(one) for key, one in self._space.distributions.items()}
        asked = {_SPACE: space, _OBJECTIVES: self._plan.objectives}
        if name in names:
            study = optuna.load_study(study_name=name, storage=storage)
            before = {key: study.user_attrs.get(key, value) for key, value in asked.items()}
            changed = [
                _changed(key, before[part].get(key), asked[part].get(key))
                for part in asked
                for key in dict.fromkeys((*before[part], *asked[part]))
                if before[part].get(key) != asked[part].get(key)
            ]
            if not changed and study.directions != directions:
                changed.append(f"it went by {', '.join(one.name for one in study.directions).lower()}")
            if changed:
                raise ConfigError(
                    f"the study {name} in {self._storage} was another search ({'; '.join(changed)}): type "
                    f"sweep.study=NAME for one of its own, or ask for the same"
                )
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=directions,
            load_if_exists=True,
            sampler=_Numbered(self._sampler, self._sweep["seed"]),
            pruner=pruner_of(self._sweep, self._plan.epochs),
        )
        for key, value in asked.items():
            study.set_user_attr(key, value)
        return study

    def _sampler(self, seed: int) -> BaseSampler:
        first = self._sweep["startup_trials"]
        if self._sweep["sampler"] == "random":
            return optuna.samplers.RandomSampler(seed)
        if self._sweep["sampler"] == "cmaes":
            return optuna.samplers.CmaEsSampler(
                seed=seed, n_startup_trials=first, warn_independent_sampling=False
            )
        if self._sweep["sampler"] == "nsga2":
            # optuna's 50 are made for long searches; a short one would see no second generation
            population = max(4, min(50, self._plan.trials // 4))
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)
        if self._sweep["sampler"] == "grid":
            values = {key: one.values() or [] for key, one in self._space.parameters.items()}
            return optuna.samplers.GridSampler(values, self._sweep["seed"])  # its order is that of all trials
        # Trials that run at the same time, also another sweep's, count as bad ones: they lie apart.
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=first, constant_liar=True)


class _Numbered(BaseSampler):
    """Draws each trial with a sampler of its own, whose seed follows from the trial's number.

    So a search that was interrupted goes on as it would have gone, and two that share a study draw different
    trials. A sampler has no memory but the study.
    """

    def __init__(self, sampler: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = sampler, seed
        self._one = sampler(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Optuna's hook."""
        seed = np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0]
        self._one = self._make(int(seed))
        self._one.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, optuna.distributions.BaseDistribution]:
        """Optuna's hook."""
        return self._one.infer_relative_search_space(study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, optuna.distributions.BaseDistribution],
    ) -> dict[str, Any]:
        """Optuna's hook."""
        return self._one.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: optuna.distributions.BaseDistribution,
    ) -> Any:
        """Optuna's hook."""
        return self._one.sample_independent(study, trial, param_name, param_distribution)


def _changed(key: str, old: str | None, new: str | None) -> str:
    if old is None:
        return f"{key} was not in it, now {new}"
    return f"{key} was {old}, now {new}" if new is not None else f"{key} was {old}, now not in it"


def _alone(words: Sequence[str]) -> list[str]:
    """Overrides of a trial as those of a training by itself.

    `sweep=NAME` stays where its YAML chooses more than how to search.
    """
    kept = [word for word in words if not word.lstrip("+~").startswith(("sweep.", "launcher"))]
    short = [word for word in kept if not word.startswith("sweep=")]
    try:
        config = compose(short).config
    except ConfigError:
        return kept
    whole = compose(words).config
    ways = ("sweep", "launcher")
    changed = differences(
        {key: value for key, value in config.items() if key not in ways},
        {key: value for key, value in whole.items() if key not in ways},
    )
    return kept if changed else short
