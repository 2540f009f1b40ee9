"""The jobs of a sweep: started where there is room, told of as they end.

Where jobs come from is a `Source` (a list, or a search that learns from what ended), where they run is a
`Place` (this machine's devices, a cluster). Each is a run directory and a process of its own.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

from ..errors import TapetumError
from ..runs.directory import RunDirectory
from ..runs.early_end import killed_by
from ..runs.ending import ending
from ..runs.lock import in_use
from .sweep_directory import SweepDirectory

Status = Literal["finished", "failed", "interrupted", "pruned"]

_WAIT_S = 0.5  # between two looks for room, each of which reads the job's files
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_INTERRUPTED = (130, *(-number for number in _SIGNALS))
"""Exit codes of a job that was asked to stop: behind its checkpoint, or before it had begun to train."""


@dataclass(frozen=True)
class Job:
    """One point of a sweep: its number, the overrides that make it, and its checked config."""

    number: int
    overrides: tuple[str, ...]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a job ended. value: the monitored one, NaN where it did not finish. seconds: of this start.

    reason: why it failed, in a line.
    """

    job: Job
    run: RunDirectory
    status: Status
    seconds: float
    value: float
    reason: str = ""


class Source(Protocol):
    """Where jobs come from. swept: the keys in which they differ. total: how many there will be."""

    swept: list[str]
    total: int

    def next(self) -> Job | None:
        """The next job to start, None when there is none left."""

    def ended(self, outcome: Outcome) -> None:
        """Take note of a job's end."""


class Running(Protocol):
    """A job on its way."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""

    def send(self, number: int) -> None:
        """Ask it to stop with a signal."""


class Place(Protocol):
    """Where jobs run, at most `jobs` at once. look_s: how often it is worth asking how they are."""

    look_s: float
    jobs: int

    def start(self, run: RunDirectory, checkpoint: Path | None, config: Mapping[str, Any]) -> Running | None:
        """Start a job from a checkpoint or from nothing, None where there is no room just now.

        Nor is there where another process still works on it, as one does whose sweep was killed. Raises
        TapetumError for a job that can't run at such a place.
        """


@dataclass
class _Started:
    job: Job
    run: RunDirectory
    process: Running
    began: float


def run_jobs(
    source: Source,
    directory: SweepDirectory,
    place: Place,
    *,
    stop_on_failure: bool,
    say: Callable[[str], None],
) -> list[Outcome]:
    """Run every job that a source has; those that a sweep has finished before count and are not run again.

    A signal goes on to every running job, which writes its checkpoint, and nothing new is started. With
    stop_on_failure nothing new is started behind a job that failed.
    """
    running: list[_Started] = []
    outcomes: list[Outcome] = []
    waiting: Job | None = None
    held: Job | None = None
    more = True

    def ends(outcome: Outcome) -> None:
        nonlocal more
        outcomes.append(outcome)
        directory.note(outcome.job.number, outcome.status, outcome.seconds, outcome.value)
        source.ended(outcome)
        more = more and not (outcome.status == "failed" and stop_on_failure)

    with _heard() as asked:
        while more or running:
            while asked.new:
                number, more, waiting = asked.new.pop(), False, None
                for one in running:
                    one.process.send(number)
            # a search is not asked before there is room: it would know less of how the others ended
            while more and (waiting is not None or len(running) < place.jobs):
                waiting = waiting or source.next()
                if waiting is None:
                    more = False
                    break
                run, before = directory.run(waiting.number, waiting.overrides, waiting.config)
                if before is not None:
                    ends(Outcome(waiting, run, before, 0.0, monitored(run)))
                    waiting = None
                    continue
                last = run.checkpoints / "last.ckpt"
                try:
                    process = place.start(run, last if last.exists() else None, waiting.config)
                except TapetumError as error:  # this job's, and the others go on
                    ends(Outcome(waiting, run, "failed", 0.0, math.nan, " ".join(str(error).split())))
                    say(_ended_line(outcomes[-1]))
                    waiting = None
                    continue
                if process is None:
                    if waiting is not held and in_use(run):
                        held = waiting
                        say(f"job {waiting.number} waits: another process is at work in {run.path}")
                    break
                say(_started_line(waiting, source, going_on=last.exists()))
                directory.note(waiting.number, "running", 0.0, math.nan)
                running.append(_Started(waiting, run, process, time.perf_counter()))
                waiting = None
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                outcome = _outcome(one, one.process.poll() or 0)
                ends(outcome)
                say(_ended_line(outcome))
            if running or waiting is not None:
                time.sleep(place.look_s if waiting is None else max(place.look_s, _WAIT_S))
    directory.end(outcomes, interrupted=bool(asked.any))
    return outcomes


def monitored(run: RunDirectory) -> float:
    """The best monitored value of a run that has finished, else NaN."""
    monitor = run.read_config()["train"]["monitor"]
    return float(run.read_metrics().get(f"best/{monitor}", math.nan))


def _outcome(one: _Started, code: int) -> Outcome:
    seconds = time.perf_counter() - one.began
    if code == 0 and one.run.pruned.is_file():
        return Outcome(one.job, one.run, "pruned", seconds, math.nan)
    if code == 0:
        return Outcome(one.job, one.run, "finished", seconds, monitored(one.run))
    died = f"ended with exit code {code}" if code >= 0 else killed_by(-code)
    reason = ending(one.run).reason or f"it {died}"
    status: Status = "interrupted" if code in _INTERRUPTED else "failed"
    return Outcome(one.job, one.run, status, seconds, math.nan, reason)


def _started_line(job: Job, source: Source, *, going_on: bool) -> str:
    own = [one for one in job.overrides if one.lstrip("+").split("=", 1)[0] in source.swept]
    which = f"job {job.number} ({job.number + 1} of {source.total})"
    return f"{which}{', from its checkpoint' if going_on else ''}: {' '.join(own or job.overrides)}"


def _ended_line(outcome: Outcome) -> str:
    said = f"job {outcome.job.number} {outcome.status} after {outcome.seconds:.1f} s"
    if outcome.status == "finished" and not math.isnan(outcome.value):
        return f"{said}: {outcome.job.config['train']['monitor']} {outcome.value:.4g}"
    return f"{said}: {outcome.reason}" if outcome.reason else said


@dataclass
class _Asked:
    """Signals received: those not yet passed on, and whether there was any."""

    new: list[int]
    any: bool = False


@contextmanager
def _heard() -> Iterator[_Asked]:
    """While open, signals are noted instead of ending this process."""
    asked = _Asked([])

    def note(number: int, frame: FrameType | None) -> None:
        asked.new.append(number)
        asked.any = True

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
