"""One process at a time writes into a run or a sweep."""

from __future__ import annotations

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import TapetumError
from .directory import RunDirectory

log = logging.getLogger("tapetum")


@contextmanager
def held(run: RunDirectory) -> Iterator[None]:
    """Keep a run to this process, by its train.log; TapetumError where another process holds it."""
    with locked(
        run.log,
        f"{run.path} is in use: another process is training in it, and two would overwrite each "
        f"other's checkpoints. Wait until it has ended and repeat the command, or leave resume= out "
        f"for a run of its own",
    ):
        yield


def in_use(run: RunDirectory) -> bool:
    """Whether another process holds a run just now, as one does whose sweep was killed."""
    if not run.log.is_file():
        return False
    try:
        with held(run):
            return False
    except TapetumError:
        return True


@contextmanager
def locked(file: Path, in_use: str) -> Iterator[None]:
    """Lock a file that is appended to and never replaced, else TapetumError with what `in_use` says.

    The kernel lets go of it when the process ends, however it ends. On a file system without locks a warning
    says so.
    """
    with file.open("a") as held_open:
        try:
            fcntl.flock(held_open, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TapetumError(in_use) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            log.warning(
                "%s can't be locked on this file system (%s): don't resume it while it is running",
                file.parent, error.strerror,
            )  # fmt: skip
        yield
