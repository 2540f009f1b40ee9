"""A run on the disk: one directory, made once, with everything that the run was and became."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from ..errors import CheckpointError, TapetumError


@dataclass(frozen=True)
class RunDirectory:
    """The names of the files of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def command(self) -> Path:
        """The command line that made the run, one line a start."""
        return self.path / "command.txt"

    @property
    def environment(self) -> Path:
        """Versions, hardware, git."""
        return self.path / "environment.json"

    @property
    def log(self) -> Path:
        """What was said, with times."""
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        """best.ckpt, last.ckpt and a JSON beside each."""
        return self.path / "checkpoints"

    @property
    def history(self) -> Path:
        """Every logged value, a row each time something was logged."""
        return self.path / "metrics.csv"

    @property
    def metrics(self) -> Path:
        """The final figures; it exists once the run has finished."""
        return self.path / "metrics.json"

    @property
    def pruned(self) -> Path:
        """Why a search gave the run up; it exists where one did."""
        return self.path / "pruned.json"

    @property
    def report(self) -> Path:
        """The directory of index.html."""
        return self.path / "report"

    def predictions(self, split: str) -> Path:
        """The Predictions table of a split."""
        return self.path / "predictions" / f"{split}.parquet"

    def checkpoint(self, which: str) -> Path:
        """`best` or `last`; CheckpointError, saying what there is, where it was never written."""
        file = self.checkpoints / f"{which}.ckpt"
        if not file.is_file():
            there = sorted(found.stem for found in self.checkpoints.glob("*.ckpt"))
            raise CheckpointError(
                f"{self.path} has no checkpoint {which!r}: it has "
                f"{', '.join(there) if there else 'none at all'}"
            )
        return file

    def best_or_last(self) -> Path:
        """`best` where something was monitored, else `last`."""
        return self.checkpoint("best" if (self.checkpoints / "best.ckpt").is_file() else "last")

    def read_config(self) -> dict[str, Any]:
        """The resolved config as plain data."""
        try:
            config = yaml.safe_load(self.config.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise TapetumError(f"{self.config} is damaged and can't be read: {error}") from error
        if not isinstance(config, dict) or "task" not in config:
            raise TapetumError(f"{self.config} is damaged: it holds no config of a run")
        return config

    def read_metrics(self) -> dict[str, float]:
        """The final figures, NaN where undefined, empty before there are any; TapetumError if damaged."""
        if not self.metrics.is_file():
            return {}
        try:
            figures: dict[str, float | None] = json.loads(self.metrics.read_text())
        except ValueError as error:
            raise TapetumError(
                f"{self.metrics} is damaged and can't be read: {error}. Remove it and write it anew with "
                f"tapetum evaluate {self.path}"
            ) from error
        return {name: math.nan if value is None else value for name, value in figures.items()}

    @property
    def finished(self) -> bool:
        """Whether the run came to its final figures."""
        return self.metrics.is_file()


def create_run(config: Mapping[str, Any], directory: Path | None = None) -> RunDirectory:
    """Make `outputs/<task>/<name>/<timestamp>-<6 hex>/`, or the directory that a sweep gives its job.

    Writes config.yaml; raises TapetumError where the given directory already holds a run.
    """
    if directory is None:
        directory = Path(config["paths"]["outputs"]) / config["task"] / config["name"] / stamp()
    run = RunDirectory(directory)
    if run.config.exists():
        raise TapetumError(f"{directory} already holds a run: continue it with resume={directory}")
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    write_config(run, config)
    return run


def write_config(run: RunDirectory, config: Mapping[str, Any]) -> None:
    """config.yaml, written whole or not at all."""
    unfinished = run.config.with_name(run.config.name + ".tmp")
    unfinished.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=110))
    unfinished.replace(run.config)


def open_run(path: str | Path) -> RunDirectory:
    """The run at a directory, or the one that a checkpoint file belongs to."""
    path = Path(path)
    directory = path.parent.parent if path.suffix == ".ckpt" and path.parent.name == "checkpoints" else path
    run = RunDirectory(directory)
    if not run.config.is_file():
        raise TapetumError(
            f"{path} is not a run: a run's directory holds a config.yaml, such as outputs/detection/…"
        )
    return run


def unfinished_runs(outputs: Path, task: str, name: str) -> list[RunDirectory]:
    """Runs of this task and name that have a checkpoint and no final figures, the latest first."""
    found = [RunDirectory(config.parent) for config in (outputs / task / name).glob("*/config.yaml")]
    left = [run for run in found if not run.finished and (run.checkpoints / "last.ckpt").is_file()]
    return sorted(left, key=lambda run: run.path.name, reverse=True)


def to_resume(path: Path) -> Path:
    """What `resume=` names to go on with a run: the run, or the sweep that it is a job of."""
    return path.parent if (path.parent / "sweep.yaml").is_file() else path


def stamp() -> str:
    """`2026-11-21_14-03-59-a1b2c3`: sorts by time and never collides."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{secrets.token_hex(3)}"


def write_json(path: Path, value: Any) -> None:
    """Human-readable JSON, written whole or not at all; a number that is not finite becomes null."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8, written whole or not at all, by several processes at a time if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """The same value without NaN and infinity, which JSON has no words for."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
