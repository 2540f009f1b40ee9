"""Decoded pixels, kept: every image is decoded and resized once, then read memory-mapped."""

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
from ..images.geometry import InputSpec
from .kept import Progress, identity_of, kept_at, no_room
from .reading import Reader

Pixels = NDArray[np.uint8] | NDArray[np.float32]

_FILES: dict[str, np.dtype[Any]] = {
    "pixels.u8": np.dtype(np.uint8),
    "pixels.f32": np.dtype(np.float32),
}
_CHUNK = 64  # images a thread takes at a time, and after which progress is told


class DecodedCache:
    """[n, C, h, w] of an Index's images after the resize rule, as the reader gave them: uint8 or float32.

    Read-only, safe across processes. Which of the two is told by the file: `pixels.u8` or `pixels.f32`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        described = json.loads((directory / "cache.json").read_text())
        self.shape: tuple[int, ...] = tuple(described["shape"])
        self.bad: dict[int, str] = {int(row): reason for row, reason in described["bad"].items()}
        self._file = next(directory / name for name in _FILES if (directory / name).is_file())
        self._pixels: Pixels | None = None

    def image(self, row: int) -> Tensor:
        """[C, h, w]; ImageError where the image could not be decoded when the cache was built."""
        if row in self.bad:
            raise ImageError(self.bad[row])
        if self._pixels is None:
            self._pixels = np.memmap(self._file, _FILES[self._file.name], "r", shape=self.shape)
        return torch.from_numpy(np.array(self._pixels[row]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None}  # each process maps the file for itself


def decoded_cache(
    reader: Reader,
    spec: InputSpec,
    augment: Augment,
    *,
    cache: Path,
    progress: Progress | None = None,
) -> DecodedCache:
    """The cache of what this reader gives under this geometry, built first if it is not there yet.

    Built beside its final place under a lock and then renamed: an interrupted build leaves nothing behind
    that could be taken for a cache. Raises ConfigError where images keep different sizes after the resize,
    DataError where the disk has no room for it or where the index does not know its files.
    """
    with kept_at(cache, "decoded", identity_of(reader, spec, augment)) as directory:
        if not (directory / "cache.json").is_file():
            _build(directory, reader, spec, augment, progress)
    return DecodedCache(directory)


def _build(
    directory: Path, reader: Reader, spec: InputSpec, augment: Augment, progress: Progress | None
) -> None:
    first = _first(reader, spec, augment)
    shape = (len(reader.index), *first.shape)
    name = next(name for name, kind in _FILES.items() if kind == first.numpy().dtype)
    size = math.prod(shape) * _FILES[name].itemsize
    unfinished = directory.with_suffix(".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        _reserve(unfinished / name, size)
        pixels: Any = np.memmap(unfinished / name, _FILES[name], "r+", shape=shape)
        bad = _decode_all(pixels, reader, spec, augment, progress)
        pixels.flush()
        described = {"shape": list(shape), "bad": {str(row): bad[row] for row in sorted(bad)}}
        (unfinished / "cache.json").write_text(json.dumps(described))
    except OSError as error:
        raise no_room("decoded images", size, directory, error.strerror) from error
    finally:
        if not (unfinished / "cache.json").is_file():
            shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.replace(directory)


def _first(reader: Reader, spec: InputSpec, augment: Augment) -> Tensor:
    """[C, h, w] that the resize rule makes of the first readable image; all others have to be like it."""
    for row in range(len(reader.index)):
        try:
            return _resized(reader, row, spec, augment)
        except ImageError:
            continue
    return torch.zeros(reader.channels, 1, 1, dtype=torch.uint8)  # nothing can be read, and each row says why


def _reserve(file: Path, length: int) -> None:
    """A file with its blocks on the disk: memory-mapped, one that runs out of room kills the process."""
    with file.open("wb") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, length)
        else:
            opened.truncate(length)


def _decode_all(
    pixels: Pixels, reader: Reader, spec: InputSpec, augment: Augment, progress: Progress | None
) -> dict[int, str]:
    """Fill the rows of pixels; what could not be decoded, row → reason."""
    total = len(pixels)
    bad: dict[int, str] = {}

    def decode(start: int) -> int:
        stop = min(start + _CHUNK, total)
        for row in range(start, stop):
            try:
                resized = _resized(reader, row, spec, augment)
                if resized.shape != pixels.shape[1:]:
                    raise _other_size(reader.index.location(row)[1], resized.shape, pixels.shape[1:], spec)
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


def _resized(reader: Reader, row: int, spec: InputSpec, augment: Augment) -> Tensor:
    return augment.resize(reader(row), spec, reader.backend)


def _other_size(path: str, shape: Sequence[int], first: Sequence[int], spec: InputSpec) -> ConfigError:
    rule = (
        f"the resize rule {spec.resize!r} makes {path} {shape[2]}x{shape[1]} and others {first[2]}x{first[1]}"
    )
    instead = "" if spec.resize == "none" else ", or model.geometry.resize=squash"
    return ConfigError(
        f"data.cache=decoded keeps images of one size, but {rule}: type data.cache=none{instead}"
    )
