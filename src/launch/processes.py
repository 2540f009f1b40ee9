"""A job of several processes: torchrun starts them, and each reads the run's directory.

Lightning would start them by repeating the command line, which under a Hydra sweep silently trains every
rank with other hyper-parameters; here the ranks compose nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, TrainingError
from ..runs.directory import RunDirectory


def world_size(trainer: Mapping[str, Any]) -> int:
    """How many processes a Trainer config asks for on this machine; ConfigError for several machines."""
    if trainer["num_nodes"] != 1:
        raise ConfigError(
            f"trainer.num_nodes={trainer['num_nodes']}: one machine is what can be launched so far"
        )
    devices = trainer["devices"]
    if isinstance(devices, list):
        return len(devices)
    if devices in (-1, "auto"):
        import torch

        return max(1, torch.cuda.device_count()) if trainer["accelerator"] in ("cuda", "gpu", "auto") else 1
    return int(devices)


def torchrun(run: RunDirectory, trainer: Mapping[str, Any], checkpoint: Path | None) -> None:
    """Run a prepared run directory on several processes; TrainingError where one of them failed."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(world_size(trainer)), "-m", "tapetum", "job", str(run.path),
    ]  # fmt: skip
    if checkpoint is not None:
        command.append(str(checkpoint))
    code = subprocess.call(command)
    if code:
        raise TrainingError(f"a process of {run.path} ended with exit code {code}; its error stands above")
