"""What a process of a run says when it ends early, for the process that started it.

Of several processes the first to fail is the cause: the others only lose it. So `early_end.json` is written
once, by whoever comes first, and those who started them read it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..errors import TapetumError
from .directory import RunDirectory

Kind = Literal["failed", "interrupted"]


@dataclass(frozen=True)
class EarlyEnd:
    """kind: `interrupted` = asked to stop, checkpoint written. rank: of the process. explained: whether the
    message is the whole story, else it is the last line of a traceback that stands on the terminal.
    """

    kind: Kind
    rank: int
    message: str
    explained: bool


_LOST = re.compile(
    r"connection (closed|reset|refused)|broken pipe|remote process exited|nccl.*(error|abort)|socket.*closed",
    re.IGNORECASE,
)


def waited_in_vain(message: str) -> bool:
    """Whether a process gave up waiting for another one."""
    return re.search(r"timed out|collective operation timeout", message, re.IGNORECASE) is not None


def lost_another(message: str) -> bool:
    """Whether a process says no more than that another one is gone."""
    return _LOST.search(message) is not None


def killed_by(number: int) -> str:
    """How a process ended that a signal took, and why that may have been."""
    memory = " (by the system, where memory ran out: look at dmesg)" if number == signal.SIGKILL else ""
    known = {one.value: one.name for one in signal.Signals}  # there are those without a name
    return f"was killed by {known.get(number, f'signal {number}')}{memory}"


class PrunedRunError(TapetumError):
    """A search gave the run up: what it had reached was not promising."""


def say_early_end(run: RunDirectory, end: EarlyEnd) -> bool:
    """Leave word, unless another process was first; whether this one was."""
    file = _file(run)
    unfinished = file.with_name(f"{file.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        unfinished.write_text(json.dumps(asdict(end)), encoding="utf-8")
        os.link(unfinished, file)  # whole or not at all, and never over another's
    except FileExistsError:
        return False
    finally:
        unfinished.unlink(missing_ok=True)
    return True


def heard_early_end(run: RunDirectory) -> EarlyEnd | None:
    """What the first process said, None where none did."""
    try:
        return EarlyEnd(**json.loads(_file(run).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def forget_early_end(run: RunDirectory) -> None:
    """Before a start, and where nobody else reads it, what was said is done with."""
    _file(run).unlink(missing_ok=True)


def _file(run: RunDirectory) -> Path:
    return run.path / "early_end.json"
