"""Decoded pixels, kept: every image is decoded and resized once, then read from memory-mapped uint8."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from os import cpu_count, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, ImageError
from ..images.augment import Augment
from ..images.decode import Backend
from ..images.geometry import InputSpec
from ..images.sources import read_image
from ..indexes.table import Index

Progress = Callable[[int, int], None]


class DecodedCache:
    """uint8 [n, C, h, w] of an Index's images after the resize rule; opened read-only, safe across processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        described = json.loads((directory / "cache.json").read_text())
        self.shape: tuple[int, ...] = tuple(described["shape"])
        self.bad: dict[int, str] = {int(row): reason for row, reason in described["bad"].items()}
        self._pixels: NDArray[np.uint8] | None = None

    def image(self, row: int) -> Tensor:
        """uint8 [C, h, w]; ImageError where the image could not be decoded when the cache was built."""
        if row in self.bad:
            raise ImageError(self.bad[row])
        if self._pixels is None:
            self._pixels = np.memmap(self.directory / "pixels.u8", np.uint8, "r", shape=self.shape)
        return torch.from_numpy(np.array(self._pixels[row]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None}  # each process maps the file for itself


def decoded_cache(
    index: Index,
    spec: InputSpec,
    augment: Augment,
    *,
    backend: Backend,
    cache: Path,
    progress: Progress | None = None,
) -> DecodedCache:
    """The cache of this index under this geometry, built first if it is not there yet.

    Built beside its final place under a lock and then renamed: an interrupted build leaves nothing behind that
    could be taken for a cache. Raises ConfigError where images keep different sizes after the resize.
    """
    if spec.size is None or spec.resize not in ("squash", "pad"):
        raise ConfigError(
            f"data.cache=decoded needs a resize to one size, but the network's resize rule is {spec.resize!r}: "
            f"type data.cache=none, or model.geometry.resize=squash"
        )
    height, width = (side + augment.enlarge for side in spec.size)
    shape = (len(index.table), spec.channels, height, width)
    key = blake2b(
        json.dumps([index.edition, list(shape), spec.resize, spec.interpolation, backend]).encode(), digest_size=12
    ).hexdigest()
    directory = cache.expanduser() / "decoded" / key
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_suffix(".lock")):
        if not (directory / "cache.json").is_file():
            _build(directory, index, spec, augment, backend, shape, progress)
    return DecodedCache(directory)


def _build(
    directory: Path,
    index: Index,
    spec: InputSpec,
    augment: Augment,
    backend: Backend,
    shape: Sequence[int],
    progress: Progress | None,
) -> None:
    unfinished = directory.with_suffix(".tmp")
    unfinished.mkdir(exist_ok=True)
    pixels = np.memmap(unfinished / "pixels.u8", np.uint8, "w+", shape=tuple(shape))
    bad: dict[int, str] = {}

    def decode(row: int) -> None:
        root, path = index.location(row)
        try:
            image = read_image(root, path, channels=spec.channels, backend=backend)
        except ImageError as error:
            bad[row] = str(error)
            return
        pixels[row] = augment.resize(image, spec, backend).numpy()

    with ThreadPoolExecutor(cpu_count() or 1) as pool:  # the codecs release the GIL
        for done, _ in enumerate(pool.map(decode, range(shape[0]), chunksize=64), start=1):
            if progress is not None and (done % 256 == 0 or done == shape[0]):
                progress(done, shape[0])
    pixels.flush()
    described = {"shape": list(shape), "bad": {str(row): bad[row] for row in sorted(bad)}}
    (unfinished / "cache.json").write_text(json.dumps(described))
    replace(unfinished, directory)
