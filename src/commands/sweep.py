"""`tapetum train -m …`: Hydra makes the jobs, `launch` runs them, the report compares them."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config.overrides import prepare
from .hydra_flags import is_multirun


def sweep(arguments: Sequence[str]) -> int:
    """Hand a command line to Hydra; after a sweep, print its table and the report's path. The exit code."""
    import hydra
    from omegaconf import DictConfig

    multirun = is_multirun(arguments)
    flags = [argument for argument in arguments if argument.startswith("-")]
    overrides = prepare([one for one in arguments if not one.startswith("-")], multirun=multirun)
    directory = _directory(overrides)
    if multirun:
        overrides.append(f"hydra.sweep.dir='{directory}'")

    @hydra.main(version_base="1.3", config_path="pkg://tapetum.conf", config_name="train")
    def task(config: DictConfig) -> None:
        """Never called: the launcher runs jobs in processes of their own."""

    before = sys.argv
    sys.argv = [before[0], *flags, *overrides]
    try:
        task()
    finally:
        sys.argv = before
    return summarise(directory) if multirun else 0


def summarise(directory: Path) -> int:
    """Compare a sweep's finished jobs; 1 where one failed."""
    from .console import console
    from .report import report_directories

    with (directory / "jobs.csv").open(newline="") as file:
        jobs = list(csv.DictReader(file))
    failed = [job for job in jobs if job["status"] != "finished"]
    finished = [directory / job["number"] for job in jobs if job["status"] == "finished"]
    if finished:
        page = report_directories(finished, directory / "report")
        console.print(f"sweep   {directory}\nreport  {page}", highlight=False, soft_wrap=True)
    for job in failed:
        console.print(
            f"job {job['number']} {job['status']}: {job['overrides']}", style="red", highlight=False
        )
    return 1 if failed else 0


def _directory(overrides: Sequence[str]) -> Path:
    """`<outputs>/sweeps/<name or 'sweep'>/<timestamp>-<6 hex>`."""
    import os

    from ..runs.directory import stamp

    given = dict(one.lstrip("+").split("=", 1) for one in overrides if "=" in one)
    outputs = given.get("paths.outputs", os.environ.get("TAPETUM_OUTPUTS", "outputs"))
    name = given.get("name", "sweep")
    return Path(outputs.strip("'\"")) / "sweeps" / ("sweep" if "," in name else name.strip("'\"")) / stamp()
