"""A list of images, csv, parquet or json: path, label and optionally split, generator, group.

Lists of other projects are taken as they are: `filename` is a path, and `typ` (ClipBased) is `real` or the
generator's name.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError, DataError, did_you_mean
from .folder import SPLIT_FOLDERS
from .table import Listing, Split, to_table
from .walk import MissingFolder

COLUMNS: tuple[str, ...] = ("path", "split", "group", "label", "generator")

LABELS: Mapping[str, int] = {"real": 0, "generated": 1, "fake": 1, "0": 0, "1": 1}

_READ = ("path", "label", "split", "generator", "group", "typ")
_OTHER_NAMES = {"filename": "path"}


def index(root: Path, *, file: str = "manifest.csv", labels: Mapping[str, int] = LABELS) -> Listing:
    """The rows of `file` in their order; columns that it lacks are lacking in the index.

    file: relative to root, or absolute; `.csv` (UTF-8, comma, a header row, RFC 4180 quotes), `.parquet` or
        `.json` (a list of objects that all have the same keys).
    labels: what stands in the label column → 0 (real) or 1 (generated).
    `path` is relative to root, or absolute and below it. `split` is train, val or test (also valid,
    validation). An empty split, generator or group is a null. Where there is no column label, `typ` tells it:
    `real`, in any case, or the generator of a generated image.

    Raises DataError that names the row and the value for whatever is not so. Whether the files are there is
    checked when the index is built.
    """
    if not root.is_dir():
        raise MissingFolder(root)
    manifest = root / file
    if not manifest.is_file():
        raise DataError(f"{manifest} is not a file: type data.index.file=<csv, parquet or json in {root}>")
    meanings = _meanings(labels)
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows, ".json": _json_rows}
    if manifest.suffix.lower() not in readers:
        raise ConfigError(f"data.index.file={file}: must end in .csv, .parquet or .json")
    rows = readers[manifest.suffix.lower()](manifest)
    header = [_OTHER_NAMES.get(name, name) for name in next(rows)[1]]
    twice = sorted({name for name in header if header.count(name) > 1} & {*_READ})
    if twice:
        raise DataError(f"{manifest} has several columns for {twice[0]}: keep one")
    if "path" not in header:
        raise DataError(
            f"{manifest} has no column path; it has {', '.join(header)}. Name the column of files path"
        )
    typed = "typ" in header and "label" not in header
    given = [name for name in COLUMNS if name in header or (typed and name in ("label", "generator"))]
    columns: dict[str, list[Any]] = {name: [] for name in given}
    absolute_root = os.path.join(os.path.abspath(root), "")  # noqa: PTH100, PTH118 - keeps ".." and "/"
    for where, cells in rows:
        row = {_OTHER_NAMES.get(name, name): value for name, value in cells.items()}
        columns["path"].append(_path(row["path"], absolute_root, where))
        if "label" in header:
            columns["label"].append(_label(row["label"], meanings, where))
        elif typed:
            label, row["generator"] = _typ(row["typ"], where)
            columns["label"].append(label)
        if "split" in header:
            columns["split"].append(_split(row["split"], where))
        for name in ("generator", "group"):
            if name in columns:
                columns[name].append(_text(row[name]) or None)
    unused = [name for name in header if name not in columns and not (typed and name == "typ")]
    notes = {f"columns of {manifest.name} not used: {', '.join(unused)}": len(unused)} if unused else {}
    if "label" in columns:
        # A table of labelled real and generated images is a detection table even where no generator is known.
        columns.setdefault("generator", [None] * len(columns["path"]))
    return Listing(to_table(columns), watched=(manifest,), notes=notes)


def _csv_rows(manifest: Path) -> Iterator[tuple[str, Any]]:
    """("", header), then (where, row as a dict) of each line that is not blank."""
    with manifest.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            yield "", header
            for number, cells in enumerate((cells for cells in reader if cells), start=1):
                where = f"row {number} (line {reader.line_num}) of {manifest}"
                if len(cells) != len(header):
                    raise DataError(
                        f"{where} has {len(cells)} cells, the header has {len(header)}: quote cells that "
                        "hold commas"
                    )
                yield where, dict(zip(header, cells, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{manifest}, after line {reader.line_num}, is not csv in UTF-8 ({error}): save it anew as "
                "such"
            ) from error


def _parquet_rows(manifest: Path) -> Iterator[tuple[str, Any]]:
    try:
        parquet = pq.ParquetFile(manifest)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{manifest} is not a parquet file ({error}): write it anew") from error
    header = parquet.schema_arrow.names
    yield "", header
    number = 0
    for batch in parquet.iter_batches(columns=[name for name in header if name in (*_READ, *_OTHER_NAMES)]):
        for row in batch.to_pylist():
            number += 1
            yield f"row {number} of {manifest}", row


def _json_rows(manifest: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(manifest.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # undecodable bytes, too
        raise DataError(f"{manifest} is not json in UTF-8 ({error}): write it anew") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f'{manifest} is not a list of objects such as {{"path": …, "label": 0}}')
    yield "", list(rows[0])
    for number, row in enumerate(rows, start=1):
        if row.keys() != rows[0].keys():
            raise DataError(
                f"row {number} of {manifest} has the keys {', '.join(row)}, the first has "
                f"{', '.join(rows[0])}: give every row the same"
            )
        yield f"row {number} of {manifest}", row


def _typ(value: Any, where: str) -> tuple[int, str | None]:
    """(label, generator) of the one word that ClipBased's lists have for both."""
    text = _text(value)
    if not text:
        raise DataError(f"{where} has no typ: write real, or what generated the image")
    return (0, None) if text.casefold() == "real" else (1, text)


def _meanings(labels: Mapping[str, int]) -> dict[str, int]:
    meanings = {str(value): label for value, label in labels.items()}
    wrong = {
        value: label for value, label in meanings.items() if label not in (0, 1) or isinstance(label, bool)
    }
    if wrong or not meanings:
        raise ConfigError(f"data.index.labels={dict(labels)}: must map values to 0 (real) or 1 (generated)")
    return meanings


def _path(value: Any, root: str, where: str) -> str:
    path = _text(value)
    if not path:
        raise DataError(f"{where} has no path: name a file in every row")
    if os.path.isabs(path):  # noqa: PTH117
        path = os.path.normpath(path)
        if not path.startswith(root):
            raise DataError(
                f"{where}: {path} does not lie below data.root={root[:-1]}: type data.root=<a folder above "
                "it>"
            )
        return path[len(root) :]
    path = os.path.normpath(path)
    if path == ".." or path.startswith("../"):
        raise DataError(
            f"{where}: {value} leads out of data.root={root[:-1]}: type data.root=<a folder above it>"
        )
    return path


def _label(value: Any, meanings: Mapping[str, int], where: str) -> int:
    text = _text(value)
    if text not in meanings:
        raise DataError(
            f"{where}: label {text!r} is not known{did_you_mean(text, meanings)} Known labels: "
            f"{', '.join(meanings)}. Type 'data.index.labels={{{text or '<value>'}: 0}}' (real) or 1 "
            "(generated), with all values"
        )
    return meanings[text]


def _split(value: Any, where: str) -> Split | None:
    text = _text(value)
    if not text:
        return None
    if text.casefold() not in SPLIT_FOLDERS:
        raise DataError(
            f"{where}: split {text!r} is not known{did_you_mean(text, SPLIT_FOLDERS)} Write train, val or "
            "test"
        )
    return SPLIT_FOLDERS[text.casefold()]


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
