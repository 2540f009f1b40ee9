"""P x K batches: what is in them, and that they are a function of seed and epoch alone."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapetum.datamodules.class_batches import ClassBatchSampler, ClassSampler
from tapetum.datamodules.samplers import Shard
from tapetum.errors import ConfigError, DataError

LABELS = np.repeat(np.arange(6), [40, 30, 20, 10, 3, 1])
ROWS = np.arange(1000, 1000 + len(LABELS))


def label_of(row):
    return int(LABELS[row - 1000])


def batches(sampler, batch_size=8, shard=None):
    return [[row for _, row in keys] for keys in ClassBatchSampler(sampler, batch_size, shard or Shard())]


def sampler(**changes):
    return ClassSampler(ROWS, LABELS, **{"classes": 2, "images": 4, "seed": 7, **changes})


def test_a_batch_has_p_classes_with_k_different_images_each():
    found = batches(sampler())
    assert len(found) == len(ROWS) // 8  # as many as the images make
    for batch in found:
        assert len(set(batch)) == len(batch)
        counts = Counter(map(label_of, batch))
        assert len(counts) == 2
        assert all(number == (3 if label == 4 else 4) for label, number in counts.items())


def test_a_class_of_one_image_is_told_and_never_drawn():
    drawn = sampler()
    assert drawn.alone == [5]
    drawn.set_epoch(3)
    assert 5 not in {label_of(row) for batch in batches(drawn) for row in batch}


def test_an_epoch_is_as_long_as_its_images_where_classes_are_few():
    few = sampler(classes=16)  # of the five that can be drawn: batches of 20, though 64 were asked for
    assert few.batch == 20
    assert len(ClassBatchSampler(few, 64, Shard())) == len(ROWS) // 20


def test_every_image_of_a_class_comes_before_any_comes_again():
    drawn = sampler(classes=5, images=2)
    seen = [row for batch in drawn.batches(20) for row in batch.tolist() if label_of(row) == 0]
    assert len(seen) == len(set(seen)) == 40


def test_the_epoch_and_the_seed_decide_and_nothing_else():
    one, same, other = sampler(), sampler(), sampler(seed=8)
    assert batches(one) == batches(same)
    assert batches(one) != batches(other)
    same.set_epoch(1)
    assert batches(one) != batches(same)
    fixed = sampler(repeat=True)
    fixed.set_epoch(5)
    assert batches(fixed) == batches(one)


def test_a_resumed_epoch_goes_on_with_the_batch_it_was_at():
    whole = batches(sampler())
    later = ClassBatchSampler(sampler(), 8, Shard())
    later.start = 5
    assert [[row for _, row in keys] for keys in later] == whole[5:]


@settings(max_examples=20, deadline=None)
@given(world=st.integers(1, 4))
def test_processes_together_see_the_batches_of_one_with_the_larger_batch(world):
    whole = batches(sampler(classes=2 * world), 8 * world)
    shares = [batches(sampler(classes=2 * world), 8, Shard(rank, world)) for rank in range(world)]
    assert [sorted(chain(*parts)) for parts in zip(*shares, strict=True)] == [sorted(one) for one in whole]


def test_half_of_a_class_comes_from_each_modality():
    modalities = np.arange(len(LABELS)) % 2
    drawn = sampler(modalities=modalities, images=4)
    for batch in drawn.batches(10):
        for label in {label_of(row) for row in batch.tolist()} - {4}:
            own = [int(modalities[row - 1000]) for row in batch.tolist() if label_of(row) == label]
            assert Counter(own) == {0: 2, 1: 2}


def test_what_can_make_no_pairs_is_an_error():
    with pytest.raises(ConfigError, match=r"images_per_class=1: a pair takes at least 2"):
        sampler(images=1)
    with pytest.raises(ConfigError, match=r"nothing to tell apart: type data\.batch_size=8"):
        sampler(classes=1)
    with pytest.raises(ConfigError, match=r"type data\.images_per_class=4"):
        sampler(images=3, modalities=np.zeros(len(LABELS), np.int64))
    with pytest.raises(DataError, match="needs images of two modalities, and there are 1"):
        sampler(modalities=np.zeros(len(LABELS), np.int64))
    with pytest.raises(DataError, match="of 3 classes in train only 1 have two images"):
        ClassSampler(np.arange(4), np.array([0, 0, 1, 2]), classes=2, images=2, seed=0)
