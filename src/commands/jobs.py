"""`tapetum jobs CHANNEL MODULE …`: a sweep's server of jobs, which become what `tapetum job` does."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from ..errors import TapetumError


def main(arguments: Sequence[str]) -> int:
    """Serve until the sweep is gone; in what is forked for a job, the job's exit code."""
    from ..launch.preloaded import serve
    from .job import main as execute

    if len(arguments) < 2 or not arguments[0].isdigit():
        raise TapetumError("tapetum jobs is started by a sweep: type tapetum train -m …")
    words = serve(socket.socket(fileno=int(arguments[0])), arguments[1:])
    return 0 if words is None else execute(words)
