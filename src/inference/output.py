"""Tables on their way to a file, part by part: csv, json or parquet, written whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError, DataError, did_you_mean

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("logit", pa.float32()),
        ("probability", pa.float32()),
        ("verdict", pa.string()),
        ("band", pa.string()),
    ]
)
"""Of a detector's predictions; those of other tasks have other columns behind `path`."""
_ROWS = 2**14
"""Of a parquet row group, and so of what is held in memory."""

_OF_TASKS = (
    SCHEMA,
    pa.schema([("path", pa.string()), ("embedding", pa.list_(pa.float32(), 1))]),
    pa.schema([("path", pa.string()), ("text", pa.string())]),
    pa.schema(
        [
            *SCHEMA,
            ("text", pa.string()),
            ("valid", pa.bool_()),
            ("log_likelihood_real", pa.float32()),
            ("log_likelihood_generated", pa.float32()),
        ]
    ),
)
"""Predictions of all tasks, known again by their columns."""

Write = Callable[[pa.Table], None]
Finish = Callable[[], None]


def check_output(output: str | Path, schema: pa.Schema | None = None) -> Path:
    """The output as a path, if a table can be written there.

    What is there already is replaced only if it is such a table itself, or empty; schema: of which kind it
    is, None for predictions of any task. Raises ConfigError for an ending that is not .csv, .json or
    .parquet, DataError for a folder, a foreign file and a place where nothing can be written.
    """
    path = Path(output)
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a file in it, such as {path / 'predictions.csv'}")
    if path.suffix not in _FORMATS:
        near = did_you_mean(path.suffix, _FORMATS)
        raise ConfigError(
            f"{path} is written as its ending says{near or ':'} it must be {', '.join(_FORMATS)}, such as "
            f"{path.with_suffix('.csv') if path.name else 'predictions.csv'}"
        )
    kinds = _OF_TASKS if schema is None else (schema,)
    if path.exists() and not any(_is_table(path, kind) for kind in kinds):
        what = "predictions" if schema is None else f"{', '.join(schema.names)}"
        raise DataError(f"{path} exists and is no table of {what}: choose another name, or remove it")
    check_place(path)
    return path


def check_place(path: Path) -> None:
    """DataError where no file can be written: below a file, or without permission."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise DataError(f"{path} cannot be written: {folder} is not a folder")
    if not os.access(folder, os.W_OK):
        raise DataError(f"{path} cannot be written: no permission to write into {folder}")


@contextmanager
def writing(path: Path, schema: pa.Schema = SCHEMA) -> Iterator[Write]:
    """A function that takes the table part by part; at the end the file is there, or as it was before.

    csv: a header, RFC 4180 quotes, UTF-8; a list of n numbers becomes n columns, an `embedding` e0, e1, ….
    json: one array of objects, UTF-8. Floats in both are the shortest decimals that give the same float32.
    Raises DataError where the disk refuses.
    """
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(3)}.tmp")
    with _said(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = unfinished.open("xb")
    try:
        write, finish = _FORMATS[path.suffix](file, schema)

        def written(part: pa.Table) -> None:
            with _said(path):
                write(part)

        yield written
        with _said(path):
            finish()
            file.close()
            unfinished.replace(path)
    finally:
        with suppress(OSError):
            file.close()
        unfinished.unlink(missing_ok=True)


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def remove_table(path: Path, schema: pa.Schema) -> None:
    """Remove a file if it is a table of this schema; whatever else lies there stays."""
    if path.is_file() and _is_table(path, schema):
        with _said(path):
            path.unlink()


def _is_table(path: Path, schema: pa.Schema) -> bool:
    """By its beginning, a list of any length; an empty file counts."""
    header = ",".join(_columns(schema))
    try:
        if path.stat().st_size == 0:
            return True
        if path.suffix == ".parquet":
            return bool(pq.read_schema(path).names == schema.names)
        with path.open(encoding="utf-8", newline="") as file:
            start = file.readline(max(1000, len(header) + 1)) + file.readline(1000)
    except (OSError, UnicodeDecodeError, pa.ArrowException):
        return False
    if path.suffix == ".csv":
        more = "," if pa.types.is_fixed_size_list(schema.types[-1]) else "\n"
        return start.startswith((header + "\n", header + more))
    return start.startswith((f'[\n{{"{schema.names[0]}": ', "[\n]"))


# --- one function a format: (file, schema) -> (write a part, write the end) ---


def _csv(file: BinaryIO, schema: pa.Schema) -> tuple[Write, Finish]:
    def put(rows: Iterable[Sequence[str]]) -> None:
        text = StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        file.write(text.getvalue().encode())

    put([_columns(schema)])
    return lambda part: put(_texts(_flat(part))), file.flush


def _json(file: BinaryIO, schema: pa.Schema) -> tuple[Write, Finish]:
    before = "[\n"
    numbers = [pa.types.is_floating(kind) or pa.types.is_fixed_size_list(kind) for kind in schema.types]

    def write(part: pa.Table) -> None:
        nonlocal before
        for row in _texts(part):
            cells = [
                f"{json.dumps(name)}: {text if is_number else json.dumps(text, ensure_ascii=False)}"
                for name, text, is_number in zip(schema.names, row, numbers, strict=True)
            ]
            file.write(f"{before}{{{', '.join(cells)}}}".encode())
            before = ",\n"

    return write, lambda: _end(file, "[\n]\n" if before == "[\n" else "\n]\n")


def _parquet(file: BinaryIO, schema: pa.Schema) -> tuple[Write, Finish]:
    parts: list[pa.Table] = []
    few = [field.name for field in schema if not pa.types.is_fixed_size_list(field.type)]  # distinct values
    written = pq.ParquetWriter(file, schema, use_dictionary=few, write_page_checksum=True)

    def put() -> None:
        if parts:
            written.write_table(pa.concat_tables(parts))
            parts.clear()

    def write(part: pa.Table) -> None:
        parts.append(part)
        if sum(len(one) for one in parts) >= _ROWS:
            put()

    def finish() -> None:
        put()
        written.close()

    return write, finish


_FORMATS: dict[str, Callable[[BinaryIO, pa.Schema], tuple[Write, Finish]]] = {
    ".csv": _csv,
    ".json": _json,
    ".parquet": _parquet,
}


def _texts(part: pa.Table) -> Iterator[tuple[str, ...]]:
    """Rows as text; numpy gives a float32 the shortest decimal that is no other float32."""
    return zip(*map(_column, part.columns), strict=True)


def _column(column: pa.ChunkedArray) -> Iterable[Any]:
    if pa.types.is_floating(column.type):
        return map(str, column.to_numpy())
    if pa.types.is_fixed_size_list(column.type):
        flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
        numbers = map(str, flat.to_numpy())
        return (f"[{', '.join(islice(numbers, column.type.list_size))}]" for _ in range(len(column)))
    values: list[Any] = column.to_pylist()
    return values


def _columns(schema: pa.Schema) -> list[str]:
    """Names of the columns of a csv file."""
    return [
        name
        for field in schema
        for name in (
            [f"{field.name[0]}{place}" for place in range(field.type.list_size)]
            if pa.types.is_fixed_size_list(field.type)
            else [field.name]
        )
    ]


def _flat(part: pa.Table) -> pa.Table:
    """With a column for each place in a list."""
    columns: list[pa.Array | pa.ChunkedArray] = []
    for column in part.columns:
        if pa.types.is_fixed_size_list(column.type):
            flat = pa.chunked_array([one.flatten() for one in column.chunks], column.type.value_type)
            places = flat.to_numpy().reshape(-1, column.type.list_size).T
            columns += [pa.array(np.ascontiguousarray(place)) for place in places]
        else:
            columns.append(column)
    return pa.Table.from_arrays(columns, _columns(part.schema))


def _end(file: BinaryIO, text: str) -> None:
    file.write(text.encode())
    file.flush()
