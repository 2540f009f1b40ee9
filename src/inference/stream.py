"""Items in, predictions out, part by part and in order: what `predict` and `predict_files` both run."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..backbones.precision import autocast
from .feeding import Fed, Read, feed
from .inputs import shown
from .items import InfraredItem, Item


@dataclass(frozen=True)
class Answering:
    """What a task makes of images.

    read: an item to the tensor that the network is fed. answer: images [B, C, H, W], or a list of B [C, h, w]
    where sizes differ, to float32 (of texts int64) [B, *shape] on the device. columns: finite answers
    [n, *shape] to the columns of `fields`.
    """

    read: Read
    answer: Callable[[Tensor | list[Tensor]], Tensor]
    shape: tuple[int, ...]
    fields: Sequence[pa.Field]
    columns: Callable[[NDArray[np.float32]], Mapping[str, Any]]

    def schema(self, first: str) -> pa.Schema:
        """Of a table whose first column, the text `item` or `path`, says whose answers these are."""
        return pa.schema([pa.field(first, pa.string()), *self.fields])


class Bad(NamedTuple):
    """An item without a prediction: its number, its name, and the reason."""

    number: int
    name: str
    reason: str


@dataclass(frozen=True)
class Part:
    """What became of some items in a row.

    numbers: int64 [n], which items the rows of the table are, counted from 0. table: `item` and what the task
    answers. bad: the items that could not be read, or of which the network could make nothing. seconds: that
    the network took, the way to the device and back included.
    """

    numbers: NDArray[np.int64]
    table: pa.Table
    bad: list[Bad]
    seconds: float


def stream(
    module: lightning.LightningModule,
    items: Iterable[Item | InfraredItem],
    answering: Answering,
    *,
    device: torch.device,
    precision: str,
    batch_size: int,
    threads: int,
) -> Generator[Part]:
    """A part as soon as its images went through the network; `threads` read the next ones meanwhile.

    precision: a Trainer's name, see `detect`. Memory does not grow with the number of items, nor, where
    images keep their own sizes, with the batch size beyond BATCH_BYTES.
    """
    own_sizes = module.input_spec.output_size is None  # type: ignore[union-attr]  # every task's module has it
    schema = answering.schema("item")
    module.eval()
    with closing(
        feed(items, answering.read, batch_size=batch_size, threads=threads, own_sizes=own_sizes)
    ) as batches:
        for fed in batches:
            bad = [Bad(number, _name(number, item), reason) for number, (item, reason) in fed.bad.items()]
            began = time.perf_counter()
            with torch.inference_mode(), autocast(device, precision):
                found, refused = _answers(answering, fed, device, own_sizes)
            seconds = time.perf_counter() - began
            good = [row for row in range(len(fed.numbers)) if row not in refused]
            bad += [
                Bad(fed.numbers[row], _name(fed.numbers[row], fed.items[row]), reason)
                for row, reason in refused.items()
            ]
            names = [_name(fed.numbers[row], fed.items[row]) for row in good]
            table = pa.table({"item": names, **answering.columns(found[good])}, schema=schema)
            yield Part(np.array(fed.numbers, np.int64)[good], table, sorted(bad), seconds)


def _answers(
    answering: Answering, fed: Fed, device: torch.device, own_sizes: bool
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """float32 [n, *shape] of the images, and row → reason where the network has no answer."""
    refused: dict[int, str] = {}
    if not fed.images:
        return np.empty((0, *answering.shape), np.float32), refused
    try:
        found = answering.answer(fed.stacked(pin=device.type == "cuda")).cpu()
    except RuntimeError:
        if not own_sizes:
            raise
        # A size that the network can't take, or that memory has no room for: which one is it?
        found = torch.full((len(fed.images), *answering.shape), torch.nan)
        for row, image in enumerate(fed.images):
            try:
                found[row] = answering.answer(image[None]).cpu()[0]
            except RuntimeError as error:
                refused[row] = f"the network can't take its {_size(image)}: {_first_line(error)}"
    values = found.numpy()
    usable = np.isfinite(values)
    for row in np.flatnonzero(~usable.reshape(len(values), -1).all(axis=1)).tolist():
        wrong = values[row][~usable[row]].flat[0]
        refused.setdefault(row, f"the network's answer is {wrong}, which is no number to judge by")
    return values, refused


def _name(number: int, item: Item | InfraredItem) -> str:
    return shown(str(item)) if isinstance(item, str | Path) else f"item {number}"


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]} pixels"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
