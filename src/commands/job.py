"""`tapetum job RUN [CHECKPOINT]`: what a launched process does. It composes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import TapetumError


def main(arguments: Sequence[str]) -> int:
    """Execute a prepared run; the exit code."""
    from ..runs.directory import open_run
    from .train import execute

    if len(arguments) not in (1, 2):
        raise TapetumError("tapetum job is started by a launcher: tapetum job RUN [CHECKPOINT]")
    run = open_run(arguments[0])
    execute(run, run.read_config(), checkpoint=Path(arguments[1]) if len(arguments) == 2 else None)
    return 0
