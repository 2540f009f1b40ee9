"""A launched process does not outlive those it works with.

Python runs signal handlers between two instructions of the main thread, and a process that waits for another
one in a collective runs none. So a thread looks out for it.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from ..runs.directory import RunDirectory
from ..runs.early_end import heard_early_end

PARENT = "TAPETUM_PARENT"
"""Environment variable with the process id of the one that started this process."""

_LOOK_S = 0.5
_LEAVE_S = 5.0  # for a process to end in order after another one failed
_SAVE_S = 120.0  # to write a checkpoint after its parent is gone


def watch(run: RunDirectory) -> None:
    """End this process where its parent dies (with a checkpoint, as at SIGTERM) or another of its run fails.

    Without a parent that watches over it, started by hand, there is nothing to look out for.
    """
    parent = os.environ.get(PARENT)
    if parent is not None:
        threading.Thread(target=_watch, args=(run, int(parent)), daemon=True, name="watch").start()


def _watch(run: RunDirectory, parent: int) -> None:
    several = "LOCAL_RANK" in os.environ
    while True:
        time.sleep(_LOOK_S)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_SAVE_S)
            os.kill(os.getpid(), signal.SIGKILL)
        if several and (said := heard_early_end(run)) is not None:
            # All that were asked to stop close what they have open; of a failure nothing good comes any more.
            time.sleep(_SAVE_S if said.kind == "interrupted" else _LEAVE_S)
            os._exit(1)
