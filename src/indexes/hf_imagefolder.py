"""A data set of image files as the hub's ImageFolder has it: folders named by class, or metadata.csv."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from ..errors import ConfigError, DataError, did_you_mean
from .hf_files import SPLIT_NAMES, placed_splits
from .table import Split
from .walk import images_below

_METADATA = ("metadata.csv", "metadata.jsonl")


def rows(
    folder: Path, splits: Mapping[str, str] | None, label: str | None, generator: str | None
) -> tuple[pa.Array, list[Split | None], pa.Array, pa.Array | None, dict[str, int]]:
    """Paths, splits, class names and generators of the image files below a folder, and what was left aside.

    `metadata.csv` or `.jsonl` (columns file_name and label, file_name relative to it) names images and
    classes for the folder it lies in; without one, an image's class is the folder that it lies in.
    """
    notes: Counter[str] = Counter()
    images = images_below(folder, notes)
    if not images:
        raise DataError(f"{folder} holds neither parquet files nor images: is it a data set of the hub?")
    lists = [file for name in _METADATA for file in sorted(folder.rglob(name)) if not _hidden(file, folder)]
    if not lists and (label is not None or generator is not None):
        raise ConfigError(
            f"data.index.{'label' if label else 'generator'}: {folder} has neither parquet files nor a "
            "metadata.csv, and so no columns; its classes are its folders"
        )
    paths: list[str] = []
    classes: list[str | None] = []
    made_by: list[str | None] = []
    if lists:
        for file in lists:
            for path, row in _listed(file, folder, label, generator):
                paths.append(path)
                classes.append(_text(row[label or "label"]))
                made_by.append(_text(row[generator]) if generator is not None else None)
        unlisted = len(set(images) - set(paths))
        if unlisted:
            notes["images left out that no metadata.csv names"] += unlisted
    else:
        for path in images:
            parent = PurePosixPath(path).parent.name
            if not parent:
                raise DataError(f"{folder / path} lies in no class folder: move it to {folder}/CLASS/")
            paths.append(path)
            classes.append(parent)
    found = _splits(paths, splits, notes)
    keep = [number for number, path in enumerate(paths) if path in found]
    return (
        pa.array([paths[number] for number in keep], pa.string()),
        [found[paths[number]] for number in keep],
        pa.array([classes[number] for number in keep], pa.string()),
        pa.array([made_by[number] for number in keep], pa.string()) if generator is not None else None,
        dict(notes),
    )


def _splits(
    paths: list[str], splits: Mapping[str, str] | None, notes: Counter[str]
) -> dict[str, Split | None]:
    """The split of each path by the first folder that is called as one, without those that are left out."""
    names = [_split_of(path, splits or {}) for path in paths]
    placed = placed_splits(names, splits)
    found: dict[str, Split | None] = {}
    for path, name in zip(paths, names, strict=True):
        if name in placed:
            found[path] = placed[name]
        else:
            notes[f"images of the split {name!r}, which data.index.splits does not name (left out)"] += 1
    return found


def _split_of(path: str, splits: Mapping[str, str]) -> str:
    folders = PurePosixPath(path).parent.parts
    return next((name for name in folders if name in splits or name.casefold() in SPLIT_NAMES), "")


def _listed(
    file: Path, folder: Path, label: str | None, generator: str | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path relative to folder, row) of a metadata file; DataError names the row that is not right."""
    above = file.parent.relative_to(folder).as_posix()
    wanted = ["file_name", label or "label", *([generator] if generator is not None else [])]
    for number, row in enumerate(_read(file), start=1):
        for name in wanted:
            if name not in row:
                raise DataError(
                    f"row {number} of {file} has no {name}{did_you_mean(name, row)} It has {', '.join(row)}"
                )
        given = str(row["file_name"])
        path = os.path.normpath(given if above == "." else f"{above}/{given}")
        if given.startswith("/") or path.startswith("..") or not given:
            raise DataError(f"row {number} of {file}: file_name {given!r} leads out of {folder}")
        yield path, row


def _read(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            if file.suffix == ".csv":
                yield from csv.DictReader(lines, strict=True, restkey="(more cells than the header)")
                return
            for line in lines:
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise DataError(f"{file} holds the line {line.strip()[:60]}, which is no object")
                    yield row
    except (csv.Error, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}): save it anew in UTF-8") from error


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)
