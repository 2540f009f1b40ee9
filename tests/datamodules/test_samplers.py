import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapetum.datamodules.samplers import (
    EpochBatchSampler,
    EpochSampler,
    OrderedBatchSampler,
    Shard,
    balanced_weights,
)


def sampler(count: int = 40, *, seed: int = 1, epoch: int = 0, **more) -> EpochSampler:
    made = EpochSampler(np.arange(100, 100 + count), seed=seed, **more)
    made.set_epoch(epoch)
    return made


def rows(batches) -> list[list[int]]:
    return [[row for _, row in batch] for batch in batches]


@given(seed=st.integers(0, 2**32), epoch=st.integers(0, 1000), count=st.integers(1, 60))
def test_an_epoch_is_a_permutation_of_its_rows(seed, epoch, count):
    assert sorted(sampler(count, seed=seed, epoch=epoch).order()) == list(range(100, 100 + count))


def test_permutation_depends_on_seed_and_epoch_alone():
    orders = {
        (seed, epoch): tuple(sampler(seed=seed, epoch=epoch).order()) for seed in (1, 2) for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    used = sampler()
    for epoch in (1, 0, 1):  # whatever was drawn before
        used.set_epoch(epoch)
        np.random.seed(epoch)
        assert tuple(used.order()) == orders[1, epoch]


def test_permutation_is_the_same_in_another_process():
    code = (
        "import numpy as np; from tapetum.datamodules.samplers import EpochSampler;"
        "s = EpochSampler(np.arange(100, 140), seed=1); s.set_epoch(3); print(*s.order())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(row) for row in sampler(epoch=3).order()]


def test_repeated_epochs_keep_the_order_of_the_first():
    first, later = sampler(repeat=True), sampler(epoch=7, repeat=True)
    assert list(later.order()) == list(first.order()) == list(sampler().order())


@given(
    count=st.integers(1, 70),
    batch=st.integers(1, 9),
    world=st.integers(1, 4),
    epoch=st.integers(0, 5),
)
def test_ranks_together_see_what_one_process_sees_with_their_batches_joined(count, batch, world, epoch):
    alone = rows(EpochBatchSampler(sampler(count, epoch=epoch), batch * world, Shard()))
    ranks = [
        rows(EpochBatchSampler(sampler(count, epoch=epoch), batch, Shard(rank, world)))
        for rank in range(world)
    ]
    assert {len(rank) for rank in ranks} == {len(alone)}
    for number, expected in enumerate(alone):
        together = [row for rank in ranks for row in rank[number]]
        if len(expected) >= world:
            assert sorted(together) == sorted(expected)
        else:  # fewer images than processes: some are seen twice, none is left out
            assert set(together) == set(expected)
        assert all(rank[number] for rank in ranks)


@given(count=st.integers(1, 50), batch=st.integers(1, 8), world=st.integers(1, 3), data=st.data())
def test_a_start_in_the_middle_gives_exactly_the_rest(count, batch, world, data):
    batches = EpochBatchSampler(sampler(count, epoch=2), batch, Shard(world - 1, world))
    whole = list(batches)
    assert len(whole) == len(batches)
    start = data.draw(st.integers(0, len(whole)))
    batches.start = start
    assert list(batches) == whole[start:]
    assert list(batches) == whole  # the epoch after starts at its beginning


def test_keys_carry_the_epoch():
    assert {epoch for batch in EpochBatchSampler(sampler(epoch=5), 8, Shard()) for epoch, _ in batch} == {5}


def test_incomplete_batch_is_left_out_unless_it_is_the_only_one():
    assert [len(batch) for batch in EpochBatchSampler(sampler(20), 8, Shard())] == [8, 8]
    assert [len(batch) for batch in EpochBatchSampler(sampler(5), 8, Shard())] == [5]


def drawn(groups: np.ndarray, weights: np.ndarray, epochs: int = 60) -> dict[int, float]:
    """Share of each group among all that is drawn over many epochs."""
    found = []
    for epoch in range(epochs):
        made = EpochSampler(np.arange(len(groups)), seed=3, weights=weights)
        made.set_epoch(epoch)
        found.append(groups[made.order()])
    values, counts = np.unique(np.concatenate(found), return_counts=True)
    return dict(zip(values.tolist(), (counts / counts.sum()).tolist(), strict=True))


def test_balanced_weights_draw_every_group_equally():
    groups = np.array([0] * 270 + [1] * 20 + [-1] * 10)
    shares = drawn(groups, balanced_weights(groups))
    assert shares == {group: pytest.approx(1 / 3, abs=0.02) for group in (0, 1, -1)}


@given(count=st.integers(0, 60), batch=st.integers(1, 9), world=st.integers(1, 5))
def test_ordered_ranks_recover_every_row_once_by_index(count, batch, world):
    wanted = np.arange(0, 3 * count, 3)
    ranks = [OrderedBatchSampler(wanted, batch, Shard(rank, world)) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1  # nobody waits for a batch that never comes
    seen = [row for rank in ranks for part in rows(rank) for row in part]
    assert sorted(set(seen)) == wanted.tolist()
    assert len(seen) - len(set(seen)) < world
    assert all(len(rank) == len(rows(rank)) for rank in ranks)


def test_one_process_reads_evaluation_rows_in_order():
    read = rows(OrderedBatchSampler(np.array([4, 7, 9]), 2, Shard()))
    assert read == [[4, 7], [9]]
