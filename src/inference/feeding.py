"""Images on their way to a network: read ahead by threads, in order, and never more than fit into memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ImageError
from .items import InfraredItem, Item

AHEAD_BYTES = 2**28
"""Of decoded pixels that wait for the network; each thread may hold one image all the same."""

BATCH_BYTES = 2**25
"""Of pixels in a batch of a network that takes images as they are; one image may be larger."""

Read = Callable[[Item | InfraredItem], Tensor]


@dataclass
class Fed:
    """Images [C, h, w], all uint8 or all float32, with their numbers, and the items that could not be read:
    number → reason.
    """

    items: list[Item] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    bad: dict[int, tuple[Item, str]] = field(default_factory=dict)

    def stacked(self, *, pin: bool) -> Tensor | list[Tensor]:
        """[B, C, H, W] where all sizes agree, else the list. pin: in page-locked memory."""
        if any(image.shape != self.images[0].shape for image in self.images):
            return self.images
        size = (len(self.images), *self.images[0].shape)
        return torch.stack(self.images, out=torch.empty(size, dtype=self.images[0].dtype, pin_memory=pin))


def feed(
    items: Iterable[Item], read: Read, *, batch_size: int, threads: int, own_sizes: bool = False
) -> Generator[Fed]:
    """Batches of items, read in order; the next ones are read while the caller looks at one.

    threads: 0 reads here, when asked. PIL images and arrays are always read here: two threads can't load one
        PIL image. own_sizes: images are not brought to one size, and a batch also ends at BATCH_BYTES.
    """
    fed, held = Fed(), 0
    for number, item, found in _read_all(items, read, threads, 2 * batch_size):
        if isinstance(found, ImageError):
            fed.bad[number] = item, str(found)
        else:
            fed.items.append(item)
            fed.numbers.append(number)
            fed.images.append(found)
            held += found.nbytes
        if len(fed.images) + len(fed.bad) >= batch_size or (own_sizes and held >= BATCH_BYTES):
            yield fed
            fed, held = Fed(), 0
    if fed.images or fed.bad:
        yield fed


def cores() -> int:
    """Processors that this process may use, at most 16."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 16)


def _read_all(
    items: Iterable[Item], read: Read, threads: int, ahead: int
) -> Iterator[tuple[int, Item, Tensor | ImageError]]:
    """Number, item and what it gave, in order."""

    def tried(item: Item) -> Tensor | ImageError:
        try:
            return read(item)
        except ImageError as error:
            return error

    if threads == 0:
        yield from ((number, item, tried(item)) for number, item in enumerate(items))
        return
    window = _Window(threads)

    def in_turn(number: int, item: Item) -> Tensor | ImageError:
        window.wait_for(number)
        found = tried(item)
        window.hold(0 if isinstance(found, ImageError) else found.nbytes)
        return found

    coming = enumerate(items)
    waiting: deque[tuple[int, Item, Future[Tensor | ImageError]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    try:
        while True:
            for number, item in islice(coming, ahead + threads - len(waiting)):
                if isinstance(item, str | Path):
                    future = pool.submit(in_turn, number, item)
                else:
                    future = Future()
                    future.set_result(tried(item))
                waiting.append((number, item, future))
            if not waiting:
                return
            number, item, future = waiting.popleft()
            found = future.result()
            window.take(number)
            yield number, item, found
    finally:
        window.close()
        pool.shutdown(cancel_futures=True)


class _Window:
    """Which images may be read: the first ones that are not taken, as many of the largest size as fit.

    A thread waits before it reads. Those with the earliest images never do, so nothing waits for ever.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._next = 0
        self._largest = 1
        self._closed = False
        self._changed = threading.Condition()

    def wait_for(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or number < self._next + self._width())

    def hold(self, size: int) -> None:
        with self._changed:
            self._largest = max(self._largest, size)

    def take(self, number: int) -> None:
        with self._changed:
            self._next = number + 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _width(self) -> int:
        return max(self._threads, AHEAD_BYTES // self._largest)
