"""The files that hold conversations, their rows, and the images that these name."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import ConfigError, DataError, did_you_mean
from .captions import json_kind, json_of, lines_of, named_file
from .hf_files import SPLIT_NAMES, split_name
from .messages import plain_text
from .table import SPLITS, Split
from .walk import MissingFolder

Annotations = str | Mapping[str, str | Sequence[str]] | None
"""A file, or a file or several for a split; relative to data.root."""


def annotation_files(
    root: Path, annotations: Annotations, suffixes: Sequence[str]
) -> list[tuple[Path, Split | None]]:
    """The files of conversations, each with its split; None where no file tells one, or all are train.

    annotations: see Annotations. None: those with one of these endings in root and in its folder `data`. One
        file has no splits, several have them by their names (`train.json`, `test-00000-of-00002.parquet`).
    Raises DataError where that is not clear, ConfigError for a split that there is not.
    """
    if isinstance(annotations, str):
        return [(_file(root, annotations, "annotations", suffixes), None)]
    if annotations is not None:
        found: list[tuple[Path, Split | None]] = []
        for key, files in annotations.items():
            split = next((one for one in SPLITS if one == key), None)
            if split is None:
                raise ConfigError(
                    f"unknown split data.index.annotations.{key}{did_you_mean(key, SPLITS)} splits: "
                    f"{', '.join(SPLITS)}"
                )
            names = [files] if isinstance(files, str) else files
            found += [(_file(root, name, f"annotations.{key}", suffixes), split) for name in names]
        if not found:
            raise ConfigError("data.index.annotations={}: name a file, or type data.index.annotations=null")
        return _with_splits(found)
    if not root.is_dir():
        raise MissingFolder(root)
    folders = [folder for folder in (root, root / "data") if folder.is_dir()]
    names = sorted(
        file.relative_to(root).as_posix()
        for folder in folders
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
    )
    if not names:
        raise DataError(
            f"{root} holds no file that ends in {' or '.join(suffixes)}: type data.root=<the folder of the "
            "conversations>, or data.index.annotations=<file>"
        )
    if len(names) == 1:
        return [(root / names[0], None)]
    unclear = [name for name in names if split_name(name).casefold() not in SPLIT_NAMES]
    if unclear:
        raise DataError(
            f"{root} holds {', '.join(names[:5])}{' and more' if len(names) > 5 else ''}, and {unclear[0]} "
            f"does not tell its split: type data.index.annotations={names[0]}, or "
            f"'data.index.annotations={{train: {names[0]}, test: {names[1]}}}'"
        )
    return _with_splits([(root / name, SPLIT_NAMES[split_name(name).casefold()]) for name in names])


def json_items(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, object) of each object of a JSON list."""
    content = json_of(file)
    if not isinstance(content, list) or not content:
        what = "an empty list" if content == [] else json_kind(content)
        raise DataError(f"{file} is {what}: must be a list of objects, each a conversation")
    for number, one in enumerate(content):
        yield _named(one, f"item {number} of {file}")


def json_lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, object) of each line of a JSONL file; blank lines are passed over."""
    empty = True
    for number, line in lines_of(file):
        where = f"line {number} of {file}"
        empty = False
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            hint = ": it may be a list over several lines, type data=llava or data=hf_chat"
            raise DataError(
                f"{where} is not JSON, column {error.colno}: {error.msg}"
                + (hint if number == 1 and line.lstrip().startswith("[") else ". Mend it, or take it out")
            ) from error
        except RecursionError as error:
            raise DataError(f"{where} is not the JSON it should be: it is nested too deep") from error
        yield _named(value, where)
    if empty:
        raise DataError(f"{file} holds no conversation")


def images_folder(root: Path, images: str | None) -> Path:
    """The folder that paths of images are relative to; DataError where it is not there, or outside root."""
    if not root.is_dir():
        raise MissingFolder(root)
    if images is None:
        return root
    folder = posixpath.normpath(images)
    if folder.startswith(("/", "../")) or folder == "..":
        raise DataError(
            f"data.index.images={images} leads out of data.root={root}: type data.root=<a folder above it>"
        )
    if not (root / folder).is_dir():
        raise DataError(f"data.index.images={images}: {root / folder} is not a folder")
    return root / folder


def image_paths(value: Any, folder: Path, root: Path, where: str) -> list[str]:
    """What a row names as its image or images, relative to root.

    value: a path, an object whose `path` is one, a list of these, or None for none.
    """
    listed = value if isinstance(value, list) else [] if value is None else [value]
    found = []
    for number, one in enumerate(listed):
        place = f"image {number} of {where}" if len(listed) > 1 else f"the image of {where}"
        if isinstance(one, Mapping) and one.get("path"):
            if one.get("bytes"):
                raise DataError(f"{place} is embedded: only the rows of parquet files can hold images")
            one = one["path"]
        found.append(image_path(one, folder, root, place))
    return found


def image_path(value: Any, folder: Path, root: Path, where: str) -> str:
    """The path of an image, relative to root: relative to folder, or absolute and below root, or a `file:`.

    Raises DataError for what is no path, leads out of root, or would have to be fetched.
    """
    if not isinstance(value, str) or not value:
        what = "an empty text" if value == "" else json_kind(value)
        raise DataError(f"{where} is {what}: must be the path of a file below {folder}")
    scheme = value.partition(":")[0].lower()
    if scheme in ("http", "https", "ftp", "s3", "gs", "hf"):
        raise DataError(
            f"{where} is {value[:80]!r}, which lies elsewhere and may be another image tomorrow: fetch it "
            f"into {folder}, and name the file"
        )
    if scheme == "data":
        raise DataError(
            f"{where} is written out in the text ({value[:30]}…), and would be kept in memory as a whole: "
            f"write it into a file below {folder}, and name the file"
        )
    if scheme == "file":
        parts = urlsplit(value)
        if parts.netloc not in ("", "localhost"):
            raise DataError(f"{where} is {value!r}, on another machine: write file:///folder/name")
        value = unquote(parts.path)
    plain_text(value, where)
    placed = posixpath.normpath(posixpath.join(folder.absolute().as_posix(), value))
    above = posixpath.normpath(root.absolute().as_posix())
    if not placed.startswith(f"{above}/".replace("//", "/")):
        raise DataError(
            f"{where} is {value!r}, which leads out of data.root={root}: type data.root=<a folder above it>"
        )
    return placed[len(above) :].lstrip("/")


def _file(root: Path, name: str, key: str, suffixes: Sequence[str]) -> Path:
    file = named_file(root, name, key=key)
    if file.suffix.lower() not in suffixes:
        raise ConfigError(f"data.index.{key}={name}: must end in {' or '.join(suffixes)}")
    return file


def _named(value: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    """The place with the row's own id, where it has one."""
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is {json_kind(value)}: must be an object")
    own = value.get("id")
    number, _, file = where.partition(" of ")
    return (f"{number} (id {own}) of {file}" if isinstance(own, str | int) else where), value


def _with_splits(found: list[tuple[Path, Split | None]]) -> list[tuple[Path, Split | None]]:
    """Files that are all train have no split: test is then carved from them, as from one file."""
    if all(split == "train" for _, split in found):
        return [(file, None) for file, _ in found]
    return found
