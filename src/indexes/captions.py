"""What layouts with captions share: text taken to the letter, every fault with its place, one row an image.

A caption is kept as it stands in its file, with its case, its Unicode form and its white space inside; only
white space at both ends is taken off.
"""

from __future__ import annotations

import json
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError, DataError, did_you_mean
from .duplicates import contents_of
from .table import Listing, Split, to_table
from .walk import MissingFolder, images_in, subfolders

Copies = Literal["keep", "remove"]

_SHOWN = 5
_UNSEEN = frozenset(("Zs", "Zl", "Zp", "Cc", "Cf"))  # Unicode categories of what leaves no mark
_JSON = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


@dataclass(frozen=True)
class Captioned:
    """An image as a file of captions has it.

    path: of the image, relative to the root once its layout has placed it. where: the entry or line that
    names it first, for messages.
    """

    path: str
    where: str
    captions: list[str]
    split: Split | None = None


def caption_of(value: Any, where: str) -> str:
    """A caption without the white space around it.

    where: its place, such as `line 3 of captions.txt`. Raises DataError for what is no text, for a text in
    which nothing is to be seen, and for half a character (a lone surrogate, which JSON can hold).
    """
    if not isinstance(value, str):
        raise DataError(f"the caption in {where} is {json_kind(value)}: write a text")
    text = value.strip()
    if all(unicodedata.category(character) in _UNSEEN for character in text):
        raise DataError(
            f"the caption in {where} is {'blank' if value else 'empty'}: write what is to be seen on the "
            "image, or take the caption out"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the caption in {where} holds half a character ({text[error.start]!r}, a lone surrogate): write "
            "it anew"
        ) from error
    return text


def json_kind(value: Any) -> str:
    """What a value of a JSON file is, in words: `a list`, `a number (3)`."""
    return _JSON.get(type(value), f"a number ({value})")


def text_of(file: Path) -> str:
    """A file of UTF-8, with or without a byte order mark; DataError names the first line that is not."""
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"line {line} of {file} is not UTF-8: save the file as UTF-8") from error


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line that is not blank; lines end in LF or CRLF and nothing else."""
    for number, line in enumerate(text_of(file).split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def json_of(file: Path) -> Any:
    """The content of a JSON file; DataError with line and column where it is none, or names a key twice."""

    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
            raise DataError(f"{file} has the key {twice!r} twice in one object: keep one")
        return found

    text = text_of(file)
    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}. Mend that place, "
            "or write the file anew"
        ) from error
    except RecursionError as error:
        raise DataError(f"{file} is not the JSON it should be: it is nested too deep") from error


def gathered(rows: Iterable[tuple[str, str, str]]) -> list[Captioned]:
    """(image, caption, where) of a list with one caption a row → one entry an image, in order."""
    found: dict[str, Captioned] = {}
    for name, text, where in rows:
        found.setdefault(name, Captioned(name, where, [])).captions.append(caption_of(text, where))
    return list(found.values())


def once_each(entries: Sequence[Captioned]) -> Sequence[Captioned]:
    """The entries; DataError where two of them name the same image."""
    first: dict[str, str] = {}
    for entry in entries:
        other = first.setdefault(entry.path, entry.where)
        if other != entry.where:
            raise DataError(
                f"{entry.where} names {entry.path}, as {other} does: name each image once, with all of its "
                "captions"
            )
    return entries


def check_there(root: Path, entries: Sequence[Captioned], there: Collection[str], looked: str) -> None:
    """DataError where an entry's image is not among the images that are there, all relative to root.

    looked: where they were looked for, in words.
    """
    missing = [entry for entry in entries if entry.path not in there]
    if not missing:
        return
    first = missing[0].path
    alike = unicodedata.normalize("NFC", first)
    hint = "Bring them back, or take their captions out"
    if any(unicodedata.normalize("NFC", name) == alike for name in there):
        hint = f"{first!r} is there in another Unicode form (NFC, NFD): rename one of both"
    elif "\\" in first:
        hint = "Write / between folders"
    elif near := did_you_mean(first, there):
        hint = near.replace(": did", "Did", 1)
    raise DataError(
        f"{len(missing)} of {len(entries)} images with captions are not in {looked}: "
        f"{few([entry.path for entry in missing])}; the first is that of {missing[0].where}. {hint}"
    )


def check_named(entries: Sequence[Captioned], there: Collection[str], file: Path) -> None:
    """DataError where an image that is there has no caption in the file."""
    unnamed = sorted(set(there) - {entry.path for entry in entries})
    if unnamed:
        raise DataError(
            f"{len(unnamed)} of {len(there)} images have no caption in {file}: {few(unnamed)}. Add their "
            "captions, or move the images away"
        )


def captioned(
    root: Path,
    entries: Sequence[Captioned],
    *,
    watched: Sequence[Path],
    notes: Mapping[str, int],
    copies: Copies,
    test_fraction: float = 0.0,
) -> Listing:
    """The Listing of entries whose paths are relative to root.

    copies: `remove` reads every file once and makes the hash of its bytes the `group`, so that copies of an
        image are of one split, or leave train where they are published in several.
    test_fraction: of sets without splits, see Listing.
    """
    counted = Counter(notes)
    wrapped = sum("\n" in caption for entry in entries for caption in entry.captions)
    if wrapped:
        counted["captions of several lines (kept as they are)"] = wrapped
    columns: dict[str, Any] = {
        "path": [entry.path for entry in entries],
        "split": [entry.split for entry in entries],
        "captions": [entry.captions for entry in entries],
    }
    if copies == "remove":
        placed = to_table({"path": columns["path"], "root": [0] * len(entries)})
        columns["group"] = contents_of(placed, [root])
    plain = all(entry.split is None for entry in entries)
    return Listing(
        to_table(columns),
        watched=watched,
        notes=dict(counted),
        test_fraction=test_fraction if plain else 0.0,
        copies=copies == "remove",
    )


def check_arguments(copies: str, test_fraction: float | None = None) -> None:
    """ConfigError where one of them is out of range."""
    if copies not in ("keep", "remove"):
        raise ConfigError(f"data.index.copies={copies}: must be keep or remove")
    if test_fraction is not None and (isinstance(test_fraction, bool) or not 0 <= test_fraction < 1):
        raise ConfigError(
            f"data.index.test_fraction={test_fraction}: must be at least 0 (no test split) and below 1"
        )


def find_file(root: Path, names: Sequence[str], *, key: str | None = None) -> tuple[Path, list[str]] | None:
    """(the first of these files that is there, the other ones that are), in root or in a folder of it.

    key: the argument that can name the file instead. Raises DataError where it is in several folders.
    """
    folders = [root, *(root / name for name in subfolders(root))]
    found = [[folder / name for folder in folders if (folder / name).is_file()] for name in names]
    found = [files for files in found if files]
    if not found:
        return None
    chosen, *others = found
    if len(chosen) > 1 and chosen[0].parent != root:
        shown = ", ".join(file.relative_to(root).as_posix() for file in chosen)
        instead = f"type data.index.{key}=<one of them>" if key else "keep one of them"
        raise DataError(f"{root} holds {shown}: {instead}")
    return chosen[0], [files[0].relative_to(root).as_posix() for files in others]


def named_file(root: Path, file: str, *, key: str) -> Path:
    """A file that an argument names, relative to root or absolute; DataError where it is not there."""
    place = root / file
    if place.is_file():
        return place
    if not root.is_dir():
        raise MissingFolder(root)
    raise DataError(f"{place} is not a file: type data.index.{key}=<a file below {root}>")


def image_folder(root: Path, wanted: str | None, usual: Sequence[str]) -> str:
    """The folder that images lie in, relative to root: the one that is named, else the first that holds some.

    Raises DataError where there is none, or it lies outside root.
    """
    if wanted is not None:
        folder = posixpath.normpath(wanted)
        if folder.startswith(("/", "../")) or folder == "..":
            raise DataError(
                f"data.index.images={wanted} leads out of data.root={root}: type data.root=<a folder above "
                "it>"
            )
        if not (root / folder).is_dir():
            raise DataError(f"data.index.images={wanted}: {root / folder} is not a folder")
        return folder
    for name in usual:
        if (root / name).is_dir() and images_in(root / name):
            return name
    raise DataError(
        f"no images in {', '.join(str(root / name) for name in usual)}: type data.index.images=<the folder "
        "that they lie in, relative to data.root>"
    )


def placed(entries: Iterable[Captioned], folder: str) -> list[Captioned]:
    """The entries with their images below a folder."""
    return [replace(one, path=posixpath.normpath(f"{folder}/{one.path}")) for one in entries]


def images_of(root: Path, folder: str) -> set[str]:
    """The images directly in a folder, relative to root."""
    return {posixpath.normpath(f"{folder}/{name}") for name in images_in(root / folder)}


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
