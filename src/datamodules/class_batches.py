"""Batches of P classes with K images each, as a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..images.augment import sample_seed
from .samplers import EpochBatchSampler, EpochSampler, Rows, Shard

_CLASS_STREAM = -2  # an index no sample has, and not that of a plain epoch's order


class ClassSampler(EpochSampler):
    """The P x K batches of an epoch: as many as the images make, each of P different classes.

    rows, labels: int64 [n] each, what is learnt from and its classes. classes, images: P and K.
    modalities: int64 [n]; half of a class's K images are then of each modality.
    repeat: every epoch like the first.

    A class's images come in the order of a permutation, which starts anew when it is used up, so no image is
    twice in a batch: a class with fewer than K images gives what it has, and one without a pair (of both
    modalities, where there are) is left out, see `alone`. Raises DataError where fewer than two classes are
    left.
    """

    def __init__(
        self,
        rows: Rows,
        labels: NDArray[np.int64],
        *,
        classes: int,
        images: int,
        seed: int,
        modalities: NDArray[np.int64] | None = None,
        repeat: bool = False,
    ) -> None:
        super().__init__(rows, seed=seed, repeat=repeat)
        if images < 2:
            raise ConfigError(f"data.images_per_class={images}: a pair takes at least 2")
        if classes < 2:
            raise ConfigError(
                f"batches of {classes} class with data.images_per_class={images} have nothing to tell apart: "
                f"type data.batch_size={2 * images}, or fewer images of each class"
            )
        if modalities is not None and images % 2:
            raise ConfigError(
                f"data.images_per_class={images} is odd, and data.cross_modality=true takes half of them "
                f"from each modality: type data.images_per_class={images + 1}"
            )
        self.classes = classes
        self.images = images
        self.members: dict[int, list[Rows]] = {}
        """Label → its rows, in one group or in one for each modality; classes that can be drawn."""
        self.alone: list[int] = []
        """Labels of the classes that have no pair."""
        kinds = [None] if modalities is None else sorted(set(modalities.tolist()) - {-1})
        if modalities is not None and len(kinds) != 2:
            raise DataError(
                f"data.cross_modality=true needs images of two modalities, and there are {len(kinds)}: type "
                "data.cross_modality=false"
            )
        for label in np.unique(labels).tolist():
            own = labels == label
            groups = [rows[own] if kind is None else rows[own & (modalities == kind)] for kind in kinds]
            needed = 2 if modalities is None else 1
            if min(len(group) for group in groups) >= needed:
                self.members[int(label)] = groups
            else:
                self.alone.append(int(label))
        if len(self.members) < 2:
            raise DataError(
                f"of {len(self.members) + len(self.alone)} classes in train only {len(self.members)} have "
                "two images to make a pair of, and at least two classes are needed to tell apart"
            )

    @property
    def batch(self) -> int:
        """Images of a batch at most: K of P classes, or of all where there are fewer."""
        return min(self.classes, len(self.members)) * self.images

    def batches(self, number: int) -> Iterator[Rows]:
        """The first so many batches of the current epoch, int64 rows [at most P * K] each."""
        epoch = 0 if self.repeat else self.epoch
        generator = np.random.default_rng(sample_seed(self.seed, epoch, _CLASS_STREAM))
        names = np.array(list(self.members))
        decks = {label: [_Deck(group, generator) for group in self.members[label]] for label in self.members}
        for _ in range(number):
            chosen = generator.permutation(names)[: self.classes]
            yield np.concatenate(
                [
                    deck.draw(self.images // len(decks[label]))
                    for label in chosen.tolist()
                    for deck in decks[label]
                ]
            )


class _Deck:
    """A class's rows in random order, shuffled again when they are used up."""

    def __init__(self, rows: Rows, generator: np.random.Generator) -> None:
        self.rows = rows
        self.generator = generator
        self.order = rows[:0]

    def draw(self, number: int) -> Rows:
        """So many different rows, or all that there are."""
        number = min(number, len(self.rows))
        if len(self.order) < number:  # what is left of the old order would be drawn twice
            self.order = self.rows[self.generator.permutation(len(self.rows))]
        drawn, self.order = self.order[:number], self.order[number:]
        return drawn


class ClassBatchSampler(EpochBatchSampler):
    """`ClassSampler`'s batches as (epoch, row) keys, cut among the processes; can start in the middle.

    batch_size: of one process. Together they see P x K batches that are as many times larger, so that a loss
    over all of them is that of one process with the larger batch.
    """

    def __init__(self, sampler: ClassSampler, batch_size: int, shard: Shard) -> None:
        super().__init__(sampler, batch_size, shard)
        self.class_sampler = sampler

    def __len__(self) -> int:
        return max(1, len(self.sampler) // self.class_sampler.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start, self.start = self.start, 0
        epoch, rank, world = self.sampler.epoch, self.shard.rank, self.shard.world
        for number, everyone in enumerate(self.class_sampler.batches(len(self))):
            if number >= start:
                yield [(epoch, int(row)) for row in everyone[rank::world]]
