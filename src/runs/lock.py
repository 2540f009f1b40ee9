"""One process at a time writes into a run."""

from __future__ import annotations

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import TapetumError
from .directory import RunDirectory

log = logging.getLogger("tapetum")


@contextmanager
def held(run: RunDirectory) -> Iterator[None]:
    """Keep a run to this process; the kernel lets go of it when the process ends, however it ends.

    What is locked is train.log, which is appended to and never replaced. Raises TapetumError where another
    process holds it. On a file system without locks a warning says so.
    """
    with run.log.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TapetumError(
                f"{run.path} is in use: another process is training in it, and two would overwrite each "
                f"other's checkpoints. Wait until it has ended and repeat the command, or leave resume= out "
                f"for a run of its own"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            log.warning(
                "%s can't be locked on this file system (%s): don't resume it while it is running",
                run.path, error.strerror,
            )  # fmt: skip
        yield
