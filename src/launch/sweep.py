"""A sweep's jobs, each in a fresh process that reads the config of its own run directory."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig

from ..config.check import check_config
from ..config.compose import Composed, compose, finish
from ..config.joined import chosen
from ..errors import ConfigError
from ..runs.directory import RunDirectory, create_run

INTERRUPTED = 130
"""Exit code of a job that was stopped by Ctrl-C after writing its checkpoint."""


@dataclass(frozen=True)
class Job:
    """One point of a sweep: its number, the overrides that make it, and what Hydra composed from them."""

    number: int
    overrides: tuple[str, ...]
    composed: DictConfig


def run_jobs(jobs: Sequence[Job], directory: Path, stop_on_failure: bool) -> list[float]:
    """Check all jobs, then run them one after the other; the monitored value of each, NaN where it failed.

    Writes sweep.yaml, jobs.csv (number, status, seconds, value, overrides) and one run directory a job.
    Raises one ConfigError with the problems of every job before any of them starts.
    """
    composed: list[Composed] = []
    problems = []
    shared = set(jobs[0].overrides).intersection(*(job.overrides for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        try:
            # Of several data sets Hydra has merged the keys, so such a job is composed anew.
            composed.append(compose(job.overrides) if chosen(job.overrides) else finish(job.composed))
            check_config(composed[-1])
        except ConfigError as error:
            where = f"job {job.number} ({' '.join(one for one in job.overrides if one not in shared)})"
            problems += [f"{where}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    runs = [
        create_run(one.config, directory / str(job.number)) for job, one in zip(jobs, composed, strict=True)
    ]
    described = {"command": sys.argv, "jobs": {job.number: list(job.overrides) for job in jobs}}
    (directory / "sweep.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    values = []
    with (directory / "jobs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["number", "status", "seconds", "value", "overrides"])
        for job, run in zip(jobs, runs, strict=True):
            print(f"job {job.number + 1} of {len(jobs)}: {' '.join(job.overrides)}", flush=True)
            began = time.perf_counter()
            code = run_in_process(run)
            status = {0: "finished", INTERRUPTED: "interrupted"}.get(code, "failed")
            value = _value(run) if code == 0 else float("nan")
            values.append(value)
            table.writerow(
                [job.number, status, f"{time.perf_counter() - began:.1f}", value, " ".join(job.overrides)]
            )
            file.flush()
            if code == INTERRUPTED or (code and stop_on_failure):
                break
    return values + [float("nan")] * (len(jobs) - len(values))


def run_in_process(run: RunDirectory) -> int:
    """Run a prepared run directory in a process of its own; its exit code.

    Ctrl-C reaches the child, which writes its checkpoint; the parent only waits.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.call(
            [sys.executable, "-m", "tapetum", "job", str(run.path)],
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    finally:
        signal.signal(signal.SIGINT, before)


def _value(run: RunDirectory) -> float:
    figures = run.read_metrics()
    monitor = run.read_config()["train"]["monitor"]
    return float(figures.get(f"best/{monitor}", float("nan")))
