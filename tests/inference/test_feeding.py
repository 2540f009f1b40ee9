"""Reading ahead: in order, bounded in memory, and over when the caller is."""

import threading
import time

import numpy as np
import pytest
import torch
from tapetum.errors import ImageError
from tapetum.inference import feeding
from tapetum.inference.feeding import feed


def reading(size=8, delay=0.0):
    """A read that remembers how many were read and how many wait."""
    seen = []
    lock = threading.Lock()

    def read(item):
        time.sleep(delay)
        with lock:
            seen.append(item)
        if "bad" in item:
            raise ImageError(f"{item} is bad")
        return torch.full((3, size, size), int(item) % 256, dtype=torch.uint8)

    return read, seen


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_batches_keep_the_order_and_name_what_could_not_be_read(threads):
    items = [f"{n}" if n % 7 else f"bad {n}" for n in range(100)]
    read, _ = reading()
    fed = list(feed(items, read, batch_size=8, threads=threads))
    numbers = [number for one in fed for number in one.numbers]
    assert numbers == [n for n in range(100) if n % 7]
    assert [image[0, 0, 0] for one in fed for image in one.images] == numbers
    assert [item for one in fed for item in one.items] == [items[n] for n in numbers]
    bad = {number: reason for one in fed for number, (_, reason) in one.bad.items()}
    assert bad == {n: f"bad {n} is bad" for n in range(0, 100, 7)}
    assert all(len(one.numbers) + len(one.bad) == 8 for one in fed[:-1])


def test_the_next_batches_are_read_while_one_is_looked_at():
    read, seen = reading()
    batches = feed([str(n) for n in range(64)], read, batch_size=4, threads=2)
    next(batches)
    deadline = time.monotonic() + 10
    while len(seen) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 8 <= len(seen) <= 4 + 2 * 4 + 2
    batches.close()


def test_large_images_are_not_read_far_ahead(monkeypatch):
    monkeypatch.setattr(feeding, "AHEAD_BYTES", 5 * 3 * 64 * 64)
    read, seen = reading(size=64)
    batches = feed([str(n) for n in range(200)], read, batch_size=32, threads=2)
    taken = 0
    for fed in batches:
        taken += len(fed.images)
        time.sleep(0.05)
        # Five fit; what was begun before the first was measured may be there as well.
        assert len(seen) <= taken + 5 + 2
    assert taken == 200


def test_images_of_their_own_sizes_make_batches_of_bounded_memory(monkeypatch):
    monkeypatch.setattr(feeding, "BATCH_BYTES", 10 * 3 * 64 * 64)
    read, _ = reading(size=64)
    items = [str(n) for n in range(64)]
    assert [len(one.images) for one in feed(items, read, batch_size=32, threads=2)] == [32, 32]
    bounded = [len(one.images) for one in feed(items, read, batch_size=32, threads=2, own_sizes=True)]
    assert max(bounded) == 10
    assert sum(bounded) == 64


def test_a_caller_that_stops_ends_the_threads():
    before = threading.active_count()
    read, seen = reading(delay=0.001)
    batches = feed([str(n) for n in range(10_000)], read, batch_size=4, threads=3)
    next(batches)
    batches.close()
    assert threading.active_count() == before
    assert len(seen) < 100


def test_items_are_taken_only_when_they_are_needed():
    taken = []

    def items():
        for n in range(10_000):
            taken.append(n)
            yield str(n)

    read, _ = reading()
    batches = feed(items(), read, batch_size=4, threads=2)
    next(batches)
    assert len(taken) <= 4 + 2 * 4 + 2
    batches.close()


def test_a_defect_of_ours_is_not_a_bad_image():
    def read(item):
        raise AttributeError("a defect")

    with pytest.raises(AttributeError, match="a defect"):
        list(feed(["a", "b"], read, batch_size=4, threads=2))


def test_what_is_no_path_is_read_in_the_callers_thread():
    threads = set()

    def read(item):
        threads.add(threading.current_thread())
        return torch.zeros(1, 2, 2, dtype=torch.uint8)

    list(feed([np.zeros((2, 2), np.uint8)] * 9, read, batch_size=4, threads=3))
    assert threads == {threading.current_thread()}
