"""A sweep on the disk: sweep.yaml, what was asked for; jobs.csv, how each job is; a run directory a job."""

from __future__ import annotations

import csv
import io
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from ..errors import ConfigError, TapetumError
from ..runs.directory import RunDirectory, create_run, write_config, write_text
from ..runs.lock import locked
from ..runs.resume import MAY_CHANGE, differences

if TYPE_CHECKING:
    from .jobs import Outcome

COLUMNS = ("number", "status", "seconds", "value", "overrides")


class SweepDirectory:
    """One sweep's directory, new or gone on with.

    words: the overrides of the command line as Hydra got them, those that are swept included.
    """

    def __init__(self, path: Path, words: Sequence[str]) -> None:
        self.path = path
        self.words = list(words)
        self._jobs: dict[int, list[str]] = {}
        self._rows: dict[int, tuple[str, float, float]] = {}
        self._swept: list[str] = []
        if self._described.is_file():
            before = read_sweep(path)
            self._jobs = {int(number): list(overrides) for number, overrides in before["jobs"].items()}
            self.words = before.get("words", self.words)
            for row in read_jobs(path):
                self._rows[int(row["number"])] = (row["status"], float(row["seconds"]), float(row["value"]))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the sweep to this process; TapetumError where another one runs it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(
            self.path / "sweep.log",
            f"{self.path} is in use: another process runs this sweep. Wait until it has ended and repeat the "
            f"command, or leave resume= out for a sweep of its own",
        ):
            yield

    def begin(self, swept: Sequence[str], jobs: Mapping[int, Sequence[str]]) -> None:
        """Write down what is swept and the jobs that are known so far."""
        self._swept = list(swept)
        self._jobs |= {number: list(overrides) for number, overrides in jobs.items()}
        self._write(ended=False)

    def run(
        self, number: int, overrides: Sequence[str], config: Mapping[str, Any]
    ) -> tuple[RunDirectory, Literal["finished", "pruned"] | None]:
        """The run directory of a job, and how it ended if that is behind it.

        Raises ConfigError where the directory holds another job than this one.
        """
        if number not in self._jobs:
            self._jobs[number] = list(overrides)
            self._write(ended=False)
        run = RunDirectory(self.path / str(number))
        if not run.config.is_file():
            return create_run(config, run.path), None
        self.compare(number, config)
        if run.finished:
            return run, "finished"
        if run.pruned.is_file():
            return run, "pruned"
        write_config(run, config)  # what may change between two starts
        return run, None

    def compare(self, number: int, config: Mapping[str, Any]) -> None:
        """ConfigError where a job is there and was another one."""
        run = RunDirectory(self.path / str(number))
        if not run.config.is_file():
            return
        if changed := differences(_without_sweep(run.read_config()), _without_sweep(config)):
            shown = ", ".join(f"{key} {old!r} then, {new!r} now" for key, (old, new) in changed.items())
            raise ConfigError(
                f"job {number} of {self.path} was another one ({shown}): go on with the command that made "
                f"the sweep, {self.command}, or leave resume= out for a new one"
            )

    def note(self, number: int, status: str, seconds: float, value: float) -> None:
        """Write a job's state into jobs.csv; the seconds of several starts add up."""
        before = self._rows.get(number, ("", 0.0, math.nan))[1]
        self._rows[number] = (status, before + seconds, value)
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(COLUMNS)
        for one, (state, time, reached) in sorted(self._rows.items()):
            table.writerow([one, state, f"{time:.1f}", reached, shlex.join(self._jobs.get(one, ()))])
        write_text(self.path / "jobs.csv", text.getvalue())

    def end(self, outcomes: Sequence[Outcome], *, interrupted: bool) -> None:
        """Write down whether there is anything left to go on with."""
        whole = all(one.status in ("finished", "pruned") for one in outcomes)
        self._write(ended=whole and not interrupted)

    @property
    def command(self) -> str:
        """The command line that made the sweep."""
        return str(read_sweep(self.path)["command"])

    @property
    def _described(self) -> Path:
        return self.path / "sweep.yaml"

    def _write(self, *, ended: bool) -> None:
        program = "python train.py" if Path(sys.argv[0]).name == "train.py" else "tapetum train"
        command = f"{program} -m {shlex.join(self.words)}"
        if self._described.is_file():
            command = self.command
        described = {
            "command": command,
            "words": self.words,
            "swept": self._swept,
            "ended": ended,
            "jobs": self._jobs,
        }
        write_text(self._described, yaml.safe_dump(described, sort_keys=False, allow_unicode=True))


def read_sweep(path: Path) -> dict[str, Any]:
    """`sweep.yaml` as plain data; TapetumError where it is damaged."""
    try:
        described = yaml.safe_load((path / "sweep.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TapetumError(f"{path / 'sweep.yaml'} is damaged and can't be read: {error}") from error
    parts: dict[str, Any] = described if isinstance(described, dict) else {}
    if not isinstance(parts.get("jobs"), dict) or not all(
        isinstance(parts.get(key, []), list) for key in ("words", "swept")
    ):
        raise TapetumError(f"{path / 'sweep.yaml'} is damaged: it describes no sweep")
    return parts


def read_jobs(path: Path) -> list[dict[str, str]]:
    """The rows of `jobs.csv`; empty before a job was started."""
    file = path / "jobs.csv"
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    if any(set(row) != set(COLUMNS) or None in row.values() for row in rows):
        raise TapetumError(
            f"{file} is damaged: its columns are {', '.join(COLUMNS)}. Remove it, and repeat the "
            f"sweep's command with resume={path}"
        )
    return rows


def unfinished_sweep(parent: Path, words: Sequence[str]) -> Path | None:
    """The latest sweep below a folder that was made by the same words and has not come to its end."""
    for described in sorted(parent.glob("*/sweep.yaml"), reverse=True):
        before = read_sweep(described.parent)
        if not before.get("ended", True) and _what_counts(before.get("words", [])) == _what_counts(words):
            return described.parent
    return None


def _what_counts(words: Sequence[str]) -> list[str]:
    """Overrides without those that may differ between two starts."""
    free = (*MAY_CHANGE, "sweep", "hydra")
    keys = {word: word.lstrip("+~").split("=", 1)[0] for word in words}
    return sorted(
        word
        for word, key in keys.items()
        if not any(key == one or key.startswith((f"{one}.", f"{one}@")) for one in free) or key == "sweep"
    )


def _without_sweep(config: Mapping[str, Any]) -> dict[str, Any]:
    """How a search goes about it is no part of a job."""
    return {key: value for key, value in config.items() if key != "sweep"}
