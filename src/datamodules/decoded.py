"""Decoded pixels, kept: every image is decoded and resized once, then read from memory-mapped uint8."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, ImageError
from ..images.augment import Augment
from ..images.decode import Backend
from ..images.geometry import InputSpec
from ..images.sources import read_image
from ..indexes.table import Index
from .kept import Progress, identity_of, kept_at, no_room

_CHUNK = 64  # images a thread takes at a time, and after which progress is told


class DecodedCache:
    """uint8 [n, C, h, w] of an Index's images after the resize rule; read-only, safe across processes."""

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

    Built beside its final place under a lock and then renamed: an interrupted build leaves nothing behind
    that could be taken for a cache. Raises ConfigError where images keep different sizes after the resize,
    DataError where the disk has no room for it or where the index does not know its files.
    """
    identity = identity_of(index, spec, augment, backend)
    with kept_at(cache, "decoded", identity) as directory:
        if not (directory / "cache.json").is_file():
            _build(directory, index, spec, augment, backend, progress)
    return DecodedCache(directory)


def _build(
    directory: Path,
    index: Index,
    spec: InputSpec,
    augment: Augment,
    backend: Backend,
    progress: Progress | None,
) -> None:
    shape = (len(index), *_first_shape(index, spec, augment, backend))
    unfinished = directory.with_suffix(".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        _reserve(unfinished / "pixels.u8", math.prod(shape))
        pixels = np.memmap(unfinished / "pixels.u8", np.uint8, "r+", shape=shape)
        bad = _decode_all(pixels, index, spec, augment, backend, progress)
        pixels.flush()
        described = {"shape": list(shape), "bad": {str(row): bad[row] for row in sorted(bad)}}
        (unfinished / "cache.json").write_text(json.dumps(described))
    except OSError as error:
        raise no_room("decoded images", math.prod(shape), directory, error.strerror) from error
    finally:
        if not (unfinished / "cache.json").is_file():
            shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.replace(directory)


def _first_shape(index: Index, spec: InputSpec, augment: Augment, backend: Backend) -> tuple[int, int, int]:
    """[C, h, w] that the resize rule makes of the first readable image; all others have to be like it."""
    for row in range(len(index)):
        try:
            image = _resized(index, row, spec, augment, backend)
        except ImageError:
            continue
        return image.shape[0], image.shape[1], image.shape[2]
    return spec.channels, 1, 1  # nothing can be read, and each row says why


def _reserve(file: Path, length: int) -> None:
    """A file with its blocks on the disk: memory-mapped, one that runs out of room kills the process."""
    with file.open("wb") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, length)
        else:
            opened.truncate(length)


def _decode_all(
    pixels: NDArray[np.uint8],
    index: Index,
    spec: InputSpec,
    augment: Augment,
    backend: Backend,
    progress: Progress | None,
) -> dict[int, str]:
    """Fill the rows of pixels; what could not be decoded, row → reason."""
    total = len(pixels)
    bad: dict[int, str] = {}

    def decode(start: int) -> int:
        stop = min(start + _CHUNK, total)
        for row in range(start, stop):
            try:
                resized = _resized(index, row, spec, augment, backend)
                if resized.shape != pixels.shape[1:]:
                    raise _other_size(index.location(row)[1], resized.shape, pixels.shape[1:], spec)
                pixels[row] = resized.numpy()
            except ImageError as error:
                bad[row] = str(error)
        return stop

    pool = ThreadPoolExecutor(os.cpu_count() or 1)  # the codecs release the GIL
    try:
        for done in pool.map(decode, range(0, total, _CHUNK)):
            if progress is not None:
                progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C, what has not begun is not waited for
    return bad


def _resized(index: Index, row: int, spec: InputSpec, augment: Augment, backend: Backend) -> Tensor:
    root, path = index.location(row)
    return augment.resize(read_image(root, path, channels=spec.channels, backend=backend), spec, backend)


def _other_size(path: str, shape: Sequence[int], first: Sequence[int], spec: InputSpec) -> ConfigError:
    rule = (
        f"the resize rule {spec.resize!r} makes {path} {shape[2]}x{shape[1]} and others {first[2]}x{first[1]}"
    )
    instead = "" if spec.resize == "none" else ", or model.geometry.resize=squash"
    return ConfigError(
        f"data.cache=decoded keeps images of one size, but {rule}: type data.cache=none{instead}"
    )
