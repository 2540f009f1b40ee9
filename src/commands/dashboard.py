"""`tapetum dashboard TASK|SWEEP`: a workspace for a task's runs, or a report of a sweep, at Weights & Biases.

It is always written as JSON. It goes to W&B where this machine is logged in, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, TapetumError, did_you_mean

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces.interface as ws

_SETTINGS = ("project", "entity", "mode")
_MODES = ("online", "offline")
_USAGE = "tapetum dashboard detection|captioning|retrieval|vlm|SWEEP [project=…] [entity=…] [mode=offline]"


@dataclass(frozen=True)
class _Sweep:
    """A sweep's directory and the jobs in it that have begun: number → config, and figures where finished."""

    directory: Path
    described: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    figures: Mapping[str, Mapping[str, float]]


def main(arguments: Sequence[str]) -> int:
    """Write the dashboard, save it where there is an account, and say both; the exit code."""
    what, given = _parsed(arguments)
    from ..reports.dashboard_names import SHOWN

    sweep = None if what in SHOWN else _read_sweep(Path(what), list(SHOWN))
    if find_spec("wandb_workspaces") is None:
        raise ConfigError(
            "tapetum dashboard needs the package wandb-workspaces, which is not installed: type "
            "pip install 'tapetum[dashboards]'"
        )
    from ..runs.wandb_account import choose_mode

    mode = choose_mode(given.get("mode"), "mode")
    if sweep is None:
        outputs = Path(os.environ.get("TAPETUM_OUTPUTS", "outputs"))
        _workspace(what, outputs, given, mode)
    else:
        _report(sweep, given, mode)
    return 0


def _workspace(task: str, outputs: Path, given: Mapping[str, str], mode: str) -> None:
    from ..reports.dashboards import workspace
    from ..runs.directory import RunDirectory

    figures = {
        name
        for file in outputs.glob(f"{task}/*/*/metrics.json")
        for name in RunDirectory(file.parent).read_metrics()
    }
    project = given.get("project") or os.environ.get("WANDB_PROJECT") or "tapetum"
    place, name = outputs / "dashboards", f"{task}.json"
    _write(workspace(task, project=project, figures=figures), place / name)
    if mode != "online":
        _say_offline(given, project)
        return
    entity, known = _known(place, task, project, given.get("entity"))
    view = (known.get("name", ""), known.get("id", ""))
    saved = workspace(task, project=project, entity=entity, figures=figures, view=view)
    _save(saved, place, task)


def _report(sweep: _Sweep, given: Mapping[str, str], mode: str) -> None:
    from ..reports.dashboards import axes, sweep_report
    from ..runs.trackers import sweep_name, swept
    from .console import console

    first = next(iter(sweep.configs.values()))
    logged = (first.get("logger") or {}).get("wandb") or {}
    project = given.get("project") or logged.get("project") or os.environ.get("WANDB_PROJECT") or "tapetum"
    keys = swept(sweep.described)
    about: dict[str, Any] = {
        "group": sweep_name(sweep.directory),
        "monitor": first["train"]["monitor"],
        "axes": axes(keys, list(sweep.configs.values())),
        "said": _said(sweep, keys),
        "figures": {name for figures in sweep.figures.values() for name in figures},
    }
    if not logged:
        console.print(
            "these jobs were not logged to W&B, so its report will show nothing: add logger=wandb to a sweep",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    _write(sweep_report(first["task"], project=project, **about), sweep.directory / "dashboard.json")
    if mode != "online":
        _say_offline(given, project)
        return
    entity, known = _known(sweep.directory, "report", project, given.get("entity") or logged.get("entity"))
    saved = sweep_report(first["task"], project=project, entity=entity, view=known.get("id", ""), **about)
    _save(saved, sweep.directory, "report")


def _read_sweep(directory: Path, tasks: Sequence[str]) -> _Sweep:
    """What lies in a sweep's directory; TapetumError where it is none, or no job has begun."""
    from ..launch.sweep_directory import read_sweep
    from ..runs.directory import RunDirectory

    given = directory
    directory = given.absolute()  # its name, and that of the folder above, are the sweep's
    file = directory / "sweep.yaml"
    if not file.is_file():
        if directory.is_dir():
            raise TapetumError(
                f"{directory} is not the directory of a sweep, which holds sweep.yaml. There are dashboards "
                f"of tasks and of sweeps: {_USAGE}"
            )
        name = directory.name
        near = did_you_mean(name, tasks) or ":"
        raise TapetumError(f"{given} is neither a task nor the directory of a sweep{near} {_USAGE}")
    described = read_sweep(directory)
    jobs = {str(number): RunDirectory(directory / str(number)) for number in described["jobs"]}
    begun = {number: run for number, run in jobs.items() if run.config.is_file()}
    if not begun:
        raise TapetumError(f"the sweep {directory} has no jobs that have begun")
    configs = {number: run.read_config() for number, run in begun.items()}
    if len(found := {str(config["task"]) for config in configs.values()}) > 1:
        raise TapetumError(
            f"the jobs of {directory} have different tasks ({', '.join(sorted(found))}), whose figures "
            "no one report compares: sweep over one task at a time"
        )
    return _Sweep(
        directory, described, configs, {number: run.read_metrics() for number, run in begun.items()}
    )


def _said(sweep: _Sweep, keys: Sequence[str]) -> list[str]:
    """What stands at the head of a report: how many jobs, what they vary, which was the best."""
    train = next(iter(sweep.configs.values()))["train"]
    best = f"best/{train['monitor']}"
    jobs = "1 job" if len(sweep.configs) == 1 else f"{len(sweep.configs)} jobs"
    found = [f"{jobs}, {', '.join(keys)} varied." if keys else f"{jobs}."]
    values = {number: figures[best] for number, figures in sweep.figures.items() if best in figures}
    if values:
        number = (min if train["mode"] == "min" else max)(values, key=lambda one: values[one])
        own = next(job for name, job in sweep.described["jobs"].items() if str(name) == number)
        chosen = " ".join(one for one in own if one.lstrip("+~").partition("=")[0] in keys)
        found.append(f"Best by {train['monitor']}: job {number} ({chosen}), {values[number]:.4g}.")
    return found


def _write(dashboard: ws.Workspace | wr.Report, file: Path) -> None:
    from ..reports.dashboards import as_json
    from ..runs.directory import write_json
    from .console import console

    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, as_json(dashboard))
    console.print(f"dashboard  {file}", highlight=False, soft_wrap=True)


def _say_offline(given: Mapping[str, str], project: str) -> None:
    from .console import console

    why = (
        "as mode=offline says; without it, and logged in,"
        if given.get("mode") or "WANDB_MODE" in os.environ
        else "there is no account here; after wandb login"
    )
    console.print(
        f"not saved to W&B: {why} the same command saves it in the project {project}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _known(place: Path, what: str, project: str, entity: str | None) -> tuple[str, dict[str, str]]:
    """Whose project it is, and what finds a dashboard again that was saved there before."""
    import wandb

    from ..runs.trackers import recall
    from ..runs.wandb_account import reason, silence

    if problem := silence():
        raise TapetumError(
            f"W&B can't be reached ({problem}): try again when it answers, or add mode=offline"
        )
    try:
        entity = entity or os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity
    except Exception as error:  # W&B's own, its client's and its process's
        raise _refused(reason(error)) from error
    if not entity:
        raise _refused("it names no account for this login")
    known = recall(place, f"wandb {what}")
    same = (known.get("entity"), known.get("project")) == (entity, project)
    return entity, known if same else {}


def _save(dashboard: ws.Workspace | wr.Report, place: Path, what: str) -> None:
    """Save at W&B, in the place of what was saved before, and print the address."""
    from wandb_workspaces.reports.v2.interface import Report

    from ..runs.trackers import remember
    from ..runs.wandb_account import reason
    from .console import console

    try:
        dashboard.save()  # type: ignore[no-untyped-call]
        url = str(dashboard.url)
    except Exception as error:  # as in _known
        raise _refused(reason(error)) from error
    ids = (
        {"id": dashboard.id}
        if isinstance(dashboard, Report)
        else {"name": dashboard._internal_name, "id": dashboard._internal_id}
    )
    remember(place, f"wandb {what}", {"entity": dashboard.entity, "project": dashboard.project, **ids})
    console.print(f"saved      {url}", highlight=False, soft_wrap=True)


def _refused(problem: str) -> TapetumError:
    return TapetumError(
        f"W&B did not take the dashboard ({problem}). If the login is wrong, type wandb login --relogin; if "
        "the project does not exist yet, train or sync a run with logger=wandb first"
    )


def _parsed(arguments: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What to show, and the settings; TapetumError for anything else."""
    given: dict[str, str] = {}
    places: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            places.append(argument)
        elif key not in _SETTINGS:
            raise TapetumError(f"unknown setting {key}{did_you_mean(key, _SETTINGS) or ':'} {_USAGE}")
        else:
            given[key] = value
    if len(places) != 1:
        raise TapetumError(
            f"a task or a sweep's directory is needed, and there is {places or 'none'}: {_USAGE}"
        )
    if given.get("mode", "online") not in _MODES:
        raise TapetumError(f"mode={given['mode']} is not a mode: {' or '.join(_MODES)}")
    return places[0], given
