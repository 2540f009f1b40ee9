"""Images out of an Index, split by split; what the DataModules of all tasks have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ConfigError
from ..images.augment import Augment
from ..images.decode import Backend
from ..images.geometry import InputSpec
from ..indexes.table import Index
from .captions import Columns
from .dataset import ImageDataset, OnBadImage
from .decoded import DecodedCache, decoded_cache
from .features import FeatureCache, feature_cache, feature_problems, frozen_features
from .kept import Progress
from .loader import ImageLoader
from .reading import ImageReader, Reader
from .samplers import (
    EpochBatchSampler,
    OrderedBatchSampler,
    Rows,
    Shard,
)

Split = Literal["train", "val", "test"]


class ImageDataModule(lightning.LightningDataModule):
    """Batches of images and of columns of an Index; a task says which columns, and in which order.

    augment is used on the training split only; evaluation sees the plain geometry of input_spec.
    cache: `decoded` keeps pixels, `features` what the frozen part of a network returns; batches then have
        `features` instead of images.
    network: whose features these are (a `backbones.frozen.FrozenFeatures`), with its final frozen weights and
        on its device by the time that a loader is asked for. precision: of the run, as the Trainer names it.
    """

    def __init__(
        self,
        index: Index,
        input_spec: InputSpec,
        *,
        augment: Augment,
        seed: int,
        cache_dir: Path,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        num_workers: int = 0,
        cache: Literal["none", "decoded", "features"] = "none",
        on_bad_image: OnBadImage = "raise",
        decoder: Backend = "fast",
        progress: Progress | None = None,
        network: nn.Module | None = None,
        precision: str = "32-true",
    ) -> None:
        super().__init__()
        if cache == "features":
            problems = feature_problems(network, augment)
            if problems:
                raise ConfigError(problems)
        self.index = index
        self.input_spec = input_spec
        self.augment = augment
        self.seed = seed
        self.cache_dir = cache_dir
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.cache = cache
        self.on_bad_image: OnBadImage = on_bad_image
        self.decoder: Backend = decoder
        self.progress = progress
        self.network = network
        self.precision = precision
        self.bad: dict[int, str] = {}
        """Rows that could not be read and were left out, with the reason; filled while loaders are read."""
        self._cache_key: str | None = None
        self._columns: dict[str, NDArray[np.int64]] | None = None

    def reader(self) -> Reader:
        """What makes an image of a row, before geometry."""
        return ImageReader(self.index, self.input_spec.channels, self.decoder)

    def columns(self) -> dict[str, NDArray[np.int64]]:
        """int64 [len(index)] each, which batches have under these names besides images and index."""
        raise NotImplementedError

    def texts_of(self, *, train: bool) -> Columns | None:
        """What batches have besides images, index and columns; None for nothing."""
        return None

    def features_of(self, batch: Mapping[str, Any], device: torch.device) -> Tensor:
        """float [B, …]: what the frozen part of the network makes of a batch with `images`."""
        images, network = batch["images"], self.network
        moved = [one.to(device) for one in images] if isinstance(images, list) else images.to(device)
        return frozen_features(network, moved)  # type: ignore[arg-type]  # `feature_problems` has made sure

    def feature_texts(self) -> Columns | None:
        """What `features_of` reads of a batch besides its images; None for nothing."""
        return None

    def feature_key(self) -> str:
        """What decides the features besides the images: the frozen weights, where they are cut."""
        network: Any = self.network
        key: str = network.cache_key()
        return key

    def train_batches(self, rows: Rows, *, repeat: bool) -> EpochBatchSampler:
        """The batches of an epoch over the rows of the train split.

        repeat: every epoch like the first, since overfit_batches takes the first batches of each.
        """
        raise NotImplementedError

    def train_dataloader(self) -> ImageLoader:
        """Shuffled, augmented, resumable in the middle of an epoch."""
        rows = self.index.rows("train")
        repeat = self.trainer is not None and bool(self.trainer.overfit_batches)  # type: ignore[attr-defined]
        return self._loader(self.train_batches(rows, repeat=repeat), rows, self.augment)

    def val_dataloader(self) -> ImageLoader | list[ImageLoader]:
        """The validation split in order; an empty list where there is none."""
        return self.eval_dataloader("val") if len(self.index.rows("val")) else []

    def eval_dataloader(self, split: str, *, shard: Shard | None = None) -> ImageLoader:
        """Any split in order, without augmentation: what validation and inference read."""
        return self.ordered(self.eval_rows(split), shard)

    def eval_rows(self, split: str) -> Rows:
        """int64 [n]: the rows that `eval_dataloader` reads."""
        return self.index.rows(split)  # type: ignore[arg-type]

    def ordered(self, rows: Rows, shard: Shard | None = None) -> ImageLoader:
        """Rows in their order, each once, without augmentation."""
        batches = OrderedBatchSampler(rows, self.eval_batch_size, shard or self.shard())
        return self._loader(batches, rows, Augment())

    def _loader(
        self, batches: EpochBatchSampler | OrderedBatchSampler, rows: Rows, augment: Augment
    ) -> ImageLoader:
        decoded = None
        if self.cache == "decoded":
            decoded = decoded_cache(
                self.reader(), self.input_spec, augment, cache=self.cache_dir, progress=self.progress
            )
        features = self._features(batches, rows, augment) if self.cache == "features" else None
        texts = self.texts_of(train=isinstance(batches, EpochBatchSampler))
        dataset = self._dataset(augment, self.on_bad_image, decoded, features, texts)
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return ImageLoader(dataset, batches, num_workers=self.num_workers, pin_memory=on_gpu, bad=self.bad)

    def _dataset(
        self,
        augment: Augment,
        on_bad_image: OnBadImage,
        decoded: DecodedCache | None = None,
        features: FeatureCache | None = None,
        texts: Columns | None = None,
    ) -> ImageDataset:
        return ImageDataset(
            self.reader(),
            self.input_spec,
            augment,
            seed=self.seed,
            columns=self._read_columns(),
            on_bad_image=on_bad_image,
            decoded=decoded,
            features=features,
            texts=texts,
        )

    def _features(
        self, batches: EpochBatchSampler | OrderedBatchSampler, rows: Rows, augment: Augment
    ) -> FeatureCache:
        """The cache with the rows that these batches come from, in every epoch and every process."""
        network: Any = self.network
        few = 0 if self.trainer is None else int(self.trainer.fast_dev_run)  # type: ignore[attr-defined]
        if few:  # only so many batches will be looked at
            rows = np.unique([row for keys in islice(batches, few) for _, row in keys])

        def read(rows: Rows, bad: dict[int, str]) -> Iterable[Mapping[str, Any]]:
            missing = OrderedBatchSampler(rows, self.eval_batch_size, Shard())
            dataset = self._dataset(augment, "skip", texts=self.feature_texts())
            return ImageLoader(dataset, missing, num_workers=self.num_workers, pin_memory=False, bad=bad)

        self._cache_key = self._cache_key or self.feature_key()
        return feature_cache(
            self.reader(),
            self.input_spec,
            augment,
            network,
            rows,
            read=read,
            features_of=self.features_of,
            weights=self._cache_key,
            precision=self.precision,
            cache=self.cache_dir,
            progress=self.progress,
        )

    def _read_columns(self) -> dict[str, NDArray[np.int64]]:
        if self._columns is None:
            self._columns = self.columns()
        return self._columns

    def shard(self) -> Shard:
        """This process among those that train together."""
        if self.trainer is None:
            return Shard()
        return Shard(self.trainer.global_rank, self.trainer.world_size)
