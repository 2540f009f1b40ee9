"""Images in the rows of parquet files, a row group at a time; what is kept in memory is counted in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, ImageError

if TYPE_CHECKING:
    import pyarrow

KEPT_BYTES = 256 * 2**20
"""Of decompressed row groups in a process, over all files; the last one read is kept whatever its size."""

_WHOLE_BYTES = 64 * 2**20  # a row group of more is read and kept in parts
_PART_BYTES = 16 * 2**20


class RowGroups:
    """The row groups, or parts of them, read last: as many as fit into KEPT_BYTES."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._held = 0
        self._groups: OrderedDict[tuple[object, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> Any | None:
        """The group, or None."""
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
            return self._groups.get(key)

    def put(self, key: tuple[object, ...], group: Any) -> None:
        """Keep a group and let those go that were not asked for the longest."""
        with self._lock:
            if key in self._groups:
                return
            self._groups[key] = group
            self._held += group.nbytes
            while self._held > self._kept_bytes and len(self._groups) > 1:
                self._held -= self._groups.popitem(last=False)[1].nbytes


class ParquetImages:
    """An open parquet file with a column of images."""

    def __init__(self, path: Path, column: str | None, groups: RowGroups) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # No threads of pyarrow's own: they do not survive the fork of a DataLoader worker.
            self._file = pq.ParquetFile(path, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is not a parquet file: {error}") from error
        schema = self._file.schema_arrow
        if column is not None and column not in image_columns(schema):
            raise DataError(f"{path} has no column {column!r} with image bytes: it has {_listed(schema)}")
        self._column = column if column is not None else image_column(schema, path)
        metadata = self._file.metadata
        groups_of = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *(group.num_rows for group in groups_of)])
        self._part_rows = [_part_rows(group, self._column) for group in groups_of]
        self._path = path
        self._stream: tuple[int, int, Iterator[Any]] | None = None
        self._name = (str(path), self._column, path.stat().st_mtime_ns, path.stat().st_size)
        self._groups = groups
        self._lock = threading.Lock()

    def read(self, item: str) -> bytes:
        """The bytes in row `item`, counted from 0; ImageError where that is not there."""
        count = int(self._starts[-1])
        if not (item.isascii() and item.isdigit() and int(item) < count):
            raise ImageError(f"no row {item!r} in the parquet file: it has rows 0 to {count - 1}")
        group = int(np.searchsorted(self._starts, int(item), side="right")) - 1
        part, place = divmod(int(item) - int(self._starts[group]), self._part_rows[group])
        value = self._read(group, part)[place].as_py()
        if isinstance(value, dict):
            value = value.get("bytes")
        if value is None:
            raise ImageError(f"column {self._column!r} holds no bytes in this row")
        return bytes(value)

    def _read(self, group: int, part: int) -> Any:
        """Rows of a group, from `part * self._part_rows[group]` on: as many, or those that are left."""
        import pyarrow as pa

        key = (self._name, group, part)
        found = self._groups.get(key)
        if found is not None:
            return found
        with self._lock:
            found = self._groups.get(key)  # another thread may have read it meanwhile
            if found is not None:
                return found
            try:
                if self._part_rows[group] >= self._starts[group + 1] - self._starts[group]:
                    table = self._file.read_row_group(group, columns=[self._column], use_threads=False)
                    found = table.column(self._column)
                    self._groups.put(key, found)
                    return found
                return self._advance(group, part)
            except (pa.ArrowException, OSError) as error:
                raise ImageError(f"row group {group} of the parquet file cannot be read: {error}") from error

    def _advance(self, group: int, part: int) -> Any:
        """Read a large group from where the last reader stopped, or from its start, up to a part."""
        import pyarrow.parquet as pq

        if self._stream is None or self._stream[0] != group or self._stream[1] > part:
            # A file of its own: with a buffer, a column is read page by page and never whole.
            buffered = pq.ParquetFile(self._path, pre_buffer=False, buffer_size=2**20)
            batches = buffered.iter_batches(
                self._part_rows[group], row_groups=[group], columns=[self._column], use_threads=False
            )
            self._stream = (group, 0, batches)
        rows = int(self._starts[group + 1] - self._starts[group])
        for number in range(self._stream[1], part + 1):
            found = next(self._stream[2], None)
            expected = min(self._part_rows[group], rows - number * self._part_rows[group])
            if found is None or found.num_rows != expected:
                self._stream = None
                raise ImageError(f"row group {group} of the parquet file does not hold the rows it says")
            found = found.column(0)
            self._stream = (group, number + 1, self._stream[2])
            self._groups.put((self._name, group, number), found)
        return found


def _part_rows(group: Any, column: str) -> int:
    """Rows of a row group that are kept together: all, or as many as have _PART_BYTES where it is large."""
    size = sum(
        chunk.total_uncompressed_size
        for number in range(group.num_columns)
        if (chunk := group.column(number)).path_in_schema.split(".")[0] == column.split(".")[0]
    )
    if size <= _WHOLE_BYTES:
        return max(1, int(group.num_rows))
    return max(1, int(group.num_rows * _PART_BYTES / size))


def image_column(schema: pyarrow.Schema, path: Path) -> str:
    """The column that holds images; of several the one called `image`. DataError where that is none."""
    found = image_columns(schema)
    if "image" in found:
        return "image"
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{path} needs one column with image bytes, or one called image; it has {_listed(schema)}"
    )


def image_columns(schema: pyarrow.Schema) -> list[str]:
    """The columns of bytes, or of a struct with a field `bytes`."""
    import pyarrow as pa

    def holds_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    return [str(field.name) for field in schema if holds_bytes(field.type)]


def _listed(schema: pyarrow.Schema) -> str:
    return ", ".join(image_columns(schema)) or "none of " + ", ".join(schema.names)
