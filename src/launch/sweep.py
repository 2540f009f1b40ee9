"""A sweep from what Hydra composed: its directory, its place, its jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from ..errors import ConfigError
from .cluster import Cluster
from .jobs import Job, Outcome, Place, Source, run_jobs
from .local_pool import LocalPool
from .sweep_directory import SweepDirectory

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run_sweep(config: DictConfig, source: Source, *, known: Sequence[Job] = ()) -> list[Outcome]:
    """Run a source's jobs in the directory `hydra.sweep.dir`, at the place that `launcher` names.

    config: composed by Hydra, with its own node. known: the jobs that can be written down from the start.
    Raises TapetumError where another process runs the same sweep.
    """
    directory = SweepDirectory(Path(str(config.hydra.sweep.dir)), list(config.hydra.overrides.task))
    launcher: dict[str, Any] = dict(OmegaConf.to_container(config.launcher, resolve=True))  # type: ignore[arg-type]
    stop_on_failure = bool(launcher.pop("stop_on_failure"))
    place = place_of(launcher, directory.path)

    def say(line: str) -> None:
        print(line, flush=True)
        with (directory.path / "sweep.log").open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")

    with directory.held():
        for job in known:
            directory.compare(job.number, job.config)
        directory.begin(source.swept, {job.number: job.overrides for job in known})
        return run_jobs(source, directory, place, stop_on_failure=stop_on_failure, say=say)


def place_of(launcher: Mapping[str, Any], sweep: Path) -> Place:
    """Where jobs run, from the keys of `launcher`; a cluster keeps its files in the sweep's directory."""
    settings = {key: value for key, value in launcher.items() if key != "place"}
    if settings["jobs"] < 1:
        raise ConfigError(f"launcher.jobs={settings['jobs']} must be at least 1: type launcher.jobs=2")
    if launcher["place"] == "cluster":
        if "preload" in settings:
            raise ConfigError(
                "launcher.preload is for jobs on this machine, and a cluster starts each afresh: leave it out"
            )
        return Cluster(sweep / "cluster", **settings)
    if foreign := sorted(settings.keys() - {"jobs", "preload"}):
        raise ConfigError(
            f"launcher.{foreign[0]} is for clusters, and these jobs run on this machine: leave out "
            f"{', '.join(f'launcher.{key}' for key in foreign)}, or type launcher=slurm"
        )
    return LocalPool(**settings)
