"""`tapetum train -m …`: Hydra makes the jobs, `launch` runs them, the report compares them."""

from __future__ import annotations

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
    from hydra.errors import HydraException
    from omegaconf import DictConfig

    from ..launch.libraries import load_libraries

    multirun = is_multirun(arguments)
    flags, words = split(arguments)
    if multirun and len(flags) > 1:
        raise ConfigError(f"-m runs a sweep and goes with no other flag: leave out {' '.join(flags[1:])}")
    overrides = prepare(words, multirun=multirun)
    directory = None
    if multirun:
        load_libraries()
        overrides, directory = _directory(overrides)
        escaped = str(directory).replace("'", "\\'")
        overrides.append(f"hydra.sweep.dir='{escaped}'")

    @hydra.main(version_base="1.3", config_path="pkg://tapetum.conf", config_name="train")
    def task(config: DictConfig) -> None:
        """Never called: the launcher runs jobs in processes of their own."""

    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [before[0], *flags, *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come out as they are, instead of as text and exit(1)
    try:
        task()
    except HydraException as error:
        raise ConfigError(_problem(error)) from error
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
    """Compare a sweep's finished jobs; 1 where one failed, 130 where it was interrupted."""
    from ..launch.sweep_directory import read_jobs, read_sweep
    from .console import console
    from .report import report_directories

    jobs = read_jobs(directory)
    if any(job["status"] == "finished" for job in jobs):
        begun = [
            directory / job["number"] for job in jobs if (directory / job["number"] / "config.yaml").is_file()
        ]
        page = report_directories(begun, directory / "report")
        console.print(f"sweep   {directory}\nreport  {page}", highlight=False, soft_wrap=True)
    left = [job for job in jobs if job["status"] not in ("finished", "pruned")]
    for job in left:
        line = f"job {job['number']} {job['status']}: {job['overrides']}"
        console.print(line, style="red", highlight=False, markup=False)
    ended = read_sweep(directory).get("ended", True)
    failed = [job for job in left if job["status"] == "failed"]
    if len(left) > len(failed) or not (ended or failed) or (failed and not _searched(directory)):
        again = f"to go on, repeat the command with resume={directory}; what has finished is not run again"
        console.print(again, highlight=False, soft_wrap=True)
    if failed:
        return 1
    return 0 if ended else 130


def _searched(directory: Path) -> bool:
    """Whether a sweep was a search, which does not repeat a trial that failed."""
    return any(directory.glob("*/trial.json"))


def _problem(error: Exception) -> str:
    """What Hydra can't sweep over, in words that help."""
    said = str(error).splitlines()[0]
    if "does not support sweep type" in said:
        return (
            "an interval has no end of values, so it takes a search: type -m sweep=optuna beside it, or give "
            "the values, as in optimizer.lr=0.001,0.0003"
        )
    return said


def _directory(overrides: Sequence[str]) -> tuple[list[str], Path]:
    """The overrides without `resume=`, and the directory of the sweep: a new one, or the one to go on with.

    A new one is `<outputs>/sweeps/<name or 'sweep'>/<timestamp>-<6 hex>`, as conf/train.yaml has it. The
    name is that of the command line or the experiment; what the jobs differ in does not name a sweep.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from ..launch.sweep_directory import unfinished_sweep

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for one in parsed:
        if one.is_sweep_override() and one.key_or_group.split(".")[0] in ("launcher", "sweep"):
            raise ConfigError(
                f"{one.input_line} can't be swept: a sweep has one value of {one.key_or_group} for all of "
                f"its jobs, so give one"
            )
    resume = [one.value() for one in parsed if one.key_or_group == "resume"]
    kept = [word for word, one in zip(overrides, parsed, strict=True) if one.key_or_group != "resume"]
    common = [
        word
        for word, one in zip(overrides, parsed, strict=True)
        if not one.is_sweep_override() and one.key_or_group != "resume"
    ]
    new = Path(str(compose_raw(common).hydra.sweep.dir))
    if not resume or resume[-1] is None:
        return kept, new
    if resume[-1] == "auto":
        found = unfinished_sweep(new.parent, kept)
        if found is None:
            print(
                "resume=auto: no unfinished sweep was made by this command, so a new one starts", flush=True
            )
        return kept, found or new
    directory = Path(str(resume[-1]))
    if not directory.is_dir():
        raise ConfigError(
            f"resume={directory} does not exist: type -m resume=SWEEP with a folder below "
            f"{new.parent.parent}, or resume=auto"
        )
    if not (directory / "sweep.yaml").is_file():
        raise ConfigError(
            f"resume={directory} is not a sweep, and -m goes on with sweeps only: type -m resume=SWEEP, or "
            f"resume={directory} without -m for a run"
        )
    return kept, directory
