"""Hydra's door to `tapetum.launch`: a sweep's jobs, each in a fresh process.

Hydra accepts launchers from this namespace package only, so this file stays thin: it hands the composed
configs over and gives the monitored values back.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class TapetumLauncher(Launcher):
    """Runs the jobs of a sweep where `launcher` says."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook: remembers how to compose a job."""
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose every job, check all of them before the first starts, then run them."""
        from tapetum.launch.grid import Grid, Point
        from tapetum.launch.sweep import run_sweep

        points = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(composed):
                composed.hydra.job.num = number
            points.append(Point(number, tuple(filter_overrides(overrides)), composed))
        grid = Grid(points)
        outcomes = {one.job.number: one for one in run_sweep(self.config, grid, known=grid.jobs)}
        ended = [outcomes[point.number].value if point.number in outcomes else None for point in points]
        return [
            JobReturn(overrides=point.overrides, _return_value=value, status=JobStatus.COMPLETED)
            for point, value in zip(points, ended, strict=True)
        ]


ConfigStore.instance().store(
    group="hydra/launcher",
    name="tapetum",
    node={"_target_": "hydra_plugins.tapetum_launcher.TapetumLauncher"},
    provider="tapetum",
)
