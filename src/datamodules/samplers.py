"""In which order the rows of an epoch come, as a function of (seed, epoch) alone.

Nothing here depends on a worker, on the order of arrival or on state that a killed process would lose. Over
several processes every rank cuts its share out of the same global batches, so that two ranks with a batch of
16 see what one process with a batch of 32 sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..images.augment import sample_seed

Rows = NDArray[np.int64]
SamplerName = Literal["class_balanced", "generator_balanced"]

_ORDER_STREAM = -1  # an index no sample has: the stream that orders the epoch


@dataclass(frozen=True)
class Shard:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1


class EpochSampler:
    """The rows of a training epoch: a permutation, or draws with replacement by weight.

    weights: float64 [len(rows)], probability of each row up to a factor; None shuffles without replacement.
    repeat: every epoch in the order of the first, for fitting a few batches again and again.
    """

    def __init__(
        self, rows: Rows, *, seed: int, weights: NDArray[np.float64] | None = None, repeat: bool = False
    ) -> None:
        self.rows = rows
        self.seed = seed
        self.repeat = repeat
        self.epoch = 0
        self.probabilities = None if weights is None else weights / weights.sum()

    def set_epoch(self, epoch: int) -> None:
        """Lightning tells the epoch before it iterates."""
        self.epoch = epoch

    def order(self) -> Rows:
        """int64 [len(rows)]: the rows of the current epoch in order."""
        epoch = 0 if self.repeat else self.epoch
        generator = np.random.default_rng(sample_seed(self.seed, epoch, _ORDER_STREAM))
        if self.probabilities is None:
            return self.rows[generator.permutation(len(self.rows))]
        return self.rows[generator.choice(len(self.rows), size=len(self.rows), p=self.probabilities)]

    def __len__(self) -> int:
        return len(self.rows)


class EpochBatchSampler:
    """Batches of (epoch, row) keys; can start in the middle of an epoch.

    The incomplete batch at the end of a shuffled epoch is left out once there is at least one full one: the
    next permutation brings its rows back, and batch normalisation is spared a batch of one.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, shard: Shard) -> None:
        self.sampler = sampler  # Lightning looks here for set_epoch
        self.batch_size = batch_size
        self.shard = shard
        self.start = 0

    def __len__(self) -> int:
        return max(1, len(self.sampler) // (self.batch_size * self.shard.world))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start, self.start = self.start, 0
        order, epoch = self.sampler.order(), self.sampler.epoch
        step = self.batch_size * self.shard.world
        for number in range(start, len(self)):
            everyone = order[number * step : (number + 1) * step]
            if len(everyone) < self.shard.world:  # fewer images than processes
                everyone = np.resize(everyone, self.shard.world)
            yield [(epoch, int(row)) for row in everyone[self.shard.rank :: self.shard.world]]


class OrderedBatchSampler:
    """Every row once, in order; a rank that comes up short repeats the last (dropped later by `index`)."""

    def __init__(self, rows: Rows, batch_size: int, shard: Shard) -> None:
        padded = np.pad(rows, (0, -len(rows) % shard.world), mode="edge") if len(rows) else rows
        self.rows = padded[shard.rank :: shard.world]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, len(self.rows), self.batch_size):
            yield [(0, int(row)) for row in self.rows[start : start + self.batch_size]]


def balanced_weights(groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [n]: weights under which every group of int64 [n] is drawn equally often."""
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1.0 / counts[inverse]
    return weights
