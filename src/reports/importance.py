"""How much of what sets good runs apart from the others each parameter explains."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .history import Mode

FEWEST_RUNS = 8
"""Finished runs below which shares would be noise."""
BEST_SHARE = 1 / 3
"""The best runs, which are held against all. Optuna's tenth would be one run of a sweep of ten."""


@dataclass(frozen=True)
class Importance:
    """shares: parameter → its share, largest first, together 1; empty where there is none, and then `reason`.

    left_out: the parameters that not every run has, which can't be held against the others.
    """

    shares: Mapping[str, float]
    left_out: tuple[str, ...] = ()
    reason: str = ""


def importance(
    parameters: Mapping[str, tuple[Literal["linear", "log", "categorical"], Mapping[str, float]]],
    figures: Mapping[str, float],
    mode: Mode,
) -> Importance:
    """PED-ANOVA (Watanabe et al., IJCAI 2023) by optuna: how far the best third's values of a parameter are
    distributed otherwise than those of all runs. It draws no random numbers and, unlike fANOVA, needs no
    scikit-learn.

    parameters: key → its scale and its value by run, of a categorical one the place among its options.
    figures: the monitored value of the finished runs.
    """
    shared = {
        key: (scale, {run: values[run] for run in figures})
        for key, (scale, values) in parameters.items()
        if all(run in values for run in figures)
    }
    shared = {key: one for key, one in shared.items() if len(set(one[1].values())) > 1}
    left_out = tuple(key for key in parameters if key not in shared)
    if len(parameters) < 2:
        return Importance({}, reason="With one parameter there is no share to tell.")
    if len(figures) < FEWEST_RUNS:
        few = "is 1" if len(figures) == 1 else f"are {len(figures)}"
        return Importance({}, reason=f"It takes {FEWEST_RUNS} finished runs, and there {few}.")
    if len(shared) < 2:
        return Importance({}, reason="Fewer than two parameters have different values in all finished runs.")
    if len(set(figures.values())) == 1:
        return Importance({}, reason="All finished runs have one value: nothing explains anything.")
    if importlib.util.find_spec("optuna") is None:
        return Importance({}, reason="It is computed by optuna: pip install 'tapetum[search]'")
    return Importance(_shares(shared, figures, mode), left_out)


def _shares(
    parameters: Mapping[str, tuple[str, Mapping[str, float]]], figures: Mapping[str, float], mode: Mode
) -> dict[str, float]:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.exceptions import ExperimentalWarning

    distributions: dict[str, BaseDistribution] = {}
    for key, (scale, values) in parameters.items():
        if scale == "categorical":
            distributions[key] = CategoricalDistribution(sorted(set(values.values())))
        else:
            bounds = min(values.values()), max(values.values())
            distributions[key] = FloatDistribution(*bounds, log=scale == "log")
    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # that a study was made in memory is no news
    try:
        study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    finally:
        optuna.logging.set_verbosity(said)
    for run, figure in figures.items():
        own = {key: values[run] for key, (_, values) in parameters.items()}
        study.add_trial(optuna.trial.create_trial(params=own, distributions=distributions, value=figure))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in sorted(found.items(), key=lambda item: -item[1])}
