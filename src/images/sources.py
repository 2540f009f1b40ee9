"""Where the bytes of an image lie: a file, a member of a tar archive, a row of a parquet file."""

from __future__ import annotations

import os
import stat
import threading
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from ..errors import DataError, ImageError
from .decode import DEFAULT_LIMITS, Backend, Limits, decode
from .parquet_images import ParquetImages, RowGroups
from .tar_archive import MemberTable, OpenArchive


def read_image(
    root: Path,
    path: str,
    *,
    channels: Literal[1, 3] = 3,
    backend: Backend = "fast",
    limits: Limits = DEFAULT_LIMITS,
) -> torch.Tensor:
    """The image at `path` as uint8 [channels, H, W]: `read_bytes`, then `decode`, and what they raise."""
    return decode(read_bytes(root, path, limits=limits), channels=channels, backend=backend, limits=limits)


def read_bytes(root: Path, path: str, *, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The encoded image at `path`, which is relative to `root` and one of three kinds.

    `photos/a.jpg`: a file. `train.tar::photos/a.jpg`: a member of an uncompressed tar archive, under exactly
    the name that the archive gives it; its headers are read once a process. `train.parquet::17`: row 17,
    counted from 0, of the column that holds bytes or a struct with a field `bytes` (as Hugging Face datasets
    stores images), and `train.parquet::photo:17` of that very column. A parquet file is read a row group at a
    time, and parquet_images.KEPT_BYTES of them are kept: reading more than that in random order is slow.

    Safe to call from several threads and after a fork. Raises ImageError (the message is the reason, without
    the path) where this image is missing, not a regular file, or longer than limits.max_bytes (found out
    before it is read), DataError where the archive itself is missing or cannot be used.
    """
    container, separator, item = path.partition("::")
    suffix = Path(container).suffix.lower()
    if separator and suffix == ".tar":
        return _read_member(root / container, item, limits)
    if separator and suffix == ".parquet":
        column, colon, row = item.rpartition(":")
        data = _parquet(root / container, column if colon else None).read(row)
        limits.check_bytes(len(data))
        return data
    return _read_file(root / path, limits)


def _read_file(path: Path, limits: Limits) -> bytes:
    try:
        # Non-blocking, or opening a named pipe would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ImageError("the file does not exist") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"the file cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"not a regular file but {_kind(status.st_mode)}")
        limits.check_bytes(status.st_size)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _kind(mode: int) -> str:
    return "a directory" if stat.S_ISDIR(mode) else "a pipe, socket or device"


# --- containers are opened once a process, and anew when they change on the disk ---

_lock = threading.Lock()
_row_groups = RowGroups()


def _read_member(path: Path, name: str, limits: Limits) -> bytes:
    version = _version(path)
    with _lock:  # two threads must not read the headers of the same large archive
        table = _table(path, version)
        archive = _archive(path, version)
    offset, size = table.find(name)
    return archive.read(offset, size, limits)


def _parquet(path: Path, column: str | None) -> ParquetImages:
    version = _version(path)
    with _lock:
        return _open_parquet(path, column, version)


def _version(path: Path) -> tuple[int, int]:
    """Modification time and length, so that nobody reads at the offsets of a replaced archive."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"the archive {path} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"the archive {path} is not a regular file but {_kind(status.st_mode)}")
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=16)
def _archive(path: Path, version: tuple[int, int]) -> OpenArchive:
    return OpenArchive(path)


@lru_cache(maxsize=4096)  # far more than are open: reading an archive's headers takes half a second
def _table(path: Path, version: tuple[int, int]) -> MemberTable:
    return MemberTable(path)


@lru_cache(maxsize=64)
def _open_parquet(path: Path, column: str | None, version: tuple[int, int]) -> ParquetImages:
    return ParquetImages(path, column, _row_groups)


def _after_fork() -> None:
    """A lock may have been held by a thread that the child does not have."""
    global _lock, _row_groups
    _lock = threading.Lock()
    _row_groups = RowGroups()
    _open_parquet.cache_clear()


os.register_at_fork(after_in_child=_after_fork)
