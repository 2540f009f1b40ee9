"""Where the bytes of an image lie: a file, a member of a tar archive, a row of a parquet file."""

from __future__ import annotations

import os
import stat
import tarfile
import threading
import weakref
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..errors import DataError, ImageError
from .decode import DEFAULT_LIMITS, Backend, Limits, decode

if TYPE_CHECKING:
    import pyarrow


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
    the name that the archive gives it. `train.parquet::17`: row 17, counted from 0, of the column that holds
    bytes or a struct with a field `bytes` (as Hugging Face datasets stores images). A parquet file is read a
    row group at a time, so reading it in random order is slow where row groups are large.

    Safe to call from several threads and after a fork. Raises ImageError (the message is the reason, without
    the path) where this image is missing, not a regular file, or longer than limits.max_bytes (found out
    before it is read), DataError where the archive itself is missing or cannot be used.
    """
    container, separator, item = path.partition("::")
    suffix = Path(container).suffix.lower()
    if separator and suffix == ".tar":
        return _tar(root / container).read(item, limits)
    if separator and suffix == ".parquet":
        data = _parquet(root / container).read(item)
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


class _Tar:
    """An open archive and where its members lie; read with pread, so threads and forked workers share it."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"the archive {path} cannot be opened: {error.strerror}") from error
        # A reader in another thread may still hold an archive that the cache let go: the last one closes it.
        weakref.finalize(self, os.close, self._descriptor)
        self._members: dict[str, tuple[int, int] | str] = {}
        try:
            with tarfile.open(path, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    if member.isreg() and not member.issparse():
                        self._members[member.name] = (member.offset_data, member.size)
                    elif member.islnk():
                        self._members[member.name] = self._members.get(member.linkname, "a broken hard link")
                    else:
                        self._members[member.name] = "a directory" if member.isdir() else "not a regular file"
                    archive.members = []  # type: ignore[attr-defined]  # or tarfile keeps them all
        except (tarfile.TarError, EOFError) as error:
            raise DataError(
                f"{path} is not a whole, uncompressed tar archive ({error}): "
                "unpack it, or make it anew with `tar -cf`"
            ) from error

    def read(self, name: str, limits: Limits) -> bytes:
        found = self._members.get(name)
        if found is None:
            raise ImageError(f"the archive has no member {name!r}")
        if isinstance(found, str):
            raise ImageError(f"the member {name!r} is {found}")
        offset, size = found
        limits.check_bytes(size)
        parts: list[bytes] = []
        while size > 0:
            part = os.pread(self._descriptor, size, offset)
            if not part:
                raise ImageError(f"the archive ends {size} bytes before the end of this member")
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _Parquet:
    """An open parquet file and the row groups read last."""

    _GROUPS_KEPT = 2

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # No threads of pyarrow's own: they do not survive the fork of a DataLoader worker.
            self._file = pq.ParquetFile(path, pre_buffer=False)
        except pa.ArrowException as error:
            raise DataError(f"{path} is not a parquet file: {error}") from error
        self._column = _image_column(self._file.schema_arrow, path)
        metadata = self._file.metadata
        self._group_sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._groups: dict[int, Any] = {}
        self._lock = threading.Lock()

    def read(self, item: str) -> bytes:
        count = sum(self._group_sizes)
        if not (item.isascii() and item.isdigit() and int(item) < count):
            raise ImageError(f"no row {item!r} in the parquet file: it has rows 0 to {count - 1}")
        row, group = int(item), 0
        while row >= self._group_sizes[group]:
            row -= self._group_sizes[group]
            group += 1
        with self._lock:
            value = self._read_group(group)[row].as_py()
        if isinstance(value, dict):
            value = value.get("bytes")
        if value is None:
            raise ImageError(f"column {self._column!r} holds no bytes in this row")
        return bytes(value)

    def _read_group(self, group: int) -> Any:
        import pyarrow as pa

        if group not in self._groups:
            while len(self._groups) >= self._GROUPS_KEPT:
                self._groups.pop(next(iter(self._groups)))
            try:
                table = self._file.read_row_group(group, columns=[self._column], use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise ImageError(f"row group {group} of the parquet file cannot be read: {error}") from error
            self._groups[group] = table.column(self._column)
        return self._groups[group]


def _image_column(schema: pyarrow.Schema, path: Path) -> str:
    """The column with bytes or {bytes, …}; of several the one called `image`."""
    import pyarrow as pa

    def holds_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    found = [field.name for field in schema if holds_bytes(field.type)]
    if "image" in found:
        return "image"
    if len(found) == 1:
        return str(found[0])
    names = ", ".join(found) if found else "none of " + ", ".join(schema.names)
    raise DataError(f"{path} needs one column with image bytes, or one called image; it has {names}")


# --- containers are opened once a process, and anew when they change on the disk ---

_lock = threading.Lock()


def _tar(path: Path) -> _Tar:
    version = _version(path)
    with _lock:  # two threads must not read the table of the same large archive
        return _cached_tar(path, version)


def _parquet(path: Path) -> _Parquet:
    version = _version(path)
    with _lock:
        return _cached_parquet(path, version)


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
def _cached_tar(path: Path, version: tuple[int, int]) -> _Tar:
    return _Tar(path)


@lru_cache(maxsize=8)
def _cached_parquet(path: Path, version: tuple[int, int]) -> _Parquet:
    return _Parquet(path)


def _after_fork() -> None:
    """A lock may have been held by a thread that the child does not have."""
    global _lock
    _lock = threading.Lock()
    _cached_parquet.cache_clear()


os.register_at_fork(after_in_child=_after_fork)
