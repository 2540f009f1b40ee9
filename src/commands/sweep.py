"""`tapetum train -m …`: Hydra makes the jobs, `launch` runs them, the report compares them."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config.overrides import prepare
from ..errors import ConfigError
from .hydra_flags import is_multirun, split


def sweep(arguments: Sequence[str]) -> int:
    """Hand a command line to Hydra; after a sweep, print its table and the report's path. The exit code."""
    import hydra
    from omegaconf import DictConfig

    multirun = is_multirun(arguments)
    flags, words = split(arguments)
    if multirun and len(flags) > 1:
        raise ConfigError(f"-m runs a sweep and goes with no other flag: leave out {' '.join(flags[1:])}")
    overrides = prepare(words, multirun=multirun)
    if multirun and any(one.lstrip("+").startswith("resume=") for one in overrides):
        raise ConfigError(
            "resume= goes on with one run; a sweep's job is resumed by itself: resume=SWEEP/NUMBER"
        )
    directory = _directory(overrides)
    if multirun:
        overrides.append(f"hydra.sweep.dir='{directory}'")

    @hydra.main(version_base="1.3", config_path="pkg://tapetum.conf", config_name="train")
    def task(config: DictConfig) -> None:
        """Never called: the launcher runs jobs in processes of their own."""

    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [before[0], *flags, *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come out as they are, instead of as text and exit(1)
    try:
        task()
    finally:
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        (directory / "multirun.yaml").unlink(missing_ok=True)  # Hydra's own; sweep.yaml says the same
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
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
    from ..runs.directory import stamp

    given = dict(one.lstrip("+").split("=", 1) for one in overrides if "=" in one)
    outputs = given.get("paths.outputs", os.environ.get("TAPETUM_OUTPUTS", "outputs"))
    name = given.get("name", "sweep")
    return Path(outputs.strip("'\"")) / "sweeps" / ("sweep" if "," in name else name.strip("'\"")) / stamp()
