"""Jobs on this machine, several at a time if asked for, each on devices of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import ConfigError
from ..runs.directory import RunDirectory
from ..runs.lock import in_use
from .watch import PARENT
from .world import cores, processes_here


class LocalPool:
    """A `Place`: so many jobs at a time, on GPUs of their own or on their share of the cores.

    Args:
        jobs: at most so many at once. Of one, the terminal shows what it says; of several, each writes it to
            `output.txt` in its directory.
    """

    look_s = 0.05

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        self._running: list[_Process] = []
        self._gpus: list[str] | None = None

    def start(self, run: RunDirectory, checkpoint: Path | None, config: Mapping[str, Any]) -> _Process | None:
        """See `Place`; ConfigError for a job that names its devices."""
        self._running = [one for one in self._running if one.poll() is None]
        if len(self._running) >= self.jobs or in_use(run):
            return None
        environment = dict(os.environ) | {PARENT: str(os.getpid())}
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
        output = (run.path / "output.txt").open("ab") if self.jobs > 1 else None
        words = [
            sys.executable,
            "-m",
            "tapetum",
            "job",
            str(run.path),
            *([str(checkpoint)] if checkpoint else ()),
        ]
        # In a session of its own: Ctrl-C reaches it once, through the sweep, and not from the terminal too.
        started = subprocess.Popen(
            words,
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        process = _Process(started, gpus, output)
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
        if isinstance(trainer["devices"], list):
            raise ConfigError(
                f"trainer.devices={trainer['devices']} names devices, and a pool gives them out: type "
                f"trainer.devices={len(trainer['devices'])}"
            )
        everything = trainer["devices"] in (-1, "-1", "auto")
        asked = len(self._gpus) // self.jobs if everything else processes_here(trainer)
        # More than there are is the job's own error, and costs the others nothing.
        return max(1, min(asked, len(self._gpus)))


class _Process:
    """A job's process, and the GPUs that are its own."""

    def __init__(self, process: subprocess.Popen[bytes], gpus: list[str], output: IO[bytes] | None) -> None:
        self.gpus = gpus
        self._process = process
        self._output = output

    def poll(self) -> int | None:
        """See `Running`."""
        code = self._process.poll()
        if code is not None and self._output is not None:
            self._output.close()
        return code

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
