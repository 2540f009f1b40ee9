"""`tapetum job RUN [CHECKPOINT]`: what a launched process does. It composes nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import TapetumError


def main(arguments: Sequence[str]) -> int:
    """Execute a prepared run, on as many processes as its config asks for; the exit code."""
    from ..runs.directory import open_run
    from ..runs.lock import held
    from .train import execute, launch

    if len(arguments) not in (1, 2):
        raise TapetumError("tapetum job is started by a launcher: tapetum job RUN [CHECKPOINT]")
    run = open_run(arguments[0])
    config, checkpoint = run.read_config(), Path(arguments[1]) if len(arguments) == 2 else None
    if "LOCAL_RANK" in os.environ:  # one of several, and the process that started them holds the run
        execute(run, config, checkpoint=checkpoint)
    else:
        with held(run):
            launch(run, config, checkpoint=checkpoint)
    return 0
