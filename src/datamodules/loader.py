"""A DataLoader that knows how far it has been read.

Lightning stores the state of a loader that has `state_dict` and gives it back on resume. The count is of
batches that were handed out, not of those that workers have prefetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..errors import DataError
from .dataset import ImageDataset, LoadedBatch, identity
from .samplers import EpochBatchSampler, OrderedBatchSampler


class ImageLoader(DataLoader[Any]):
    """Batches of an ImageDataset; `bad` collects the unreadable images that were left out, row → reason.

    A batch of which no image could be read is handed out all the same, with an empty list of images:
    Lightning counts batches to know the last one, and other processes wait for theirs.
    """

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
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=identity,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            # Starting workers draws a seed; a resumed run starts them at another time and must not feel it.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: nothing starts before the first batch is asked for, and by then Lightning has told the
        # sampler its epoch.
        batches = self.batch_sampler
        if isinstance(batches, EpochBatchSampler):
            if self._epoch != batches.sampler.epoch:
                batches.start = 0  # the state that was loaded is that of another, finished epoch
            self._epoch, self._handed_out = batches.sampler.epoch, batches.start
        loaded: LoadedBatch
        for loaded in super().__iter__():
            if loaded.failure is not None:
                raise DataError(loaded.failure)
            self.bad.update(loaded.bad)
            self._handed_out += 1
            yield loaded.batch

    def state_dict(self) -> dict[str, int]:
        """Primitives only: the epoch and the number of its batches that were handed out."""
        return {"epoch": self._epoch, "batches": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration of the same epoch goes on behind the batches already seen."""
        if isinstance(self.batch_sampler, EpochBatchSampler):
            self._epoch, self._handed_out = state["epoch"], state["batches"]
            self.batch_sampler.start = state["batches"]
