"""Flickr8k: 8,091 photographs with five captions each (Hodosh, Young and Hockenmaier, JAIR 2013)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from ..errors import DataError
from .caption_lists import read_captions_csv, read_token
from .captions import (
    Captioned,
    Copies,
    captioned,
    check_arguments,
    check_named,
    check_there,
    find_file,
    image_folder,
    images_of,
    lines_of,
    named_file,
    placed,
)
from .table import Listing, Split

COLUMNS: tuple[str, ...] = ("path", "split", "group", "captions")

ORIGIN = "https://hockenmaier.cs.illinois.edu/8k-pictures.html"

ANNOTATIONS = ("captions.txt", "Flickr8k.token.txt")
FOLDERS = (
    "Images",
    "images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
    ".",
)
LISTS: dict[Split, str] = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}

_STRAY = "2258277193_586949ec62.jpg.1"  # five captions in Flickr8k.token.txt, and never an image


def index(
    root: Path,
    *,
    annotations: str | None = None,
    images: str | None = None,
    test_fraction: float = 0.1,
    copies: Copies = "remove",
) -> Listing:
    """One row an image with its captions.

    annotations: the file to read, relative to root. None: `captions.txt` (csv, `image,caption`), else
        `Flickr8k.token.txt`, in root or one folder below.
    images: the folder of the .jpg files, relative to root; None: the usual names.
    test_fraction: where `Flickr_8k.trainImages.txt`, `devImages` and `testImages` are not there, this share
        is test, by a hash of each image's bytes. Where they are, images in none of them are left out.
    copies: see `captions.captioned`.

    Raises MissingFolder, DataError with file and line for whatever is not so, for captions without their
    image and images without a caption.
    """
    check_arguments(copies, test_fraction)
    notes: Counter[str] = Counter()
    if annotations is not None:
        file = named_file(root, annotations, key="annotations")
    else:
        found = find_file(root, ANNOTATIONS, key="annotations")
        if found is None:
            raise DataError(
                f"{root} holds no {' and no '.join(ANNOTATIONS)}, in itself or a folder of it: type "
                "data.root=<the folder of Flickr8k>, or data.index.annotations=<file>"
            )
        file = found[0]
        for other in found[1]:
            notes[f"files of captions not read, since {file.name} is: {other}"] = 1
    entries = read_token(file) if ".token" in file.name else read_captions_csv(file, notes)
    folder = image_folder(root, images, FOLDERS)
    there = images_of(root, folder)
    stray = [one for one in entries if one.path == _STRAY and f"{folder}/{_STRAY}" not in there]
    if stray:
        notes[f"images left out that never had a file: {_STRAY}"] = 1
    entries = placed((one for one in entries if one not in stray), folder)
    check_there(root, entries, there, str(root / folder))
    check_named(entries, there, file)
    lists = {split: found[0] for split, name in LISTS.items() if (found := find_file(root, [name]))}
    if lists:
        entries = _listed(root, entries, lists, notes)
    return captioned(
        root,
        entries,
        watched=(root, file, *lists.values()),
        notes=notes,
        copies=copies,
        test_fraction=test_fraction,
    )


def _listed(
    root: Path, entries: list[Captioned], lists: dict[Split, Path], notes: Counter[str]
) -> list[Captioned]:
    """The images that the lists name, in their splits."""
    if len(lists) < len(LISTS):
        missing = ", ".join(name for split, name in LISTS.items() if split not in lists)
        present = ", ".join(LISTS[split] for split in lists)
        raise DataError(f"{root} holds {present} but not {missing}: bring all three, or move them away")
    splits: dict[str, Split] = {}
    wheres: dict[str, str] = {}
    for split, file in lists.items():
        for number, line in lines_of(file):
            where, name = f"line {number} of {file}", line.strip()
            if name in wheres:
                raise DataError(f"{where} names {name}, as {wheres[name]} does: an image has one split")
            wheres[name], splits[name] = where, split
    known = {one.path.rpartition("/")[2] for one in entries}
    unknown = [name for name in wheres if name not in known]
    if unknown:
        raise DataError(
            f"{wheres[unknown[0]]} names {unknown[0]}, which has no captions ({len(unknown)} such images in "
            "the three lists): bring its captions, or take it out"
        )
    kept = [one for one in entries if one.path.rpartition("/")[2] in splits]
    if len(kept) < len(entries):
        notes["images left out that no split list names"] = len(entries) - len(kept)
    return [replace(one, split=splits[one.path.rpartition("/")[2]]) for one in kept]
