"""How many processes a run has, and what a process must know of the others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment


def processes_here(trainer: Mapping[str, Any]) -> int:
    """How many processes a Trainer config asks for on one machine; ConfigError for less than one."""
    devices = trainer["devices"]
    if isinstance(devices, str) and "," in devices:
        devices = [one for one in devices.split(",") if one.strip()]
    if isinstance(devices, list) and devices:
        return len(devices)
    if devices in (-1, "-1", "auto"):
        import torch

        return max(1, torch.cuda.device_count()) if trainer["accelerator"] in ("cuda", "gpu", "auto") else 1
    if not str(devices).isdecimal() or int(devices) < 1:
        raise ConfigError(f"trainer.devices={devices} is no number of devices: type trainer.devices=1")
    return int(devices)


def world_size(trainer: Mapping[str, Any]) -> int:
    """How many processes a Trainer config asks for, on all machines together."""
    return processes_here(trainer) * int(trainer["num_nodes"])


def cluster_environment() -> ClusterEnvironment:
    """What tells Lightning who this process is, so that it asks nobody else and starts nothing itself.

    Without it Lightning takes the variables of a SLURM job for its own, and counts tasks and devices.
    """
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()


def check_started_once() -> None:
    """ConfigError where srun started this command several times: each would make a run of its own."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1 and "LOCAL_RANK" not in os.environ:
        raise ConfigError(
            f"srun started this command {tasks} times, and each would train a run of its own: type srun "
            f"--ntasks=1 …, since the processes of a run are started from inside it; several machines are "
            f"-m launcher=slurm trainer.num_nodes=2"
        )


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
