"""Hydra's door to `tapetum.launch`: a sweep's jobs, each in a fresh process.

Hydra accepts launchers from this namespace package only, so this file stays thin: it hands the composed
configs over and gives the monitored values back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class SequentialLauncher(Launcher):
    """Runs the jobs of a sweep one after the other."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook: remembers how to compose a job."""
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose every job, check all of them before the first starts, then run them."""
        from tapetum.launch.sweep import Job, run_jobs

        jobs = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(composed):
                composed.hydra.job.num = number
            jobs.append(Job(number=number, overrides=tuple(filter_overrides(overrides)), composed=composed))
        values = run_jobs(jobs, Path(str(self.config.hydra.sweep.dir)), self.config.launcher.stop_on_failure)
        return [
            JobReturn(overrides=job.overrides, _return_value=value, status=JobStatus.COMPLETED)
            for job, value in zip(jobs, values, strict=True)
        ]


ConfigStore.instance().store(
    group="hydra/launcher",
    name="tapetum_sequential",
    node={"_target_": "hydra_plugins.tapetum_launcher.SequentialLauncher"},
    provider="tapetum",
)
