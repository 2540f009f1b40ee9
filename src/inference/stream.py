"""Items in, predictions out, part by part and in order: what `predict` and `predict_files` both run."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..backbones.precision import autocast
from ..images.decode import Backend
from ..modules.detection import DetectionModule
from .detect import answers
from .feeding import Fed, feed
from .inputs import shown
from .items import Item, read_item
from .verdicts import Rule

ITEM_SCHEMA = pa.schema(
    [
        ("item", pa.string()),
        ("logit", pa.float32()),
        ("probability", pa.float32()),
        ("verdict", pa.string()),
        ("band", pa.string()),
    ]
)


class Bad(NamedTuple):
    """An item without a prediction: its number, its name, and the reason."""

    number: int
    name: str
    reason: str


@dataclass(frozen=True)
class Part:
    """What became of some items in a row.

    numbers: int64 [n], which items the rows of the table are, counted from 0. table: of ITEM_SCHEMA. bad: the
    items that could not be read, or of which the network could make nothing.
    """

    numbers: NDArray[np.int64]
    table: pa.Table
    bad: list[Bad]


def stream(
    module: DetectionModule,
    items: Iterable[Item],
    *,
    rule: Rule,
    device: torch.device,
    precision: str,
    backend: Backend,
    batch_size: int,
    threads: int,
) -> Generator[Part]:
    """A part as soon as its images went through the network; `threads` read the next ones meanwhile.

    precision: a Trainer's name, see `detect`. Memory does not grow with the number of items, nor, where
    images keep their own sizes, with the batch size beyond BATCH_BYTES.
    """
    spec = module.input_spec
    own_sizes = spec.output_size is None
    read = partial(read_item, spec=spec, backend=backend)
    module.eval()
    with closing(feed(items, read, batch_size=batch_size, threads=threads, own_sizes=own_sizes)) as batches:
        for fed in batches:
            bad = [Bad(number, _name(number, item), reason) for number, (item, reason) in fed.bad.items()]
            with torch.inference_mode(), autocast(device, precision):
                logits, refused = _answers(module, fed, device, own_sizes)
            good = [row for row in range(len(fed.numbers)) if row not in refused]
            bad += [
                Bad(fed.numbers[row], _name(fed.numbers[row], fed.items[row]), reason)
                for row, reason in refused.items()
            ]
            names = [_name(fed.numbers[row], fed.items[row]) for row in good]
            columns = {"item": names, "logit": logits[good], **rule.judge(logits[good])}
            table = pa.table(columns, schema=ITEM_SCHEMA)
            yield Part(np.array(fed.numbers, np.int64)[good], table, sorted(bad))


def _answers(
    module: DetectionModule, fed: Fed, device: torch.device, own_sizes: bool
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Logits float32 [n] of the images, and row → reason where the network has no answer."""
    refused: dict[int, str] = {}
    if not fed.images:
        return np.empty(0, np.float32), refused
    try:
        found = answers(module, fed.stacked(pin=device.type == "cuda"), device).cpu()
    except RuntimeError:
        if not own_sizes:
            raise
        # A size that the network can't take, or that memory has no room for: which one is it?
        found = torch.full((len(fed.images),), torch.nan)
        for row, image in enumerate(fed.images):
            try:
                found[row] = answers(module, image[None], device).cpu()[0]
            except RuntimeError as error:
                refused[row] = f"the network can't take its {_size(image)}: {_first_line(error)}"
    logits = found.numpy()
    for row in np.flatnonzero(~np.isfinite(logits)).tolist():
        refused.setdefault(row, f"the network's answer is {logits[row]}, which is no number to judge by")
    return logits, refused


def _name(number: int, item: Item) -> str:
    return shown(str(item)) if isinstance(item, str | Path) else f"item {number}"


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]} pixels"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
