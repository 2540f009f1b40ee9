"""Where the machines of a run meet: `meeting.json` in its directory, which all of them see."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, TapetumError
from ..runs.directory import RunDirectory, stamp, write_json
from .world import processes_here

NAME = "TAPETUM_MEETING"
"""Environment variable with the name of the meeting, where a launcher starts all machines."""

_PORT = 29400
_PATIENCE_S = 900


@dataclass(frozen=True)
class Meeting:
    """machines: how many. processes_here: on each. endpoint: `host:port` of the first one. checkpoint: from
    which they go on. patience_s: how long each waits for the others.
    """

    name: str
    machines: int
    processes_here: int
    endpoint: str
    checkpoint: str | None
    patience_s: int

    @classmethod
    def of(cls, trainer: Mapping[str, Any], run: RunDirectory, checkpoint: Path | None) -> Meeting:
        """That of a run which starts on this machine; ConfigError where its port is taken.

        Of several machines this one's name and port are $MASTER_ADDR and $MASTER_PORT, else its host name
        and 29400; they wait for each other $TAPETUM_PATIENCE seconds, else 15 minutes.
        """
        machines = int(trainer["num_nodes"])
        endpoint = "localhost:0"  # any free port
        if machines > 1:
            host = os.environ.get("MASTER_ADDR", socket.gethostname())
            port = _whole("MASTER_PORT", _PORT, 65535)
            _check_free(port)
            endpoint = f"{host}:{port}"
        return cls(
            name=os.environ.get(NAME) or f"{run.path.name}-{stamp()[-6:]}",
            machines=machines,
            processes_here=processes_here(trainer),
            endpoint=endpoint,
            checkpoint=None if checkpoint is None else str(checkpoint),
            patience_s=_whole("TAPETUM_PATIENCE", _PATIENCE_S, 10**6),
        )

    @classmethod
    def wait(cls, run: RunDirectory, name: str) -> Meeting:
        """That of this name, as soon as it is announced; TapetumError where it is not in time.

        A meeting of an earlier start may still stand there, and nobody is at it.
        """
        patience = _whole("TAPETUM_PATIENCE", _PATIENCE_S, 10**6)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if _file(run).is_file() and (found := cls.read(run)).name == name:
                return found
            time.sleep(1)
        raise TapetumError(
            f"the first machine of {run.path} did not announce where it waits within {patience} s: what it "
            f"says stands in its own output"
        )

    @classmethod
    def read(cls, run: RunDirectory) -> Meeting:
        """That which the first machine announced; TapetumError where there is none."""
        try:
            return cls(**json.loads(_file(run).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise TapetumError(
                f"nobody waits in {run.path}: tapetum join is for the other machines of a run that was "
                f"started with trainer.num_nodes=2 or more, while it starts or trains"
            ) from None

    def announce(self, run: RunDirectory) -> None:
        """Let the other machines find this one, and say what to type there."""
        write_json(_file(run), asdict(self))
        others = self.machines - 1
        where = "on the other machine" if others == 1 else f"on each of the {others} other machines"
        print(
            f"waiting at {self.endpoint} for {others} more; {where}, in the same folder, type:\n"
            f"  tapetum join {run.path}",
            flush=True,
        )

    def end(self, run: RunDirectory) -> None:
        """Nobody is waited for any more."""
        _file(run).unlink(missing_ok=True)

    def failed(self, run: RunDirectory, error: Exception) -> str:
        """Why the machines did not come together, and what to look at."""
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return (
            f"the {self.machines} machines of the run did not meet at {self.endpoint} within "
            f"{self.patience_s} s ({said}): type tapetum join {run.path} on every other machine, and see "
            f"that they reach that port; MASTER_ADDR and MASTER_PORT choose another one"
        )


def _file(run: RunDirectory) -> Path:
    return run.path / "meeting.json"


def _whole(variable: str, default: int, most: int) -> int:
    """A number from the environment; ConfigError where it is none."""
    said = os.environ.get(variable, str(default))
    if not said.isdecimal() or not 0 < int(said) <= most:
        raise ConfigError(f"{variable}={said} is no whole number up to {most}: set {variable}={default}")
    return int(said)


def _check_free(port: int) -> None:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", port))
        except OSError as error:
            raise ConfigError(
                f"port {port} is in use on this machine ({error.strerror}), and the machines of a run meet "
                f"there: choose another one with MASTER_PORT={port + 1}"
            ) from error
