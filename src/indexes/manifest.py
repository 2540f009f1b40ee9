"""A list of images, csv, parquet or json: path, label and optionally split, generator, group.

Lists of other projects are taken as they are: `filename` is a path, and `typ` (ClipBased) is `real` or the
generator's name. A list with `class` (or `identity`) in the place of the label is one for retrieval.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError, DataError, did_you_mean
from .duplicates import check_near
from .folder import SPLIT_FOLDERS
from .table import Listing, Split, to_table
from .walk import MissingFolder

COLUMNS: tuple[str, ...] = (
    "path",
    "split",
    "box",
    "group",
    "label",
    "generator",
    "class",
    "role",
    "camera",
    "sequence",
    "modality",
)

LABELS: Mapping[str, int] = {"real": 0, "generated": 1, "fake": 1, "0": 0, "1": 1}

_DETECTION = ("path", "label", "split", "generator", "group", "typ")
_RETRIEVAL = ("path", "class", "split", "group", "role", "camera", "sequence", "modality", "box")
_READ = (*_DETECTION, *_RETRIEVAL)
_OTHER_NAMES = {"filename": "path"}


def index(
    root: Path,
    *,
    file: str = "manifest.csv",
    labels: Mapping[str, int] = LABELS,
    near_duplicates: float | None = None,
) -> Listing:
    """The rows of `file` in their order; columns that it lacks are lacking in the index.

    file: relative to root, or absolute; `.csv` (UTF-8, comma, a header row, RFC 4180 quotes), `.parquet` or
        `.json` (a list of objects that all have the same keys).
    labels: what stands in the label column → 0 (real) or 1 (generated).
    `path` is relative to root, or absolute and below it. `split` is train, val or test (also valid,
    validation). An empty split, generator or group is a null. Where there is no column label, `typ` tells it:
    `real`, in any case, or the generator of a generated image.

    Where there is neither, `class` or `identity` makes a list for retrieval: labels are the positions of the
    names among the sorted names, and besides split and group there may be role (gallery or query), modality
    (infrared or visible), camera, sequence, and box (`x0 y0 x1 y1` in pixels, half open, in parquet and json
    also four numbers). Empty is null. Copies between queries and their gallery or train are removed when the
    index is built, and with near_duplicates look-alikes, see `duplicates.without_near`.

    Raises DataError that names the row and the value for whatever is not so. Whether the files are there is
    checked when the index is built.
    """
    check_near(near_duplicates)
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
    retrieval = not {"label", "typ"} & {*header} and bool({"class", "identity"} & {*header})
    if retrieval:
        header = ["class" if name == "identity" else name for name in header]
    elif near_duplicates is not None:
        raise ConfigError(
            f"data.index.near_duplicates={near_duplicates}: {manifest} is no list for retrieval, which has "
            "class or identity in the place of label: type data.index.near_duplicates=null"
        )
    twice = sorted({name for name in header if header.count(name) > 1} & {*_READ})
    if twice:
        raise DataError(f"{manifest} has several columns for {twice[0]}: keep one")
    if "path" not in header:
        raise DataError(
            f"{manifest} has no column path; it has {', '.join(header)}. Name the column of files path"
        )
    if retrieval:
        return _retrieval(manifest, header, rows, root, near_duplicates)
    typed = "typ" in header and "label" not in header
    detection = [name for name in COLUMNS if name in _DETECTION]
    given = [name for name in detection if name in header or (typed and name in ("label", "generator"))]
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


def _retrieval(
    manifest: Path,
    header: list[str],
    rows: Iterator[tuple[str, Any]],
    root: Path,
    near_duplicates: float | None,
) -> Listing:
    """The Listing of a list whose rows have a class."""
    absolute_root = os.path.join(os.path.abspath(root), "")  # noqa: PTH100, PTH118 - keeps ".." and "/"
    given = [name for name in _RETRIEVAL if name in header]
    columns: dict[str, list[Any]] = {name: [] for name in given}
    readers: dict[str, Callable[[Any, str], Any]] = {
        "path": lambda value, where: _path(value, absolute_root, where),
        "class": _class,
        "split": _split,
        "role": lambda value, where: _one_of("role", ("gallery", "query"), value, where),
        "modality": lambda value, where: _one_of("modality", ("infrared", "visible"), value, where),
        "box": _box,
    }
    for where, cells in rows:
        row = {_OTHER_NAMES.get(name, name): value for name, value in cells.items()}
        if "identity" in row:
            row["class"] = row["identity"]
        for name in given:
            read = readers.get(name)
            columns[name].append(read(row[name], where) if read else _text(row[name]) or None)
    unused = [name for name in header if name not in columns]
    notes = {f"columns of {manifest.name} not used: {', '.join(unused)}": len(unused)} if unused else {}
    labels = {name: label for label, name in enumerate(sorted(set(columns["class"])))}
    columns["label"] = [labels[name] for name in columns["class"]]
    # Without roles val and test are queries and train is their gallery.
    columns.setdefault("role", [None] * len(columns["path"]))
    return Listing(
        to_table(columns), (manifest,), notes, read_for_copies=True, near_duplicates=near_duplicates
    )


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
    read = (*_READ, *_OTHER_NAMES, "identity")
    for batch in parquet.iter_batches(columns=[name for name in header if name in read]):
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


def _class(value: Any, where: str) -> str:
    text = _text(value)
    if not text:
        raise DataError(f"{where} has no class: name one in every row")
    return text


def _one_of(column: str, known: tuple[str, ...], value: Any, where: str) -> str | None:
    text = _text(value).casefold()
    if text and text not in known:
        raise DataError(
            f"{where}: {column} {_text(value)!r} is not known{did_you_mean(text, known)} Write "
            f"{' or '.join(known)}, or nothing"
        )
    return text or None


def _box(value: Any, where: str) -> list[float] | None:
    """Four numbers, or a text of them with blanks, commas or semicolons between, in brackets or not."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    parts = re.split(r"[\s,;]+", value.strip().strip("[]()").strip()) if isinstance(value, str) else value
    try:
        box = [float(part) for part in parts]
    except (TypeError, ValueError):
        box = []
    if (
        len(box) != 4
        or not all(map(math.isfinite, box))
        or not 0 <= box[0] < box[2]
        or not 0 <= box[1] < box[3]
    ):
        raise DataError(
            f"{where}: box {value!r} is no rectangle: write x0 y0 x1 y1 in pixels, x0 < x1 and y0 < y1, such "
            "as '10 20 42 84'"
        )
    return box


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()
