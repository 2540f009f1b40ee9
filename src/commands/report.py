"""`tapetum report DIR…`: one run's report again, or several runs and sweeps side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TapetumError

if TYPE_CHECKING:
    from ..reports.compare import RunSummary


def main(arguments: Sequence[str]) -> int:
    """Write the report and print its path; the exit code."""
    from .console import console

    if not arguments:
        raise TapetumError("tapetum report DIR…: name a run's directory, several, or a sweep's")
    directories = [Path(argument) for argument in arguments]
    for directory in directories:
        if not directory.is_dir():
            raise TapetumError(
                f"no directory {directory}: tapetum report takes runs (outputs/detection/…) or sweeps"
            )
    runs = runs_below(directories)
    sweep = len(directories) == 1 and (directories[0] / "sweep.yaml").is_file()
    if len(runs) == 1 and not sweep:
        from ..runs.directory import open_run
        from .finish import report_run

        page = report_run(open_run(runs[0]))
    else:
        outputs = Path(os.environ.get("TAPETUM_OUTPUTS", "outputs"))
        page = report_directories(
            runs, directories[0] / "report" if sweep else outputs / "reports" / _stamp()
        )
    console.print(f"report  {page}", highlight=False, soft_wrap=True)
    return 0


def report_directories(runs: Sequence[Path], out: Path) -> Path:
    """Compare runs: prints the table, writes `out/index.html`, returns its path."""
    from ..reports.compare import compare, comparison_table
    from .console import console

    summaries = [_summary(run, runs) for run in runs]
    console.print(comparison_table(summaries))
    return compare(summaries, out)


def runs_below(directories: Sequence[Path]) -> list[Path]:
    """The runs that directories are or, as a sweep, contain; TapetumError for one that is neither."""
    found: list[Path] = []
    for directory in directories:
        if (directory / "config.yaml").is_file():
            found.append(directory)
        elif (directory / "sweep.yaml").is_file():
            jobs = [child for child in directory.iterdir() if (child / "config.yaml").is_file()]
            if not jobs:
                raise TapetumError(f"the sweep {directory} has no jobs")
            found += sorted(jobs, key=lambda job: (len(job.name), job.name))
        else:
            raise TapetumError(f"{directory} is neither a run (config.yaml) nor a sweep (sweep.yaml)")
    return found


def _summary(path: Path, among: Sequence[Path]) -> RunSummary:
    from ..evaluation.detection import Interval, intervals
    from ..evaluation.predictions import read_predictions
    from ..reports.compare import RunSummary
    from ..runs.directory import RunDirectory
    from ..runs.history import read_history

    run = RunDirectory(path)
    config = run.read_config()
    metrics = run.read_metrics()
    bounds: dict[str, Interval] = {}
    for split in ("val", "test"):
        if run.predictions(split).is_file():
            table = read_predictions(run.predictions(split))
            found = intervals(table, threshold=metrics.get("val/threshold") if split == "test" else None)
            bounds |= {f"{split}/{name}": value for name, value in found.items()}
    names = [other.name for other in among]
    return RunSummary(
        name=path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}",
        config=config,
        history=read_history(run.history) if run.history.is_file() else [],
        metrics=metrics,
        intervals=bounds,
    )


def _stamp() -> str:
    from ..runs.directory import stamp

    return stamp()
