"""Retrieval data: images with their classes, and who is searched by whom."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..errors import ConfigError
from ..images.augment import Augment
from ..images.decode import Backend
from ..images.geometry import InputSpec
from ..indexes.roles import resolved, roles, train_gallery
from ..indexes.table import Index
from .class_batches import ClassBatchSampler, ClassSampler
from .dataset import OnBadImage
from .images import ImageDataModule
from .kept import Progress
from .loader import ImageLoader
from .reading import ImageReader, InfraredReader, Reader
from .samplers import EpochBatchSampler, EpochSampler, Rows, balanced_weights

log = logging.getLogger("tapetum")

Sampler = Literal["classes", "class_balanced"]


class RetrievalDataModule(ImageDataModule):
    """Batches of `RetrievalBatch` out of an Index with `label` and `class`.

    sampler: `classes` makes batches of batch_size / images_per_class classes with images_per_class each,
        `class_balanced` draws with replacement, None shuffles. cross_modality: half of a class's images are
        visible and half infrared, for `classes`.
    radiometry: a map of `images.infrared` from stored levels to [0, 1], None for 8-bit images as they are.
    The validation loader reads the queries of val and then the gallery that they search. The rest is
    ImageDataModule's.
    """

    def __init__(
        self,
        index: Index,
        input_spec: InputSpec,
        *,
        augment: Augment,
        seed: int,
        cache_dir: Path,
        batch_size: int = 64,
        eval_batch_size: int = 64,
        num_workers: int = 0,
        cache: Literal["none", "decoded", "features"] = "none",
        on_bad_image: OnBadImage = "raise",
        decoder: Backend = "fast",
        sampler: Sampler | None = "classes",
        images_per_class: int = 4,
        cross_modality: bool = False,
        radiometry: Any = None,
        progress: Progress | None = None,
        network: nn.Module | None = None,
        precision: str = "32-true",
    ) -> None:
        self.radiometry = radiometry
        super().__init__(
            index,
            input_spec,
            augment=augment,
            seed=seed,
            cache_dir=cache_dir,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            cache=cache,
            on_bad_image=on_bad_image,
            decoder=decoder,
            progress=progress,
            network=network,
            precision=precision,
        )
        if sampler == "classes" and batch_size % images_per_class:
            raise ConfigError(
                f"data.batch_size={batch_size} is no multiple of data.images_per_class={images_per_class}: "
                f"type data.batch_size={max(2, batch_size // images_per_class) * images_per_class}"
            )
        if sampler not in ("classes", "class_balanced", None):
            raise ConfigError(f"unknown value data.sampler={sampler}: classes, class_balanced or null")
        self.sampler = sampler
        self.images_per_class = images_per_class
        self.cross_modality = cross_modality
        self._told = False

    def reader(self) -> Reader:
        """Levels through the radiometric map, or 8-bit images; infrared rows are checked to be infrared."""
        infrared = "infrared" in self.index.codes("modality")[1]
        if not infrared and self.radiometry is None:
            return ImageReader(self.index, self.input_spec.channels, self.decoder)
        return InfraredReader(self.index, self.input_spec.channels, self.decoder, self.radiometry)

    def columns(self) -> dict[str, NDArray[np.int64]]:
        """What `RetrievalBatch` has besides images and index."""
        return {
            "labels": np.asarray(self.index.table.column("label").fill_null(-1).to_numpy(), np.int64),
            "roles": resolved(self.index),
            **{f"{name}s": self.index.codes(name)[0] for name in ("camera", "sequence")},
            "modalities": self.index.codes("modality")[0],
        }

    def train_batches(self, rows: Rows, *, repeat: bool) -> EpochBatchSampler:
        """P x K batches, draws by weight or a permutation."""
        columns = self._read_columns()
        labels = columns["labels"][rows]
        if self.sampler != "classes":
            weights = balanced_weights(labels) if self.sampler == "class_balanced" else None
            sampler = EpochSampler(rows, seed=self.seed, weights=weights, repeat=repeat)
            return EpochBatchSampler(sampler, self.batch_size, self.shard())
        shard = self.shard()
        drawn = ClassSampler(
            rows,
            labels,
            classes=self.batch_size * shard.world // self.images_per_class,
            images=self.images_per_class,
            seed=self.seed,
            modalities=columns["modalities"][rows] if self.cross_modality else None,
            repeat=repeat,
        )
        self._tell(drawn, self.batch_size * shard.world)
        return ClassBatchSampler(drawn, self.batch_size, shard)

    def _tell(self, drawn: ClassSampler, wanted: int) -> None:
        """Once, what batches will lack: classes without a pair, images where there are few classes."""
        if self._told:
            return
        self._told = True
        if drawn.alone:
            names = self.index.classes()
            few = ", ".join(names.get(label, str(label)) for label in drawn.alone[:5])
            log.warning(
                "%d classes have no pair of training images and are in no batch: %s%s",
                len(drawn.alone), few, ", …" if len(drawn.alone) > 5 else "",
            )  # fmt: skip
        if drawn.batch < wanted:
            more = -(-wanted // len(drawn.members) // self.shard().world)
            log.warning(
                "there are %d classes to draw: batches have %d images, not %d; data.images_per_class=%d "
                "data.batch_size=%d fill them",
                len(drawn.members), drawn.batch, wanted, more, more * len(drawn.members),
            )  # fmt: skip

    def val_dataloader(self) -> ImageLoader | list[ImageLoader]:
        """The queries of val and the gallery that they search; an empty list where there is no val."""
        if not len(self.index.rows("val")):
            return []
        found = roles(self.index, "val")
        return self.ordered(np.concatenate([found.queries, found.gallery]))

    def eval_rows(self, split: str) -> Rows:
        """Rows of a split; `gallery` are those of train that the other splits search."""
        return train_gallery(self.index) if split == "gallery" else super().eval_rows(split)
