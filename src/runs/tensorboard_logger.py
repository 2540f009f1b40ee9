"""TensorBoard: event files in the run's directory."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from .trackers import FinishedRun, Status, as_yaml, require


class TensorBoard(TensorBoardLogger):
    """Writes `<run>/tensorboard`: figures, the config, plots and misjudged images, and a row of HParams.

    Raises ConfigError with the line to type where TensorBoard is not installed.
    """

    def __init__(self, directory: Path) -> None:
        require("tensorboard")
        super().__init__(save_dir=directory, name="tensorboard", version="", default_hp_metric=False)

    def log_hyperparams(
        self,
        params: dict[str, Any] | Namespace,
        metrics: dict[str, Any] | None = None,
        step: int | None = None,
    ) -> None:
        """The config as text at once; as a row of HParams once there are figures to put beside it."""
        super().log_hyperparams(params, metrics, step)
        if metrics is None:
            text = as_yaml(params if isinstance(params, dict) else vars(params))
            self.experiment.add_text("config", "    " + text.replace("\n", "\n    "), 0)

    def log_finished(self, finished: FinishedRun) -> None:
        """Final figures, plots and samples."""
        writer, step = self.experiment, finished.step
        self.log_hyperparams(dict(self.hparams), finished.final, step)
        for name, file in finished.pictures.items():
            with Image.open(file) as picture:
                writer.add_image(
                    f"report/{name}", np.asarray(picture.convert("RGB")), step, dataformats="HWC"
                )
        for number, sample in enumerate(finished.samples, start=1):
            writer.add_image(f"{finished.samples_are}/{number:02}", sample.image, step, dataformats="HWC")
        if finished.samples:
            listed = [f"{number}. {one.caption}" for number, one in enumerate(finished.samples, start=1)]
            writer.add_text(finished.samples_are, "\n".join(listed), step)

    def finalize(self, status: str) -> None:
        """Lightning's hook at the end of the fit, after which more is to come."""
        self.experiment.flush()

    def close(self, status: Status) -> None:
        """Close the event file."""
        super().finalize("success")  # whatever the end, hparams.yaml is written
