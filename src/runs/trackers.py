"""What trackers have in common: what a run is called there, where its id is kept, what they get at its end.

A tracker is a Lightning logger that also takes a finished run and can be closed. Each is built from
`conf/logger/`, on one process only, and with nothing but the directory of its run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import yaml

from ..config.joined import each
from ..errors import ConfigError
from .directory import RunDirectory, write_json

Status = Literal["finished", "failed", "interrupted"]

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""The option of `logger` → the package that it can't do without, which is also the name of the extra."""

_LONGEST = 128  # characters of a name that W&B takes


@dataclass(frozen=True)
class Sample:
    """One image to look at: its path in the data, what is to be said of it, and uint8 [H, W, 3].

    columns: the same in parts, for trackers that have tables.
    """

    path: str
    caption: str
    image: npt.NDArray[np.uint8]
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FinishedRun:
    """What a tracker may take from a run whose files are all written.

    step: optimizer steps. metrics: as in metrics.json. logged: names that were logged while the run went on.
    best: metadata of the checkpoint that was tested, empty where nothing was trained. samples: images that
    are worth a look, samples_are: which these are.
    """

    run: RunDirectory
    step: int
    metrics: Mapping[str, float]
    logged: frozenset[str] = frozenset()
    best: Mapping[str, Any] | None = None
    samples: Sequence[Sample] = ()
    samples_are: str = "most_confidently_wrong"

    @property
    def final(self) -> dict[str, float]:
        """The figures that have no curve; a figure of the best weights behind a curve would bend its end."""
        return {name: value for name, value in self.metrics.items() if name not in self.logged}

    @property
    def pictures(self) -> dict[str, Path]:
        """The report's plots by their names."""
        return {file.stem: file for file in sorted(self.run.report.glob("*.png"))}

    @property
    def predictions(self) -> dict[str, Path]:
        """Split → its table, the one that the report shows first."""
        files = {split: self.run.predictions(split) for split in ("test", "val")}
        return {split: file for split, file in files.items() if file.is_file()}

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that was tested."""
        files = [self.run.checkpoints / f"{which}.ckpt" for which in ("best", "last")]
        return next((file for file in files if file.is_file()), None)


@runtime_checkable
class Tracker(Protocol):
    """A Lightning logger that does more than figures."""

    def log_finished(self, finished: FinishedRun) -> None:
        """Take what a finished run left."""

    def close(self, status: Status) -> None:
        """Say how the run ended, once, and wait a bounded time until everything has arrived."""


@dataclass(frozen=True)
class Labels:
    """What a run is called. group: the sweep that it is a job of. tags: task, model and data."""

    name: str
    group: str | None
    tags: dict[str, str]


def labels(directory: Path, config: Mapping[str, Any]) -> Labels:
    """Names that lead back to the directory: `<name>/<timestamp>-<hex>`; of a sweep's job what sets it apart.

    That are its own overrides, such as `optimizer.lr=0.001 seed=2`: those that the sweep varies. A job
    without any, or with more than fits into a name, is called `<sweep>/<number>`.
    """
    sweep = directory.parent
    in_sweep = (sweep / "sweep.yaml").is_file()
    net = config["model"]["net"]
    tags = {
        "task": str(config["task"]),
        "model": str(net.get("name") or str(net["_target_"]).rpartition(".")[2]),
        "data": "+".join(Path(str(one["data"]["root"])).name for one in each(config).values()),
    }
    return Labels(
        name=_job_name(directory) if in_sweep else f"{config['name']}/{directory.name}",
        group=sweep_name(sweep) if in_sweep else None,
        tags={key: value for key, value in tags.items() if value},
    )


def sweep_name(sweep: Path) -> str:
    """What the group of a sweep's jobs is called: `<name>/<timestamp>-<hex>`."""
    return f"{sweep.parent.name}/{sweep.name}"


def swept(sweep: Mapping[str, Any]) -> list[str]:
    """The keys that a sweep varies, from what sweep.yaml holds: listed there, or those its jobs differ in."""
    if "swept" in sweep:
        return [_key(str(one)) for one in sweep["swept"]]
    jobs = list(sweep["jobs"].values())
    shared = set(jobs[0]).intersection(*jobs) if jobs else set()
    return list(dict.fromkeys(_key(one) for job in jobs for one in job if one not in shared))


def _job_name(directory: Path) -> str:
    sweep = yaml.safe_load((directory.parent / "sweep.yaml").read_text())
    keys = swept(sweep)
    overrides: list[str] = next(
        (job for number, job in sweep["jobs"].items() if str(number) == directory.name), []
    )
    name = " ".join(one for one in overrides if _key(one) in keys)
    return name if 0 < len(name) <= _LONGEST else f"{directory.parent.parent.name}/{directory.name}"


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def remember(directory: Path, tracker: str, facts: Mapping[str, str]) -> None:
    """Keep what finds this run again at a tracker: `trackers.json` of the run's directory."""
    write_json(directory / "trackers.json", {**_remembered(directory), tracker: dict(facts)})


def recall(directory: Path, tracker: str) -> dict[str, str]:
    """What `remember` kept; empty for a run that the tracker has not seen."""
    found: dict[str, str] = _remembered(directory).get(tracker, {})
    return found


def require(logger: str) -> None:
    """ConfigError with the line to type where the package behind an option of `logger` is not installed."""
    if find_spec(PACKAGES[logger]) is None:
        raise ConfigError(
            f"logger={logger} needs the package {PACKAGES[logger]}, which is not installed: type "
            f"pip install 'tapetum[{logger}]'"
        )


def as_yaml(config: Mapping[str, Any]) -> str:
    """A config as people read it."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100)


def _remembered(directory: Path) -> dict[str, Any]:
    file = directory / "trackers.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found
