"""Jobs on a cluster, through submitit: a SLURM job for each, with one task a machine.

A task starts its machine's processes as anywhere else, so that a run is the same run wherever it is. A job
that is pre-empted or out of time writes its checkpoint, is requeued, and goes on in its directory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError
from ..runs.directory import RunDirectory
from .watch import PARENT
from .world import processes_here

if TYPE_CHECKING:
    import submitit

_LOST = 1
_SAVE_S = 110.0


class Cluster:
    """A `Place`: a SLURM cluster, or this machine as if it were one.

    Args:
        folder: where submitit keeps what it submits and what the jobs say.
        jobs: at most so many queued or running at once.
        cluster: `local` runs them here, without a queue.
        timeout_min: minutes that a job may take before it is cut off and requeued.
        signal_delay_s: seconds before that in which it is told.
        cpus_per_task, mem_gb, partition, account, qos, constraint, setup: as SLURM and submitit have them;
            machines and GPUs come from trainer.num_nodes and trainer.devices.

    Raises ConfigError where submitit or SLURM is not installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        jobs: int,
        cluster: Literal["slurm", "local"] = "slurm",
        timeout_min: int = 720,
        signal_delay_s: int = 120,
        cpus_per_task: int | None = None,
        mem_gb: float | None = None,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        setup: Sequence[str] | None = None,
    ) -> None:
        self.look_s = 0.2 if cluster == "local" else 5.0
        self.jobs, self.local = jobs, cluster == "local"
        self._folder = folder
        self._all = {"timeout_min": timeout_min}
        self._slurm = {
            "signal_delay_s": signal_delay_s,
            "cpus_per_task": cpus_per_task,
            "mem": None if mem_gb is None else f"{mem_gb}GB",
            "partition": partition,
            "account": account,
            "qos": qos,
            "constraint": constraint,
            "setup": None if setup is None else list(setup),
        }
        self._running: list[_Submitted] = []
        _check(cluster)

    def start(
        self, run: RunDirectory, checkpoint: Path | None, config: Mapping[str, Any]
    ) -> _Submitted | None:
        """See `Place`; the job itself looks for its checkpoint, since it may be started several times."""
        import submitit

        self._running = [one for one in self._running if one.poll() is None]
        if len(self._running) >= self.jobs:
            return None
        trainer = config["trainer"]
        executor = submitit.AutoExecutor(self._folder, cluster="local" if self.local else "slurm")
        gpus = processes_here(trainer) if trainer["accelerator"] in ("cuda", "gpu") else 0
        asked: dict[str, Any] = {**self._all, "nodes": int(trainer["num_nodes"]), "tasks_per_node": 1}
        if not self.local:
            asked |= {f"slurm_{key}": value for key, value in self._slurm.items() if value is not None}
            asked |= {"gpus_per_node": gpus} if gpus else {}
        asked["name"] = f"tapetum-{run.path.parent.name}-{run.path.name}"
        executor.update_parameters(**asked)
        submitted = _Submitted(executor.submit(ClusterJob(str(run.path.absolute()), str(Path.cwd()))))
        self._running.append(submitted)
        return submitted


@dataclass
class ClusterJob:
    """What submitit runs in each task: the run's processes of that machine; returns their exit code.

    run: directory. folder: where the sweep was started, which relative paths of the config are of.
    """

    run: str
    folder: str

    def __call__(self) -> int:
        """Run or join; its checkpoint is what an earlier start of the same job has left."""
        import submitit

        task = submitit.JobEnvironment()
        os.chdir(self.folder)
        last = Path(self.run) / "checkpoints" / "last.ckpt"
        environment = dict(os.environ) | {PARENT: str(os.getpid())}
        if task.num_nodes > 1:
            port = 20000 + int(task.raw_job_id) % 20000
            environment |= {"MASTER_ADDR": task.hostnames[0], "MASTER_PORT": str(port)}
        if task.global_rank == 0:
            words = ["job", self.run, *([str(last)] if last.exists() else ())]
        else:
            _wait_for(Path(self.run) / "meeting.json")
            words = ["join", self.run]
        self._process = subprocess.Popen([sys.executable, "-m", "tapetum", *words], env=environment)
        while (code := self._process.poll()) is None:
            time.sleep(0.1)
        return code

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """submitit's hook before a requeue: let the run write its checkpoint, then come again."""
        import submitit

        process, deadline = self._process.pid, time.monotonic() + _SAVE_S
        os.kill(process, signal.SIGUSR1)
        # not Popen's own wait: this may have interrupted it, and it would wait for itself
        while os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                os.kill(process, signal.SIGKILL)
            time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(ClusterJob(self.run, self.folder))

    def __getstate__(self) -> dict[str, str]:
        return {"run": self.run, "folder": self.folder}


class _Submitted:
    """A job in the queue or running."""

    def __init__(self, job: submitit.Job[int]) -> None:
        self._job = job
        self._code: int | None = None

    def poll(self) -> int | None:
        """See `Running`; a job whose machine was lost has no exit code of its own."""
        if self._code is None and self._job.done():
            failed = self._job.exception()
            self._code = _LOST if failed is not None else int(self._job.result())
        return self._code

    def send(self, number: int) -> None:
        """See `Running`; what is still queued is taken back."""
        if self.poll() is None:
            self._job.cancel()


def _check(cluster: str) -> None:
    if find_spec("submitit") is None:
        raise ConfigError(
            "launcher=slurm needs the package submitit, which is not installed: type pip install "
            "'tapetum[slurm]'"
        )
    import submitit

    if cluster == "slurm" and submitit.SlurmExecutor.affinity() < 0:
        raise ConfigError(
            "launcher=slurm, but there is no srun on this machine: type launcher=local_pool, or "
            "launcher=submitit_local to try the same way without a queue"
        )


def _wait_for(file: Path) -> None:
    """Until the first machine has announced where it waits; it looks every second, as long as it takes."""
    while not file.is_file():
        time.sleep(1)
