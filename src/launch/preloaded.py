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
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .libraries import importing, libraries_of
from .watch import PARENT

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Signals that are for the jobs; the server ends with its sweep."""


class Preloaded:
    """The sweep's end: a server that starts with the first job, and again where it was killed.

    Args:
        environment: of the server, for what its libraries read when they are imported.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._server: _Server | None = None

    @property
    def pid(self) -> int | None:
        """The server's process, None before its first job."""
        return None if self._server is None else self._server.process.pid

    def fork(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        output: Path | None,
        config: Mapping[str, Any],
    ) -> Forked:
        """Ask for `tapetum job WORDS`, which begins when the libraries are there.

        output: the file it writes to rather than to the terminal. config: whose modules a new server imports.
        """
        if self._server is None or self._server.process.poll() is not None:
            self._server = _Server(self._environment, libraries_of(config))
        return self._server.ask(words, environment, output)


class _Server:
    """A server's process, and what is known of its jobs."""

    def __init__(self, environment: Mapping[str, str], modules: Sequence[str]) -> None:
        self._channel, there = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tapetum", "jobs", str(there.fileno()), *modules],
            env={"PYTORCH_NVML_BASED_CUDA_CHECK": "1", **environment},
            pass_fds=[there.fileno()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        there.close()
        self._heard = b""
        self._asked = 0
        self._processes: dict[int, int] = {}
        self._codes: dict[int, int] = {}

    def ask(self, words: Sequence[str], environment: Mapping[str, str], output: Path | None) -> Forked:
        """See `Preloaded.fork`."""
        self._asked += 1
        request = {
            "words": list(words),
            "environment": dict(environment),
            "output": None if output is None else str(output),
        }
        self._say({"job": self._asked, "start": request})
        return Forked(self, self._asked)

    def code_of(self, job: int) -> int | None:
        """Its exit code, None while it runs.

        A job does not die with a killed server but soon after, with its checkpoint: it was interrupted then,
        and goes on with the sweep. One that had not begun has the server's code.
        """
        died = self.process.poll()
        self._heed()
        if job not in self._codes and died is not None and not self._alive(job):
            return 130 if job in self._processes else died or 1
        return self._codes.get(job)

    def signal(self, job: int, number: int) -> None:
        """Pass a signal on to a job; one that has not begun never does."""
        if self.process.poll() is None:
            self._say({"job": job, "signal": number})
        elif self._alive(job):
            os.kill(self._processes[job], number)

    def _alive(self, job: int) -> bool:
        with suppress(OSError, KeyError):
            status = Path(f"/proc/{self._processes[job]}/stat").read_text()
            return status.rpartition(")")[2].split()[0] != "Z"
        return False

    def _say(self, message: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died, which `code_of` tells
            self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _heed(self) -> None:
        lines, self._heard, _ = _read(self._channel, self._heard)
        for told in lines:
            if "process" in told:
                self._processes[told["job"]] = told["process"]
            else:
                self._codes[told["job"]] = told["code"]


class Forked:
    """A job that a server was asked for."""

    def __init__(self, server: _Server, job: int) -> None:
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


def _read(channel: socket.socket, heard: bytes) -> tuple[list[dict[str, Any]], bytes, bool]:
    """The messages that have come, what is there of the next one, and whether the other end is open."""
    while select.select([channel], [], [], 0)[0]:
        some = b""
        with suppress(ConnectionResetError):
            some = channel.recv(1 << 16)
        if not some:
            return [json.loads(line) for line in heard.split(b"\n")[:-1]], b"", False
        heard += some
    *lines, rest = heard.split(b"\n")
    return [json.loads(line) for line in lines], rest, True


class _Serving:
    """The server's end of the channel: jobs that wait to be forked, and those that run."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.waiting: dict[int, dict[str, Any]] = {}
        self._heard = b""
        self._jobs: dict[int, int] = {}

    def heed(self) -> bool:
        """Take note of what was asked; False where the sweep is gone."""
        requests, self._heard, there = _read(self.channel, self._heard)
        for one in requests:
            job = one["job"]
            if "start" in one:
                self.waiting[job] = one["start"]
            elif self.waiting.pop(job, None) is not None:
                self.tell(job=job, code=-one["signal"])
            else:
                for process in [process for process, its in self._jobs.items() if its == job]:
                    os.kill(process, one["signal"])
        return there

    def begun(self, job: int, process: int) -> None:
        """A waiting job runs now."""
        self._jobs[process] = job
        self.tell(job=job, process=process)

    def reap(self) -> None:
        """Tell of the jobs that have ended."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if (job := self._jobs.pop(ended[0], None)) is not None:  # else nobody's, of a library
                    self.tell(job=job, code=os.waitstatus_to_exitcode(ended[1]))

    def tell(self, **message: int) -> None:
        """Say something to the sweep."""
        with suppress(BrokenPipeError, ConnectionResetError):  # it is gone, which `heed` finds
            self.channel.sendall(json.dumps(message).encode() + b"\n")


def serve(channel: socket.socket, modules: Sequence[str]) -> list[str] | None:
    """Import, and fork a process for each request until the other end is closed.

    Returns None in the server, and in a forked process the words of its job.
    """
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    serving, fresh = _Serving(channel), False
    with importing():
        for module in modules:
            if not serving.heed():
                return None
            try:
                import_module(module)
            except (Exception, SystemExit):  # the job meets it again, and says so where it belongs
                fresh = True
    woken, wakes = socket.socketpair()
    woken.setblocking(False)
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # so that it wakes
    signal.set_wakeup_fd(wakes.fileno())
    server = os.getpid()
    while serving.heed():
        serving.reap()
        if not serving.waiting:
            select.select([channel, woken], [], [])
            with suppress(BlockingIOError):
                woken.recv(1 << 12)
            continue
        job, request = next(iter(serving.waiting.items()))
        del serving.waiting[job]
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the job can hear them
        try:
            process = os.fork()
        except OSError as error:
            print(f"no process for a job: {error}", file=sys.stderr)
            serving.tell(job=job, code=1)
        else:
            if process == 0:
                signal.set_wakeup_fd(-1)
                for one in (channel, woken, wakes):
                    one.close()
                handlers[signal.SIGCHLD] = signal.SIG_DFL
                return _become(server, handlers, fresh=fresh, **request)
            serving.begun(job, process)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return None


def _become(
    server: int,
    handlers: Mapping[signal.Signals, Any],
    words: list[str],
    environment: dict[str, str],
    output: str | None,
    *,
    fresh: bool,
) -> list[str]:
    """Make a forked process the job's own: its output, session, environment, signals and words.

    fresh: whether it has to begin anew, without the server's imports.
    """
    if output is not None:
        file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.close(file)
    os.setsid()
    os.environ.clear()
    os.environ.update(environment, **{PARENT: str(server)})
    sys.argv[1:] = ["job", *words]
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    on_gpus = _has_asked_for_gpus()
    if fresh or on_gpus:
        why = (
            "CUDA was called while libraries were imported" if on_gpus else "a library could not be imported"
        )
        print(f"launcher.preload: {why}, so this job imports for itself", file=sys.stderr, flush=True)
        os.execv(sys.executable, [sys.executable, "-m", "tapetum", "job", *words])
    _own_folders()
    return words


def _own_folders() -> None:
    """In the place of each temporary folder that an import made one of this process, which removes it.

    wandb makes one for pictures; the first job that ended would remove it for all that are forked later.
    Python lists finalizers in a private place alone; were it gone, no job would start.
    """
    for one in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        if (found := one.peek()) is not None and isinstance(found[0], TemporaryDirectory):
            one.detach()
            TemporaryDirectory.__init__(found[0])


def _has_asked_for_gpus() -> bool:
    """Whether a library has called CUDA while it was imported, which does not survive a fork."""
    import torch

    with suppress(OSError):
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if entry.readlink().name == "nvidia-uvm":
                    return True
    return bool(torch.cuda._is_in_bad_fork())
