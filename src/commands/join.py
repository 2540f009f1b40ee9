"""`tapetum join RUN`: this machine's processes of a run that another machine started."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import TapetumError


def main(arguments: Sequence[str]) -> int:
    """Take part in a run until it ends; the exit code."""
    from ..launch.libraries import importing
    from ..runs.directory import open_run

    if len(arguments) != 1:
        raise TapetumError("tapetum join RUN: name the run that the first machine printed")
    run = open_run(arguments[0])
    with importing():
        from ..launch.meeting import NAME, Meeting
        from ..launch.processes import take_part
    name = os.environ.get(NAME)
    take_part(run, Meeting.read(run) if name is None else Meeting.wait(run, name))
    return 0
