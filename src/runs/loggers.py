"""Trackers beside metrics.csv: each is a function of the run's directory."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from ..errors import ConfigError


def tensorboard(directory: Path) -> Logger:
    """Event files in `<run>/tensorboard`; ConfigError with the line to type without TensorBoard."""
    try:
        return TensorBoardLogger(save_dir=directory, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "logger=tensorboard needs a package: type pip install 'tapetum[tensorboard]'"
        ) from error
