"""Captioning data: uint8 images with what is said of them, every image once a batch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..errors import ConfigError
from ..images.augment import Augment
from ..images.decode import Backend
from ..images.geometry import InputSpec
from ..indexes.table import Index
from .captions import CaptionColumns, CaptionDraw, Captions, Columns, Encode, token_lengths
from .dataset import OnBadImage
from .images import ImageDataModule
from .kept import Progress
from .length_batches import LengthBatchSampler
from .samplers import EpochBatchSampler, EpochSampler, Rows

log = logging.getLogger("tapetum")


class CaptioningDataModule(ImageDataModule):
    """Batches of `CaptioningBatch` out of an Index with `captions`.

    An image is encoded once, whatever the number of its captions. encode: the network's `encode_fn()`, None
        for one that can't read yet: batches are then looked at, and not learnt from.
    captions: `one` learns from one caption of an image in each epoch, `all` from all; validation always looks
        at all. length_buckets: captions of about one length share a batch.
    Batches that are learnt from are never smaller for an image that can't be read: it stops the run, or, with
    on_bad_image=skip, is left out, counted and listed. The rest is ImageDataModule's.
    """

    def __init__(
        self,
        index: Index,
        input_spec: InputSpec,
        *,
        encode: Encode | None,
        augment: Augment,
        seed: int,
        cache_dir: Path,
        batch_size: int = 8,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        cache: Literal["none", "decoded", "features"] = "none",
        on_bad_image: OnBadImage = "raise",
        decoder: Backend = "fast",
        sampler: str | None = None,
        captions: Captions = "one",
        length_buckets: bool = True,
        progress: Progress | None = None,
        network: nn.Module | None = None,
        precision: str = "32-true",
    ) -> None:
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
        if captions not in ("one", "all"):
            raise ConfigError(f"unknown value data.captions={captions}: one, all")
        if sampler is not None:
            raise ConfigError(f"data.sampler={sampler} draws classes, and captions have none: null")
        self.encode = encode
        self.captions: Captions = captions
        self.length_buckets = length_buckets
        self._lengths: dict[int, NDArray[np.int64]] = {}
        flips = [name for name in map(_named, (*augment.before_crop, *augment.after_crop)) if _mirrors(name)]
        if flips:
            log.warning(
                "the augmentation mirrors images (%s), and captions say left and right: type augment=none, "
                "or leave it where none of yours do",
                ", ".join(flips),
            )

    def columns(self) -> dict[str, NDArray[np.int64]]:
        """None: what batches have besides images and index are texts."""
        return {}

    def texts_of(self, *, train: bool) -> Columns:
        """The captions that batches carry."""
        mode: Captions = self.captions if train else "all"
        return CaptionColumns(self.encode, self._draw(mode))

    def train_batches(self, rows: Rows, *, repeat: bool) -> EpochBatchSampler:
        """A permutation, captions of about one length together."""
        sampler = EpochSampler(rows, seed=self.seed, repeat=repeat)
        if not self.length_buckets or self.encode is None:
            return EpochBatchSampler(sampler, self.batch_size, self.shard())
        if not self._lengths:
            found = token_lengths(self.encode, self.index, rows)
            self._lengths = dict(zip(rows.tolist(), found, strict=True))
        return LengthBatchSampler(sampler, self.batch_size, self.shard(), self._lengths_in)

    def _lengths_in(self, epoch: int, rows: Rows) -> NDArray[np.int64]:
        """The longest caption that each row has in an epoch's batches."""
        draw = self._draw(self.captions)
        of_rows = [(row, self._lengths[row]) for row in rows.tolist()]
        if self.captions == "all":
            return np.array([int(lengths.max()) for _, lengths in of_rows], np.int64)
        return np.array(
            [int(lengths[draw.number(epoch, row, len(lengths))]) for row, lengths in of_rows], np.int64
        )

    def _draw(self, mode: Captions) -> CaptionDraw:
        return CaptionDraw(self.index.table.column("captions"), mode, self.seed)


def _named(transform: object) -> str:
    return type(transform).__name__


def _mirrors(name: str) -> bool:
    return "HorizontalFlip" in name
