"""What Lightning's Trainer gets from the config: callbacks and the profiler; and the silence around it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback


def configured_callbacks(config: Mapping[str, Any], checkpoints: Path, monitor: str | None) -> list[Callback]:
    """What `callbacks` lists; without a monitor, those that need one are left out.

    checkpoints: the folder that they are written to.
    """
    from ..config.build import build
    from .finders import is_finder

    found: list[Callback] = []
    for name, node in config["callbacks"].items():
        if node is None or is_finder(node) or (monitor is None and "monitor" in node):
            continue
        runtime = {"directory": checkpoints, "monitor": monitor, "mode": config["train"]["mode"]}
        built = build(node, allow=config["allow_targets"], **(runtime if name == "checkpoint" else {}))
        found += built if isinstance(built, list) else [built]
    return found


def profiler(choice: Any, directory: Path) -> Any:
    """Lightning's profilers by name, writing into the run instead of a log that nobody sees."""
    from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler

    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    if not isinstance(choice, str):
        return choice
    if choice not in kinds:
        raise ConfigError(f"unknown value trainer.profiler={choice}: {', '.join(kinds)}")
    return kinds[choice](dirpath=directory, filename="profile")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's tips and its guesses about loaders stay out of the way of our own lines."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*`LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*log_every_n_steps.*")
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode at the start.*")
        warnings.filterwarnings("ignore", message=".*SWA is currently only supported every epoch.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*torch.distributed.nn.functional.*")
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec.*")
        # what modules log has been summed over the processes before
        warnings.filterwarnings("ignore", message=".*`self\\.log\\(.*sync_dist=True.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
