"""Jobs that begin with their libraries imported: a process does so once, and forks another for each job.

Importing torch and its company takes longer than many a job. The server imports, and does nothing else, so
that what it forks is as fresh as a process that imported them itself.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from .watch import PARENT

_EVERY_JOB = (
    *("lightning", "pandas", "pyarrow.parquet"),
    *("tapetum.cli", "tapetum.commands.preflight", "tapetum.commands.finish", "tapetum.tasks"),
    *("tapetum.launch.processes", "tapetum.reports.run", "tapetum.reports.training_curve"),
)


class Preloaded:
    """This end of the server, which starts with the first job. `fork` and what it returns never wait for it.

    Args:
        environment: of the server, for what its libraries read when they are imported.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._server: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._heard = b""
        self._codes: dict[int, int | None] = {}

    @property
    def pid(self) -> int | None:
        """The server's process, None before its first job."""
        return None if self._server is None else self._server.pid

    def fork(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        output: Path | None,
        config: Mapping[str, Any],
    ) -> Forked:
        """Start `tapetum job WORDS`. output: the file it writes to rather than to the terminal."""
        if self._server is None or self._died() is not None:
            self._begin(config)
        job = len(self._codes)
        self._codes[job] = None
        request = {
            "words": list(words),
            "environment": dict(environment),
            "output": None if output is None else str(output),
        }
        self._say({"job": job, "start": request})
        return Forked(self, job)

    def code_of(self, job: int) -> int | None:
        """Its exit code, None while it runs; that of the server where it has died with its jobs."""
        code = self._died()
        self._listen()
        if code is not None:
            self._codes = {one: code if told is None else told for one, told in self._codes.items()}
        return self._codes[job]

    def signal(self, job: int, number: int) -> None:
        """Pass a signal on to a job, which may not have begun."""
        self._say({"job": job, "signal": number})

    def _died(self) -> int | None:
        """The exit code of a server that is gone, which nothing but a mishap ends before this process."""
        code = None if self._server is None else self._server.poll()
        return code or 1 if code is not None else None

    def _begin(self, config: Mapping[str, Any]) -> None:
        here, there = socket.socketpair()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tapetum", "jobs", str(there.fileno()), *_modules(config)],
            env={"PYTORCH_NVML_BASED_CUDA_CHECK": "1", **self._environment},
            pass_fds=[there.fileno()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        there.close()
        self._channel, self._heard = here, b""

    def _say(self, message: Mapping[str, Any]) -> None:
        assert self._channel is not None
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died, which `code_of` tells
            self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        channel = self._channel
        while channel is not None and select.select([channel], [], [], 0)[0]:
            some = b""
            with suppress(ConnectionResetError):
                some = channel.recv(1 << 16)
            if not some:
                return
            *lines, self._heard = (self._heard + some).split(b"\n")
            for line in lines:
                ended = json.loads(line)
                self._codes[ended["job"]] = ended["code"]


class Forked:
    """A job that the server was asked for."""

    def __init__(self, server: Preloaded, job: int) -> None:
        self._server, self._job = server, job

    def poll(self) -> int | None:
        """Its exit code, None while it runs; -N where signal N ended it."""
        return self._server.code_of(self._job)

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self.poll() is None:
            self._server.signal(self._job, number)


def can_fork() -> bool:
    """Whether forking a process that has imported these libraries is safe: Apple's frameworks forbid it."""
    return sys.platform == "linux"


def _modules(config: Mapping[str, Any]) -> list[str]:
    """What jobs of a config import. A user's own modules are left to the jobs."""
    found = dict.fromkeys((*_EVERY_JOB, f"tapetum.tasks.{config['task']}"))

    def look(value: object) -> None:
        if isinstance(value, Mapping):
            target = value.get("_target_")
            if isinstance(target, str) and target.startswith("tapetum."):
                found[target.rpartition(".")[0]] = None
            for one in value.values():
                look(one)
        elif isinstance(value, list):
            for one in value:
                look(one)

    look(config)
    return list(found)


def serve(channel: socket.socket, modules: Sequence[str]) -> list[str] | None:
    """Import, and fork a process for each request until the other end is closed.

    Returns None in the server, and in a forked process the words of its job.
    """
    for module in modules:
        with suppress(Exception):  # whatever it is, the job meets it again and says so
            import_module(module)
    woken, wakes = socket.socketpair()
    woken.setblocking(False)
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # so that it wakes
    signal.set_wakeup_fd(wakes.fileno())
    jobs: dict[int, int] = {}
    heard = b""
    while True:
        ready = select.select([channel, woken], [], [])[0]
        if woken in ready:
            woken.recv(1 << 12)
            with suppress(BrokenPipeError):  # the sweep is gone, which the next look finds
                _tell_ended(channel, jobs)
        if channel not in ready:
            continue
        some = channel.recv(1 << 16)
        if not some:  # the sweep is gone
            return None
        *lines, heard = (heard + some).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if (number := request.get("signal")) is not None:
                for process in [process for process, job in jobs.items() if job == request["job"]]:
                    os.kill(process, number)
                continue
            process = os.fork()
            if process == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for one in (channel, woken, wakes):
                    one.close()
                return _become(**request["start"])
            jobs[process] = request["job"]


def _tell_ended(channel: socket.socket, jobs: dict[int, int]) -> None:
    while jobs:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return
        ended = {"job": jobs.pop(process), "code": os.waitstatus_to_exitcode(status)}
        channel.sendall(json.dumps(ended).encode() + b"\n")


def _become(words: list[str], environment: dict[str, str], output: str | None) -> list[str]:
    """Make a forked process the job's own: its session, environment, output and words."""
    import torch

    os.setsid()
    os.environ.clear()
    os.environ.update(environment, **{PARENT: str(os.getppid())})
    if output is not None:
        file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.close(file)
    sys.argv[1:] = ["job", *words]
    if torch.cuda._is_in_bad_fork():  # a library asked for the GPUs while it was imported
        os.execv(sys.executable, [sys.executable, "-m", "tapetum", "job", *words])
    return words
