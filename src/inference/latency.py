"""How long one image takes from its file to its class, stage by stage, as `tapetum search` answers it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from ..backbones.precision import autocast
from ..datamodules.reading import Reader
from ..errors import ImageError
from ..images.geometry import InputSpec, prepare
from ..images.sources import read_bytes
from ..metrics.latency import STAGES, Seconds
from .embed import embeddings
from .gallery import Gallery

WARM_UP = 5
"""Images before the clock counts: the first ones choose kernels, fill caches and allocate memory."""


def time_images(
    module: Any,
    reader: Reader,
    spec: InputSpec,
    gallery: Gallery,
    rows: list[int],
    *,
    device: torch.device,
    precision: str = "32-true",
) -> dict[str, Seconds]:
    """Stage of `metrics.latency.STAGES` → float64 [n] seconds of each image, one at a time (batch 1).

    rows: of the reader's Index; the first of them are read once more beforehand, for warming up. The gallery
    lies in memory. Files that were read before come from the operating system's cache, not from the disk.
    Raises ImageError or DataError for an image that can't be read.
    """
    module.to(device).eval()
    found = np.empty((len(rows), len(STAGES)))
    with torch.inference_mode(), autocast(device, precision):
        for number, row in enumerate([*rows[:WARM_UP], *rows], start=-len(rows[:WARM_UP])):
            try:
                spent = _stages(module, reader, spec, gallery, row, device)
            except ImageError as error:
                raise ImageError(f"{reader.index.location(row)[1]}: {error}") from error
            if number >= 0:
                found[number] = spent
    return {stage: found[:, column].copy() for column, stage in enumerate(STAGES)}


def _stages(
    module: Any, reader: Reader, spec: InputSpec, gallery: Gallery, row: int, device: torch.device
) -> np.ndarray[Any, np.dtype[np.float64]]:
    place = reader.index.location(row)
    began = time.perf_counter()
    data = read_bytes(*place)
    loaded = time.perf_counter()
    image = prepare(reader.decoded(row, data), spec, backend=reader.backend).contiguous()
    prepared = time.perf_counter()
    vector = embeddings(module, image[None], device).cpu()  # waits for the device
    embedded = time.perf_counter()
    gallery.classify(vector.numpy())
    searched = time.perf_counter()
    return np.diff([began, loaded, prepared, embedded, searched])
