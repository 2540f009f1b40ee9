"""A job of several processes: torchrun's engine starts them, and each reads the run's directory.

Lightning would start them by repeating the command line, which under a Hydra sweep silently trains every
rank with other hyper-parameters; here the ranks compose nothing. On several machines the first one makes the
run, in a folder that all of them see, and the others join it: `tapetum join RUN`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TapetumError, TrainingError
from ..runs.directory import RunDirectory, to_resume
from ..runs.early_end import (
    EarlyEnd,
    forget_early_end,
    heard_early_end,
    killed_by,
    lost_another,
    waited_in_vain,
)
from ..runs.interrupt import InterruptedRunError
from .meeting import Meeting
from .watch import PARENT
from .world import cores

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
_SAVE_S = 120  # after a signal, for the processes to write their checkpoint


def run_processes(run: RunDirectory, trainer: Mapping[str, Any], checkpoint: Path | None) -> None:
    """Run a prepared run directory on several processes, here or as the first of several machines.

    Raises TrainingError with the error of the process that failed first, InterruptedRunError where they were
    asked to stop, and ConfigError where the machines can't meet.
    """
    meeting = Meeting.of(trainer, run, checkpoint)
    forget_early_end(run)
    if meeting.machines > 1:
        meeting.announce(run)
    try:
        take_part(run, meeting)
    finally:
        meeting.end(run)
        if meeting.machines == 1:  # else the others may still have to read it
            forget_early_end(run)


def take_part(run: RunDirectory, meeting: Meeting) -> None:
    """Start this machine's processes of a run and wait for them; raises as `run_processes` does."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    words = [
        "-m",
        "tapetum",
        "job",
        str(run.path),
        *([str(meeting.checkpoint)] if meeting.checkpoint else ()),
    ]
    with tempfile.TemporaryDirectory() as logs, _elastic(meeting):
        config = LaunchConfig(
            min_nodes=meeting.machines,
            max_nodes=meeting.machines,
            nproc_per_node=meeting.processes_here,
            run_id=meeting.name,
            rdzv_backend="c10d",
            rdzv_endpoint=meeting.endpoint,
            rdzv_configs={"timeout": meeting.patience_s, "join_timeout": meeting.patience_s},
            max_restarts=0,
            local_addr="127.0.0.1" if meeting.machines == 1 else None,
            signals_to_handle=",".join(number.name for number in _SIGNALS),
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)(*words)
        except ChildFailedError as error:
            raise _cause(run, meeting, heard_early_end(run), error) from None
        except SignalException as error:
            said = heard_early_end(run)
            raise _stopped(run, said.message if said else f"stopped by {error.sigval.name}") from None
        except RendezvousError as error:
            raise TrainingError(meeting.failed(run, error)) from error


def _cause(
    run: RunDirectory, meeting: Meeting, said: EarlyEnd | None, error: ChildFailedError
) -> TapetumError:
    """What ended a run: the first process's own words, or how it died where it had none."""
    killed = [
        (rank, killed_by(-failure.exitcode))
        for rank, failure in sorted(error.failures.items())
        if failure.exitcode < 0 and -failure.exitcode not in (signal.SIGTERM, signal.SIGUSR1)
    ]
    count = meeting.machines * meeting.processes_here
    if killed and (said is None or lost_another(said.message)):
        rank, how = killed[0]
        return TrainingError(f"process {rank} of {count} {how}. {_go_on(run)}")
    if said is None:
        codes = ", ".join(f"{rank}: {one.exitcode}" for rank, one in sorted(error.failures.items()))
        return TrainingError(
            f"a process of {run.path} ended without a word (exit codes by process: {codes}). {_go_on(run)}"
        )
    if said.kind == "interrupted":
        return _stopped(run, said.message)
    if waited_in_vain(said.message):
        minutes = run.read_config()["train"]["timeout_minutes"]
        return TrainingError(
            f"process {said.rank} of {count} waited for another one longer than "
            f"train.timeout_minutes={minutes:g} ({said.message}): one of them hangs, or does much "
            f"more than the others. {_go_on(run)}"
        )
    if not said.explained:
        return TrainingError(
            f"process {said.rank} of {count} failed: {said.message} (its traceback is above)"
        )
    return TrainingError(f"process {said.rank} of {count}: {said.message}")


def _stopped(run: RunDirectory, message: str) -> InterruptedRunError:
    return InterruptedRunError(message if "resume=" in message else f"{message}. {_go_on(run)}")


def _go_on(run: RunDirectory) -> str:
    if (run.checkpoints / "last.ckpt").exists():
        return f"To go on from the last checkpoint, repeat the command with resume={to_resume(run.path)}"
    return "There is no checkpoint yet, so repeat the command"


@contextmanager
def _elastic(meeting: Meeting) -> Iterator[None]:
    """What the engine changes of this process comes back: signal handlers, its words, the environment.

    Each process gets its share of the cores, where nobody has said otherwise.
    """
    share = max(1, cores() // meeting.processes_here)
    wanted = {
        PARENT: str(os.getpid()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(share)),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_SAVE_S)),
    }
    before = {name: os.environ.get(name) for name in (*wanted, "TORCHELASTIC_SIGNALS_TO_HANDLE")}
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    spoken = logging.getLogger("torch.distributed.elastic")
    level = spoken.level
    os.environ.update(wanted)
    spoken.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        spoken.setLevel(level)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
