"""`tapetum report DIR…`: one run's report again, or several runs and sweeps side by side."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.overrides import is_a_file
from ..errors import TapetumError

if TYPE_CHECKING:
    from ..reports.compare import RunSummary
    from ..runs.directory import RunDirectory


def main(arguments: Sequence[str]) -> int:
    """Write the report and print its path; the exit code."""
    from ..launch.libraries import load_libraries
    from .console import console

    if not arguments:
        raise TapetumError("tapetum report DIR…: name a run's directory, several, or a sweep's")
    settings = [word for word in arguments if "=" in word and not is_a_file(word)]
    if settings:
        raise TapetumError(
            f"tapetum report takes directories only, not {', '.join(settings)}: it shows what the runs have "
            f"recorded; other data is judged by tapetum evaluate RUN data=…"
        )
    directories = [Path(argument) for argument in arguments]
    found = runs_below(directories)
    runs = list({run.resolve(): run for run in reversed(found)}.values())[::-1]
    if len(runs) < len(found):
        twice = [str(run) for run in runs if sum(other.resolve() == run.resolve() for other in found) > 1]
        console.print(
            f"given more than once, shown once: {', '.join(twice)}", highlight=False, soft_wrap=True
        )
    load_libraries()
    sweep = len(directories) == 1 and (directories[0] / "sweep.yaml").is_file()
    if len(runs) == 1 and not sweep:
        from ..runs.directory import open_run
        from .finish import advice_line, report_run

        page = report_run(open_run(runs[0]))
        if said := advice_line(open_run(runs[0])):
            console.print(said, highlight=False, soft_wrap=True)
    else:
        outputs = Path(os.environ.get("TAPETUM_OUTPUTS", "outputs"))
        page = report_directories(
            runs, directories[0] / "report" if sweep else outputs / "reports" / _stamp()
        )
    console.print(f"report  {page}", highlight=False, soft_wrap=True)
    return 0


def report_directories(runs: Sequence[Path], out: Path) -> Path:
    """Compare runs: prints the table, writes `out/index.html`, returns its path.

    Runs that did not finish, or that a search gave up, are shown apart: leave them in.
    """
    from ..launch.sweep_directory import read_sweep
    from ..reports.compare import MOST_SHOWN, comparison
    from ..reports.comparison_page import write_comparison
    from ..reports.comparison_table import comparison_lines, comparison_table
    from ..reports.labels import run_names
    from .console import console

    parents = {run.parent for run in runs}
    sweeps = {one: read_sweep(one) if (one / "sweep.yaml").is_file() else {} for one in parents}
    names = run_names(runs)
    summaries = {run: _summary(run, name, sweeps[run.parent]) for run, name in zip(runs, names, strict=True)}
    # predictions of hundreds of runs take minutes to judge, and the page shows those of the best
    best = comparison(list(summaries.values())).groups[:MOST_SHOWN]
    shown = {run.name for group in best for run in group.runs}
    found = comparison([_judged(run, one) if one.name in shown else one for run, one in summaries.items()])
    console.print(comparison_table(found, console.width))
    for line in comparison_lines(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return write_comparison(found, out)


def runs_below(directories: Sequence[Path]) -> list[Path]:
    """The runs that directories are or, as a sweep, contain; TapetumError for one that is neither."""
    from ..runs.finding import nearby

    found: list[Path] = []
    for directory in directories:
        if (directory / "config.yaml").is_file():
            found.append(directory)
        elif (directory / "sweep.yaml").is_file():
            jobs = [child for child in directory.iterdir() if (child / "config.yaml").is_file()]
            if not jobs:
                raise TapetumError(f"the sweep {directory} has no jobs")
            found += sorted(jobs, key=lambda job: (len(job.name), job.name))
        elif directory.is_dir():
            raise TapetumError(
                f"{directory} is neither a run (config.yaml) nor a sweep (sweep.yaml). {nearby(directory)}"
            )
        else:
            raise TapetumError(f"no directory {directory}. {nearby(directory)}")
    return found


def _summary(path: Path, name: str, sweep: Mapping[str, Any]) -> RunSummary:
    """What a run's small files say; `_judged` adds its predictions. sweep: sweep.yaml, empty without one."""
    from ..reports.compare import Pruned, RunSummary
    from ..runs.directory import RunDirectory
    from ..runs.history import read_history

    run = RunDirectory(path)
    given_up = not run.finished and run.pruned.is_file()
    end = json.loads(run.pruned.read_text()) if given_up else None
    pruned = None
    if end is not None:
        value = math.nan if end["value"] is None else end["value"]
        pruned = Pruned(end["epoch"], end["step"], value, end["reason"])
    jobs = {str(number): overrides for number, overrides in sweep.get("jobs", {}).items()}
    return RunSummary(
        name=name,
        config=run.read_config(),
        history=read_history(run.history) if run.history.is_file() else [],
        metrics=run.read_metrics(),
        unfinished="" if run.finished or pruned else _ending(run),
        pruned=pruned,
        overrides=jobs.get(path.name, []),
        swept=sweep.get("swept", []) if path.name in jobs else [],
    )


def _ending(run: RunDirectory) -> str:
    from .finish import unfinished

    return "; ".join(unfinished(run)).removeprefix("The run ").removesuffix(".")


def _judged(path: Path, summary: RunSummary) -> RunSummary:
    """With the intervals of its figures and its test predictions."""
    from ..runs.directory import RunDirectory
    from ..tasks import task_of
    from .finish import read_parts

    task = task_of(summary.config)
    predictions = read_parts(RunDirectory(path), task)
    return replace(
        summary,
        intervals=task.intervals(predictions, summary.metrics, summary.config),
        judged=task.judged(predictions, summary.metrics),
    )


def _stamp() -> str:
    from ..runs.directory import stamp

    return stamp()
