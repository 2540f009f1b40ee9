"""`tapetum train -m …`: Hydra makes the jobs, `launch` runs them, the report compares them."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config.compose import compose_raw
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
    directory = _directory(overrides) if multirun else None
    if directory is not None:
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
        if directory is not None:
            (directory / "multirun.yaml").unlink(missing_ok=True)  # Hydra's own; sweep.yaml says the same
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()
    return 0 if directory is None else summarise(directory)


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
    """`<outputs>/sweeps/<name or 'sweep'>/<timestamp>-<6 hex>`, as conf/train.yaml has it.

    The name is that of the command line or the experiment; what the jobs differ in does not name a sweep.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    common = [one for one, read in zip(overrides, parsed, strict=True) if not read.is_sweep_override()]
    return Path(str(compose_raw(common).hydra.sweep.dir))
