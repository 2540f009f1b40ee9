"""`tapetum report DIR…`: one run's report again, or several runs and sweeps side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.overrides import is_a_file
from ..errors import TapetumError

if TYPE_CHECKING:
    from ..reports.compare import RunSummary


def main(arguments: Sequence[str]) -> int:
    """Write the report and print its path; the exit code."""
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
    """Compare runs: prints the table, writes `out/index.html`, returns its path."""
    from ..reports.compare import compare, comparison
    from ..reports.comparison_table import comparison_lines, comparison_table
    from .console import console

    found = comparison([_summary(run, runs) for run in runs])
    console.print(comparison_table(found, console.width))
    for line in comparison_lines(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return compare(found, out)


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


def _summary(path: Path, among: Sequence[Path]) -> RunSummary:
    from ..reports.compare import RunSummary
    from ..reports.labels import run_name
    from ..runs.directory import RunDirectory
    from ..runs.history import read_history
    from ..tasks import task_of
    from .finish import read_parts, unfinished

    run = RunDirectory(path)
    config = run.read_config()
    metrics = run.read_metrics()
    task = task_of(config)
    predictions = read_parts(run, task)
    history = read_history(run.history) if run.history.is_file() else []
    return RunSummary(
        name=run_name(path, among),
        config=config,
        history=history,
        metrics=metrics,
        intervals=task.intervals(predictions, metrics, config),
        judged=task.judged(predictions, metrics),
        unfinished="; ".join(unfinished(run)).removeprefix("The run ").removesuffix("."),
    )


def _stamp() -> str:
    from ..runs.directory import stamp

    return stamp()
