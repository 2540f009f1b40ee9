"""Jobs on this machine, several at a time if asked for, each on devices of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..runs.directory import RunDirectory
from ..runs.lock import in_use
from .jobs import Running
from .preloaded import Preloaded, can_fork
from .watch import PARENT
from .world import cores, processes_here


class LocalPool:
    """A `Place`: so many jobs at a time, on GPUs of their own or on their share of the cores.

    Args:
        jobs: at most so many at once. Of one, the terminal shows what it says; of several, each writes it to
            `output.txt` in its directory.
        preload: whether jobs are forked from a process that has imported their libraries, which saves each
            of them the time to do so. Raises ConfigError where the system can't.
    """

    look_s = 0.05

    def __init__(self, jobs: int = 1, *, preload: bool = False) -> None:
        self.jobs = jobs
        self._preloaded: Preloaded | None = None
        if preload and not can_fork():
            raise ConfigError("launcher.preload=true forks jobs, which needs Linux: leave it out")
        if preload:
            share = {"OMP_NUM_THREADS": str(max(1, cores() // jobs))} if jobs > 1 else {}
            self._preloaded = Preloaded(share | dict(os.environ))
        self._running: list[_Process] = []
        self._gpus: list[str] | None = None

    def start(self, run: RunDirectory, checkpoint: Path | None, config: Mapping[str, Any]) -> _Process | None:
        """See `Place`; ConfigError for a job that names its devices."""
        self._running = [one for one in self._running if one.poll() is None]
        if len(self._running) >= self.jobs or in_use(run):
            return None
        environment = dict(os.environ)
        gpus: list[str] = []
        if self.jobs > 1:
            asked = self._asked(config["trainer"])
            taken = {gpu for one in self._running for gpu in one.gpus}
            gpus = [gpu for gpu in self._gpus or [] if gpu not in taken][:asked]
            if len(gpus) < asked:
                return None
            if asked:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            share = cores() // self.jobs // processes_here(config["trainer"])
            environment.setdefault("OMP_NUM_THREADS", str(max(1, share)))
        words = [str(run.path), *([str(checkpoint)] if checkpoint else ())]
        output = run.path / "output.txt" if self.jobs > 1 else None
        if self._preloaded is not None:
            process = _Process(self._preloaded.fork(words, environment, output, config), gpus)
        else:
            process = _Process(_Fresh(words, environment, output), gpus)
        self._running.append(process)
        return process

    def _asked(self, trainer: Mapping[str, Any]) -> int:
        """How many GPUs a job takes; none on a processor."""
        if trainer["accelerator"] not in ("cuda", "gpu", "auto"):
            return 0
        if self._gpus is None:
            self._gpus = visible_gpus()
        if not self._gpus:
            return 0
        if isinstance(trainer["devices"], list) or "," in str(trainer["devices"]):
            raise ConfigError(
                f"trainer.devices={trainer['devices']} names devices, and a pool gives them out: type "
                f"trainer.devices={processes_here(trainer)}"
            )
        everything = trainer["devices"] in (-1, "-1", "auto")
        asked = len(self._gpus) // self.jobs if everything else processes_here(trainer)
        # More than there are is the job's own error, and costs the others nothing.
        return max(1, min(asked, len(self._gpus)))


class _Process:
    """A job's process, and the GPUs that are its own."""

    def __init__(self, process: Running, gpus: list[str]) -> None:
        self.gpus = gpus
        self.poll, self.send = process.poll, process.send


class _Fresh:
    """A job that imports its libraries itself."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], output: Path | None) -> None:
        file = None if output is None else output.open("ab")
        # In a session of its own: Ctrl-C reaches it once, through the sweep, and not from the terminal too.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tapetum", "job", *words],
            env={**environment, PARENT: str(os.getpid())},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
        if file is not None:
            file.close()

    def poll(self) -> int | None:
        """See `Running`."""
        return self._process.poll()

    def send(self, number: int) -> None:
        """See `Running`."""
        if self._process.poll() is None:
            self._process.send_signal(number)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [one.strip() for one in listed.split(",") if one.strip() and one.strip() != "-1"]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
