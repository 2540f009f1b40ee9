"""What the verbs ask of a task."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image

from ..errors import TapetumError
from ..evaluation.detection import Interval
from ..evaluation.paired import Judged
from ..images.decode import Backend
from ..images.sources import read_image
from ..indexes.table import Index
from ..reports.run import RunReport
from ..runs.trackers import Sample

log = logging.getLogger("tapetum")

_LARGEST = 512  # pixels, the longer side of a sample


@dataclass(frozen=True)
class Predicted:
    """A Predictions table, and how fast it came."""

    table: pa.Table
    images_per_second: float


class Task(ABC):
    """A task in one place, for those who must not know which one it is."""

    samples_are = "most_confidently_wrong"
    """Which images `samples` gives."""

    @abstractmethod
    def facts(self, index: Index) -> dict[str, Any]:
        """What each checkpoint says of the data, besides the Index's fingerprint; plain values."""

    @abstractmethod
    def problems(self, config: Mapping[str, Any], index: Index) -> list[str]:
        """What keeps this Index from being learnt from as the config has it."""

    def settled(self, config: dict[str, Any], index: Index) -> dict[str, Any]:
        """The config as this Index decides it, before a run is made of it."""
        return config

    def fits(self, config: Mapping[str, Any], build: Callable[[], Any], index: Index) -> list[str]:
        """What keeps the network, which `build` makes on the meta device, from reading this Index."""
        return []

    def learnt_from(self, index: Index) -> dict[str, Any]:
        """Arguments of the task's module that the training data decide."""
        return {}

    def adjust(self, module: Any, config: Mapping[str, Any]) -> None:
        """Give a trained module what a config may say anew of how it answers; nothing by default."""
        return

    def parts(self, index: Index, splits: Sequence[str]) -> list[str]:
        """The tables to predict for these splits, in order; splits without images are left out."""
        return [split for split in splits if len(index.rows(split))]  # type: ignore[arg-type]

    @abstractmethod
    def predict(
        self, module: Any, batches: Any, index: Index, part: str, *, device: torch.device, precision: str
    ) -> Predicted:
        """The table of one part, of the batches of `datamodule.eval_dataloader(part)`."""

    @abstractmethod
    def figures(
        self, predictions: Mapping[str, pa.Table], module: Any, *, known: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Flat metrics of all tables.

        known: figures of the run whose weights are evaluated elsewhere; None where they are chosen here.
        """

    @abstractmethod
    def read(self, path: Path) -> pa.Table:
        """A Predictions table of this task from its file, checked; raises DataError."""

    @abstractmethod
    def report(self, source: RunReport, out: Path) -> Path:
        """Write the report of a run; the page's path."""

    def picture(self, root: Path, path: str, decoder: Backend) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, 3]: the image at `path` as people look at it; raises what `read_image` does."""
        pixels = read_image(root, path, channels=3, backend=decoder)
        return pixels.permute(1, 2, 0).numpy()

    @abstractmethod
    def tables(
        self, metrics: Mapping[str, float], config: Mapping[str, Any], *, monitor: str | None, title: str
    ) -> list[Any]:
        """What a run ends with on the terminal, as rich renderables."""

    @abstractmethod
    def samples(
        self, predictions: Mapping[str, pa.Table], index: Index, config: Mapping[str, Any]
    ) -> list[Sample]:
        """Images worth looking at, for trackers."""

    def tabulate(
        self,
        predictions: Mapping[str, pa.Table],
        metrics: Mapping[str, float],
        config: Mapping[str, Any],
        directory: Path,
        *,
        title: str,
        width: int,
    ) -> list[Any]:
        """Write the tables of an evaluation beside its figures; what to print of them: those of a run."""
        return self.tables(metrics, config, monitor=None, title=title)

    def thumbnail(self, index: Index, row: int, config: Mapping[str, Any]) -> npt.NDArray[np.uint8] | None:
        """uint8 [h, w, 3], at most 512 wide and high: a row's picture; None, and a warning, without."""
        root, path = index.location(row)
        try:
            image = Image.fromarray(self.picture(root, path, config["data"]["decoder"]))
        except (TapetumError, OSError) as error:
            log.warning("%s is not shown to the trackers: %s", path, error)
            return None
        image.thumbnail((_LARGEST, _LARGEST))
        return np.asarray(image)

    def intervals(
        self, predictions: Mapping[str, pa.Table], metrics: Mapping[str, float], config: Mapping[str, Any]
    ) -> dict[str, Interval]:
        """95 % bounds of figures, by their names."""
        return {}

    def judged(self, predictions: Mapping[str, pa.Table], metrics: Mapping[str, float]) -> Judged | None:
        """The test images with what became of them, to compare runs image by image."""
        return None


def class_counts(index: Index) -> list[int]:
    """Training images of each label from 0 to the largest in the Index, at least of 0 and 1."""
    labels = index.table.column("label").fill_null(-1).to_numpy()
    train = labels[index.rows("train")]
    counts: list[int] = np.bincount(
        train[train >= 0], minlength=max(2, int(labels.max(initial=-1)) + 1)
    ).tolist()
    return counts
