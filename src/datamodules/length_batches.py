"""Batches of captions that are about equally long, so that few of their tokens are padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..images.augment import sample_seed
from .samplers import EpochBatchSampler, EpochSampler, Rows, Shard

_BUCKET_STREAM = -4  # an index no sample has, and not that of the epoch's order
_BATCHES = 32  # a batch's captions are neighbours in length among those of so many batches

Lengths = Callable[[int, Rows], NDArray[np.int64]]


class LengthBatchSampler(EpochBatchSampler):
    """An epoch's permutation, sorted by length within stretches of 32 batches; these in random order again.

    lengths: (epoch, rows) to the tokens of each row's caption in that epoch. All of it is a function of
    (seed, epoch), and ranks cut their shares out of the same batches, as in EpochBatchSampler.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, shard: Shard, lengths: Lengths) -> None:
        super().__init__(sampler, batch_size, shard)
        self.lengths = lengths

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start, self.start = self.start, 0
        epoch, step = self.sampler.epoch, self.batch_size * self.shard.world
        drawn = 0 if self.sampler.repeat else epoch
        batches = self._batches(drawn, step)
        generator = np.random.default_rng(sample_seed(self.sampler.seed, drawn, _BUCKET_STREAM))
        for number in generator.permutation(len(batches))[start:].tolist():
            everyone = batches[number]
            if len(everyone) < self.shard.world:
                everyone = np.resize(everyone, self.shard.world)
            yield [(drawn, int(row)) for row in everyone[self.shard.rank :: self.shard.world]]

    def _batches(self, epoch: int, step: int) -> list[Rows]:
        order = self.sampler.order()
        if len(order) >= step:
            order = order[: len(self) * step]
        lengths = self.lengths(epoch, order)
        found: list[Rows] = []
        for begin in range(0, len(order), step * _BATCHES):
            part = slice(begin, begin + step * _BATCHES)
            # Stable: rows of one length stay in the order of the permutation.
            sorted_rows = order[part][np.argsort(lengths[part], kind="stable")]
            found += [sorted_rows[at : at + step] for at in range(0, len(sorted_rows), step)]
        return found
