"""A trained network that images are shown to: what it is and how it is asked, the same for every task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import lightning
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from .feeding import cores
from .files import Progress, Written, write_parts
from .inputs import Images, find_images
from .items import InfraredItem, Item
from .output import check_output
from .stream import Answering, Bad, Part, stream
from .verdicts import Rule, Threshold


@dataclass(frozen=True)
class Trained(ABC):
    """A module with its config and metadata (epoch, step, metrics, best value, the Index's fingerprint).

    What the methods take in common. batch_size: images at a time, None for the config's data.eval_batch_size.
    workers: threads that read files, None for one a core. threshold: where a detector's verdict changes.
    Precision and decoder are those of the config.
    """

    module: lightning.LightningModule = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    metadata: dict[str, Any]
    device: torch.device

    def predict(
        self,
        items: Sequence[Item | InfraredItem],
        batch_size: int | None = None,
        *,
        workers: int | None = None,
        threshold: Threshold | None = None,
    ) -> pa.Table:
        """`item` and the task's columns of images, in order.

        items: paths (`photos.tar::a.jpg` is a member of an archive), PIL images as a file of the same pixels
        would be read, or arrays. Raises DataError naming the first item that can't be read.
        """
        tables = [self.answering(threshold).schema("item").empty_table()]
        for part in self.stream(items, batch_size, workers=workers, threshold=threshold):
            if part.bad:
                raise DataError(_unusable(part.bad[0], items[part.bad[0].number]))
            tables.append(part.table)
        return pa.concat_tables(tables).combine_chunks()

    def stream(
        self,
        items: Iterable[Item | InfraredItem],
        batch_size: int | None = None,
        *,
        workers: int | None = None,
        threshold: Threshold | None = None,
    ) -> Generator[Part]:
        """The same as it comes, of any number of items; they are taken when needed, and memory stays flat.

        A part has the rows of some items, and the number, name and reason of those that can't be read.
        """
        check_several(items, "predict")
        data = self.config["data"]
        size = data["eval_batch_size"] if batch_size is None else batch_size
        threads = cores() if workers is None else workers
        if size < 1 or threads < 0:
            raise ConfigError(f"batch_size={size} must be at least 1, and workers={threads} at least 0")
        return stream(
            self.module,
            items,
            self.answering(threshold),
            device=self.device,
            precision=str(self.config["trainer"]["precision"]),
            batch_size=size,
            threads=threads,
        )

    def predict_files(
        self,
        inputs: str | Path | Sequence[str | Path] | Images,
        output: str | Path,
        batch_size: int | None = None,
        *,
        workers: int | None = None,
        threshold: Threshold | None = None,
        progress: Progress | None = None,
    ) -> Written:
        """Predict all images of the inputs and write `path` and the task's columns.

        inputs: files, folders, patterns, lists or archives, see `find_images`, or what it found. output:
        .csv, .json or .parquet, written whole or not at all. Images that can't be read are left out and
        listed with the reason in `<output>.unreadable.csv`. progress: called with (done, all) images.

        Raises DataError where an input holds no image, where none can be read, and where nothing can be
        written.
        """
        check_output(output)
        images = inputs if isinstance(inputs, Images) else find_images(inputs)
        parts = self.stream(images.paths, batch_size, workers=workers, threshold=threshold)
        schema = self.answering(threshold).schema("path")
        return write_parts(parts, schema, images, output, progress)

    def without_threshold(self) -> Self:
        """The same without a threshold that validation chose."""
        return self

    @abstractmethod
    def embed(
        self, images: Sequence[Item | InfraredItem], batch_size: int = 32, *, workers: int | None = None
    ) -> NDArray[np.float32]:
        """float32 [N, D] vectors of length 1, in order; ConfigError from a network that makes none."""

    @abstractmethod
    def rule(self, threshold: Threshold | None = None) -> Rule:
        """What makes verdicts of logits; ConfigError from a network that gives none."""

    @abstractmethod
    def described(self, threshold: Threshold | None = None) -> str:
        """What the answers mean, in a line for whoever reads the table."""

    @abstractmethod
    def answering(self, threshold: Threshold | None = None) -> Answering:
        """How images are read and what is made of them."""


def check_several(items: object, method: str) -> None:
    """DataError for a single item where several are expected."""
    if isinstance(items, str | Path) or (isinstance(items, np.ndarray) and items.ndim != 4):
        done = {"predict": "predicted", "embed": "embedded", "caption": "captioned", "ask": "asked about"}
        raise DataError(f"several items are {done[method]}: put a single one into a list, {method}([item])")


def _unusable(bad: Bad, item: object) -> str:
    name = bad.name if isinstance(item, str | Path) else type(item).__name__
    return f"item {bad.number} ({name}) can't be used: {bad.reason}"
