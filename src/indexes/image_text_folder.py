"""Images with captions of your own: `a.jpg` beside `a.txt`, or a manifest.json of file names and captions."""

from __future__ import annotations

import posixpath
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import DataError
from .captions import (
    Captioned,
    Copies,
    caption_of,
    captioned,
    check_arguments,
    check_there,
    few,
    json_kind,
    json_of,
    named_file,
    once_each,
    placed,
    text_of,
)
from .folder import SPLIT_FOLDERS, split_folders
from .table import Listing
from .walk import IMAGE_SUFFIXES, files_below, images_below, images_in, subfolders

COLUMNS: tuple[str, ...] = ("path", "split", "group", "captions")

MANIFEST = "manifest.json"

_TEXT = ".txt"


def index(
    root: Path,
    *,
    manifest: str | None = MANIFEST,
    test_fraction: float = 0.1,
    copies: Copies = "remove",
) -> Listing:
    """One row an image with its captions; images lie at any depth, perhaps below `train`, `val` and `test`.

    manifest: one JSON object, file name → caption or list of captions. Where this file is in root, names are
        relative to root, and their first folder may be the split. Where it is in a split folder, names are
        relative to that. Where it is in neither, each image has its caption in a file of its name, with the
        ending .txt; None does so in any case. Images that a manifest does not name are left out and counted.
    test_fraction: without split folders, the share that is test, by a hash of each image's bytes.
    copies: see `captions.captioned`.

    Raises MissingFolder, DataError that names the file and the key for a manifest that is not so, and for
    images without a caption and captions without an image.
    """
    check_arguments(copies, test_fraction)
    notes: Counter[str] = Counter()
    names = subfolders(root)
    if manifest is not None and (root / manifest).is_file():
        others = [
            name for name in names if name.casefold() in SPLIT_FOLDERS and (root / name / manifest).is_file()
        ]
        if others:
            raise DataError(
                f"{root} holds {manifest} and {others[0]}/{manifest}: keep the one, or the others"
            )
        entries, watched = _manifest(root, root / manifest, notes), [root / manifest]
        splits = {name: SPLIT_FOLDERS[name.casefold()] for name in names if name.casefold() in SPLIT_FOLDERS}
        entries = [
            Captioned(one.path, one.where, one.captions, splits.get(one.path.partition("/")[0]))
            for one in entries
        ]
    else:
        parts = split_folders(root)
        if manifest not in (None, MANIFEST) and not any(
            (root / prefix / str(manifest)).is_file() for _, prefix in parts
        ):
            named_file(root, str(manifest), key="manifest")
        entries, watched = [], []
        for split, prefix in parts:
            folder = root / prefix
            if manifest is not None and (folder / manifest).is_file():
                found, read = _manifest(folder, folder / manifest, notes), [folder / manifest]
            else:
                found, read = _texts(folder, notes)
            entries += [
                Captioned(one.path, one.where, one.captions, split) for one in placed(found, prefix or ".")
            ]
            watched += read
        stray = images_in(root) if parts != [(None, "")] else []
        if stray:
            notes["images left out that lie outside every split folder"] = len(stray)
    return captioned(
        root,
        entries,
        watched=(root, *watched),
        notes=notes,
        copies=copies,
        test_fraction=test_fraction,
    )


def _manifest(folder: Path, file: Path, notes: Counter[str]) -> list[Captioned]:
    """The images that a manifest names, relative to its folder, in its order."""
    content = json_of(file)
    if not isinstance(content, dict) or not content:
        found = json_kind(content) if not isinstance(content, dict) else "empty"
        raise DataError(
            f'{file} is {found}: it must be one object such as {{"a.jpg": "a red square", "b.jpg": ["one '
            'caption", "another"]}'
        )
    entries = []
    for name, value in content.items():
        where = f"key {name!r} of {file}"
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(f"{where} leads out of {folder}: write names relative to it")
        entries.append(Captioned(posixpath.normpath(name), where, _captions(value, where)))
    there = set(images_below(folder, Counter()))
    check_there(folder, once_each(entries), there, str(folder))
    if len(there) > len(entries):
        notes[f"images left out that {file.name} does not name"] += len(there) - len(entries)
    return entries


def _captions(value: Any, where: str) -> list[str]:
    if isinstance(value, str):
        return [caption_of(value, where)]
    if not isinstance(value, list):
        raise DataError(f"{where} has {json_kind(value)}: write a caption, or a list of captions")
    if not value:
        raise DataError(f"{where} has no caption: its list is empty")
    return [caption_of(one, f"item {number} of {where}") for number, one in enumerate(value)]


def _texts(folder: Path, notes: Counter[str]) -> tuple[list[Captioned], list[Path]]:
    """The images below a folder with what stands in the .txt files beside them, and these files."""
    images: dict[str, str] = {}
    texts: dict[str, str] = {}
    for path in files_below(folder, {*IMAGE_SUFFIXES, _TEXT}, notes):
        stem, ending = posixpath.splitext(path)
        found = texts if ending.lower() == _TEXT else images
        other = found.setdefault(stem, path)
        if other != path:
            what = (
                "caption files of one image" if found is texts else f"images with one caption, {stem}{_TEXT}"
            )
            raise DataError(f"{folder} holds {other} and {path}, two {what}: rename one of them")
    bare = [path for stem, path in images.items() if stem not in texts]
    if bare:
        hint = "write it, or move the image away"
        if not texts:
            hint = f"there is no {_TEXT} file at all, and no {MANIFEST} in data.root: bring one or the other"
        raise DataError(
            f"{len(bare)} of {len(images)} images below {folder} have no caption: {few(bare)}. "
            f"{posixpath.splitext(bare[0])[0]}{_TEXT} is missing: {hint}"
        )
    alone = [path for stem, path in texts.items() if stem not in images]
    if alone:
        raise DataError(
            f"{len(alone)} of {len(texts)} captions below {folder} have no image: {few(alone)}. Bring the "
            "image, or move the file away"
        )
    entries = []
    for stem, path in images.items():
        file = folder / texts[stem]
        entries.append(Captioned(path, str(file), [caption_of(text_of(file), str(file))]))
    return entries, [folder / path for path in texts.values()]
