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
from ..runs.lock import in_use
from .local_pool import visible_gpus
from .meeting import NAME
from .watch import PARENT
from .world import processes_here

if TYPE_CHECKING:
    import submitit

_LOST, _STOPPED = 1, 130
_REQUEUES = 1000  # of a job that runs into its time limit
_MARGIN_S = 10  # of the time between the signal and the end, for the requeue itself


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
        self._folder, self._save_s = folder, max(_MARGIN_S, signal_delay_s - _MARGIN_S)
        self._asked: dict[str, Any] = {"timeout_min": timeout_min, "tasks_per_node": 1}
        slurm = {
            "signal_delay_s": signal_delay_s,
            "cpus_per_task": cpus_per_task,
            # a step does not get the processors of its job unless it asks
            "srun_args": None if cpus_per_task is None else [f"--cpus-per-task={cpus_per_task}"],
            "partition": partition,
            "account": account,
            "qos": qos,
            "constraint": constraint,
            "setup": None if setup is None else list(setup),
        }
        if not self.local:
            self._asked |= {f"slurm_{key}": value for key, value in slurm.items() if value is not None}
            self._asked |= {} if mem_gb is None else {"mem_gb": mem_gb}
        self._running: list[_Submitted] = []
        _check(cluster)

    def start(
        self, run: RunDirectory, checkpoint: Path | None, config: Mapping[str, Any]
    ) -> _Submitted | None:
        """See `Place`; the job itself looks for its checkpoint, since it may be started several times.

        Raises ConfigError for what can't be asked of a cluster, or what it refuses.
        """
        import submitit

        self._running = [one for one in self._running if one.poll() is None]
        if len(self._running) >= self.jobs or in_use(run):
            return None
        asked = {**self._asked, **self._machines(config["trainer"])}
        asked["name"] = f"tapetum-{run.path.parent.name}-{run.path.name}"
        (run.path / _STOP).unlink(missing_ok=True)
        job = ClusterJob(str(run.path.absolute()), str(Path.cwd()), self._save_s)
        try:
            executor = submitit.AutoExecutor(
                self._folder,
                cluster="local" if self.local else "slurm",
                **({} if self.local else {"slurm_max_num_timeout": _REQUEUES}),
            )
            executor.update_parameters(**asked)
            submitted = _Submitted(executor.submit(job), run)
        except (submitit.core.utils.FailedSubmissionError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise ConfigError(f"the cluster refused the job: {said}") from error
        self._running.append(submitted)
        return submitted

    def _machines(self, trainer: Mapping[str, Any]) -> dict[str, Any]:
        """Machines and GPUs of a job, as submitit asks for them."""
        nodes, devices, accelerator = int(trainer["num_nodes"]), trainer["devices"], trainer["accelerator"]
        if self.local:
            if nodes > 1:
                raise ConfigError(
                    f"trainer.num_nodes={nodes}, and launcher=submitit_local is this machine alone: type "
                    f"trainer.num_nodes=1, or launcher=slurm"
                )
            gpus = [int(one) for one in visible_gpus()] if accelerator in ("cuda", "gpu", "auto") else []
            count = min(len(gpus), processes_here(trainer)) if gpus else 0
            return {"nodes": 1, "gpus_per_node": count, "local_visible_gpus": gpus[:count]} if count else {}
        if accelerator == "auto" or devices in (-1, "-1", "auto"):
            raise ConfigError(
                f"trainer.accelerator={accelerator} and trainer.devices={devices} are known on the node "
                f"only, and SLURM has to be asked before: type accelerator=ddp_bf16 trainer.devices=8, or "
                f"accelerator=cpu"
            )
        gpus_per_node = {"gpus_per_node": processes_here(trainer)} if accelerator in ("cuda", "gpu") else {}
        return {"nodes": nodes, **gpus_per_node}


@dataclass
class ClusterJob:
    """What submitit runs in each task: the run's processes of that machine; returns their exit code.

    run: directory. folder: where the sweep was started, which relative paths of the config are of. save_s:
    seconds that a checkpoint may take before a requeue.
    """

    run: str
    folder: str
    save_s: float

    def __call__(self) -> int:
        """Run or join; its checkpoint is what an earlier start of the same job has left."""
        import submitit

        task = submitit.JobEnvironment()
        os.chdir(self.folder)
        last, stop = Path(self.run) / "checkpoints" / "last.ckpt", Path(self.run) / _STOP
        environment = dict(os.environ) | {PARENT: str(os.getpid())}
        if task.num_nodes > 1:
            start = os.environ.get("SLURM_RESTART_COUNT", "0")
            environment |= {
                "MASTER_ADDR": task.hostnames[0],
                "MASTER_PORT": str(20000 + int(task.raw_job_id) % 8000),
                NAME: f"{task.raw_job_id}-{start}",
            }
        if task.global_rank == 0:
            words = ["job", self.run, *([str(last)] if last.exists() else ())]
        else:
            words = ["join", self.run]
        self._process = subprocess.Popen([sys.executable, "-m", "tapetum", *words], env=environment)
        told = False
        while (code := self._process.poll()) is None:
            if stop.exists() and not told:
                told = True
                self._process.send_signal(signal.SIGUSR1)
            time.sleep(0.1)
        return code

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """submitit's hook before a requeue: let the run write its checkpoint, then come again."""
        import submitit

        process, deadline = self._process.pid, time.monotonic() + self.save_s
        os.kill(process, signal.SIGUSR1)
        # not Popen's own wait: this may have interrupted it, and it would wait for itself
        while os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                os.kill(process, signal.SIGKILL)
            time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(ClusterJob(self.run, self.folder, self.save_s))

    def __getstate__(self) -> dict[str, Any]:
        return {"run": self.run, "folder": self.folder, "save_s": self.save_s}


_STOP = "stop"
"""A file in a run's directory that asks its job to stop: signals don't reach a task through every queue."""


class _Submitted:
    """A job in the queue or running."""

    def __init__(self, job: submitit.Job[int], run: RunDirectory) -> None:
        self._job, self._run = job, run
        self._code: int | None = None

    def poll(self) -> int | None:
        """See `Running`; a job whose machine was lost has no exit code of its own."""
        if self._code is None and self._job.done():
            failed = self._job.exception()
            self._code = _LOST if failed is not None else max(int(code) for code in self._job.results())
        return self._code

    def send(self, number: int) -> None:
        """See `Running`; what is still queued is taken back."""
        if self.poll() is not None:
            return
        if self._job.state == "PENDING":
            self._job.cancel()
            self._code = _STOPPED
        else:
            (self._run.path / _STOP).touch()


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
