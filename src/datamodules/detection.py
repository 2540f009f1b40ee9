"""Detection data: uint8 images with labels and generators, split by split."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..errors import DataError
from ..images.augment import Augment
from ..images.decode import Backend
from ..images.geometry import InputSpec
from ..indexes.table import Index
from .dataset import OnBadImage
from .images import ImageDataModule
from .kept import Progress
from .samplers import EpochBatchSampler, EpochSampler, Rows, SamplerName, balanced_weights


class DetectionDataModule(ImageDataModule):
    """Batches of `DetectionBatch` out of an Index with a `label` column.

    sampler: None shuffles, `class_balanced` and `generator_balanced` draw with replacement. The rest is
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
        batch_size: int = 32,
        eval_batch_size: int = 64,
        num_workers: int = 0,
        cache: Literal["none", "decoded", "features"] = "none",
        on_bad_image: OnBadImage = "raise",
        decoder: Backend = "fast",
        sampler: SamplerName | None = None,
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
        self.sampler = sampler
        self._labels = labels(index)
        self._generators = index.codes("generator")[0]

    def columns(self) -> dict[str, NDArray[np.int64]]:
        """Labels and generators, as `DetectionBatch` has them."""
        return {"labels": self._labels, "generators": self._generators}

    def train_batches(self, rows: Rows, *, repeat: bool) -> EpochBatchSampler:
        """A permutation of the rows, or draws by weight."""
        weights = None
        if self.sampler is not None:
            weights = draw_weights(self.sampler, self._labels[rows], self._generators[rows])
        sampler = EpochSampler(rows, seed=self.seed, weights=weights, repeat=repeat)
        return EpochBatchSampler(sampler, self.batch_size, self.shard())


def draw_weights(
    sampler: SamplerName, labels: NDArray[np.int64], generators: NDArray[np.int64]
) -> NDArray[np.float64]:
    """float64 [n]: how likely each row is drawn, of rows with labels and generators int64 [n]."""
    if sampler == "class_balanced":
        return balanced_weights(labels)
    # Real images are half of what is drawn, and the generators share the other half equally.
    weights = np.zeros(len(labels))
    real = labels == 0
    if not real.any() or real.all():
        raise DataError("data.sampler=generator_balanced needs real and generated images in the train split")
    weights[real] = 0.5 / real.sum()
    shares = balanced_weights(generators[~real])
    weights[~real] = 0.5 * shares / shares.sum()
    return weights


def labels(index: Index) -> NDArray[np.int64]:
    """int64 [n]: 0 real, 1 generated, -1 where the row carries no label."""
    return np.asarray(index.table.column("label").fill_null(-1).to_numpy(), dtype=np.int64)
