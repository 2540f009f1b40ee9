"""A DataLoader that knows how far it has been read.

Lightning stores the state of a loader that has `state_dict` and gives it back on resume; the count is of batches
that were handed out, not of those that workers have prefetched (`reference recipe`: Lightning 2.6 stateful loaders).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from .dataset import ImageDataset, LoadedBatch, identity
from .samplers import EpochBatchSampler, OrderedBatchSampler


class ImageLoader(DataLoader[Any]):
    """Batches of an ImageDataset; `bad` collects the unreadable images that were left out, row → reason."""

    def __init__(
        self,
        dataset: ImageDataset,
        batches: EpochBatchSampler | OrderedBatchSampler,
        *,
        num_workers: int,
        pin_memory: bool,
        bad: dict[int, str],
    ) -> None:
        self.bad = bad
        self._epoch = 0
        self._handed_out = 0
        super().__init__(
            dataset,
            batch_sampler=batches,  # type: ignore[arg-type]  # torch types its keys as single indices
            num_workers=num_workers,
            collate_fn=identity,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = self.batch_sampler
        if isinstance(batches, EpochBatchSampler):
            resumed = batches.start > 0 and self._epoch == batches.sampler.epoch
            batches.start = batches.start if resumed else 0
            self._epoch, self._handed_out = batches.sampler.epoch, batches.start
        loaded: LoadedBatch
        for loaded in super().__iter__():
            self.bad.update(loaded.bad)
            self._handed_out += 1
            if loaded.batch is not None:
                yield loaded.batch

    def state_dict(self) -> dict[str, int]:
        """Primitives only: the epoch and the number of its batches that were handed out."""
        return {"epoch": self._epoch, "batches": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration of the same epoch goes on behind the batches already seen."""
        if isinstance(self.batch_sampler, EpochBatchSampler):
            self._epoch = state["epoch"]
            self.batch_sampler.start = state["batches"]
