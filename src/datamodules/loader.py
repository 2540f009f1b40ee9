"""A DataLoader that knows how far it has been read.

Lightning stores the state of a loader that has `state_dict` and gives it back on resume. The count is of
batches that were handed out, not of those that workers have prefetched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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

    num_workers: threads where the augmentation is deterministic, since the codecs release the interpreter's
        lock and a batch needs no way between processes; worker processes where it draws, since what it draws
        from (torch's, numpy's and Python's generators) belongs to the process.
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
        self._batches = batches
        self._epoch = 0
        self._handed_out = 0
        self._threads = num_workers if dataset.augment.deterministic else 0
        num_workers -= self._threads
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
        for loaded in self._threaded() if self._threads else super().__iter__():
            if loaded.failure is not None:
                raise DataError(loaded.failure)
            self.bad.update(loaded.bad)
            self._handed_out += 1
            yield loaded.batch

    def _threaded(self) -> Iterator[LoadedBatch]:
        """Two batches a thread under way, handed out in order."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="images")
        ahead: deque[Future[LoadedBatch]] = deque()
        try:
            for keys in self._batches:
                ahead.append(pool.submit(self.dataset.__getitems__, keys))  # type: ignore[attr-defined]
                if len(ahead) > 2 * self._threads:
                    yield self._pinned(ahead.popleft().result())
            while ahead:
                yield self._pinned(ahead.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)

    def _pinned(self, loaded: LoadedBatch) -> LoadedBatch:
        return loaded.pin_memory() if self.pin_memory else loaded

    def state_dict(self) -> dict[str, int]:
        """Primitives only: the epoch and the number of its batches that were handed out."""
        return {"epoch": self._epoch, "batches": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration of the same epoch goes on behind the batches already seen."""
        if isinstance(self.batch_sampler, EpochBatchSampler):
            self._epoch, self._handed_out = state["epoch"], state["batches"]
            self.batch_sampler.start = state["batches"]
