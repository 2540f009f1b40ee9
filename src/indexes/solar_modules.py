"""InfraredSolarModules: `images/*.jpg` and `module_metadata.json` (Millendorf, Obropta and Vadhavkar, 2020).

20,000 thermal images of photovoltaic modules, 24 x 40 pixels, 8-bit grey JPEG, each of one of twelve classes:
`No-Anomaly` (half of them) and eleven faults. The file is one object, `{"13357": {"image_filepath":
"images/13357.jpg", "anomaly_class": "No-Anomaly"}, …}`. Nobody published a split.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .duplicates import check_near, contents, one_of_each
from .leaves import choose
from .table import Listing, to_table
from .walk import MissingFolder, images_in

COLUMNS: tuple[str, ...] = ("path", "group", "label", "class", "role", "modality")

ORIGIN = "https://github.com/RaptorMaps/InfraredSolarModules"

METADATA = "module_metadata.json"
TEST_FRACTION = 0.2

_SHOWN = 5


def index(
    root: Path, *, classes: Sequence[str] | None = None, near_duplicates: float | None = None
) -> Listing:
    """One row an image; labels are the positions of the classes among their sorted names.

    A fifth of the images, by a hash of their bytes, are test and the queries; the rest is train and their
    gallery, of which `data.val_fraction` becomes the validation queries, by hash as well (`group`). 22 pairs
    of images are the same byte for byte; the 6 whose classes differ are left out, of the others one is kept.

    classes: some of the names; null is all twelve. near_duplicates: see `duplicates.without_near`.

    Raises MissingFolder where there is no metadata file, DataError where it is no such object, where it names
    images that are not there or lacks some that are, ConfigError for a class that it does not have.
    """
    check_near(near_duplicates)
    file = root / METADATA
    if not file.is_file():
        if not root.is_dir():
            raise MissingFolder(root)
        raise DataError(
            f"{root} holds no {METADATA}: type data.root=<the folder that holds {METADATA} and images/>"
        )
    named = _read(file)
    _check_files(root, named)
    chosen = choose("classes", classes, named.values(), METADATA)
    labels = {name: label for label, name in enumerate(sorted(chosen))}
    paths = [path for path in sorted(named) if named[path] in labels]
    names = [named[path] for path in paths]
    groups = contents(root, paths)
    notes: Counter[str] = Counter()
    if len(paths) < len(named):
        notes["images left out of classes that were not chosen"] = len(named) - len(paths)
    table = to_table(
        {
            "path": paths,
            "group": groups,
            "label": [labels[name] for name in names],
            "class": names,
            "role": [None] * len(paths),
            "modality": ["infrared"] * len(paths),
        }
    )
    return Listing(
        one_of_each(table, notes),
        (root, file),
        notes,
        test_fraction=TEST_FRACTION,
        copies=True,
        near_duplicates=near_duplicates,
    )


def _read(file: Path) -> dict[str, str]:
    """Path of an image, relative to the root → its class."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # undecodable bytes, too
        raise DataError(f"{file} is not json in UTF-8 ({error}): unpack the data set anew") from error
    if not isinstance(entries, dict) or not entries:
        raise DataError(f"{file} is not an object of images by their number: unpack the data set anew")
    named: dict[str, str] = {}
    for number, entry in entries.items():
        path, name = _text(entry, "image_filepath"), _text(entry, "anomaly_class")
        if not path or not name:
            raise DataError(
                f"{file}: the entry {number!r} is {entry!r}, not an object with image_filepath and "
                "anomaly_class: mend it or unpack the data set anew"
            )
        if path in named:
            raise DataError(f"{file} names {path} more than once: keep one entry")
        named[path] = name
    return named


def _text(entry: Any, key: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value.strip() if isinstance(value, str) else ""


def _check_files(root: Path, named: dict[str, str]) -> None:
    """DataError where the metadata and the folder `images` do not name the same files."""
    folder = root / "images"
    there = {f"images/{name}" for name in images_in(folder)} if folder.is_dir() else set()
    for files, fault in (
        (named.keys() - there, f"{METADATA} names {{}} images that are not below {root}"),
        (there - named.keys(), f"{METADATA} has no entry for {{}} images below {root}"),
    ):
        if files:
            shown = ", ".join(sorted(files)[:_SHOWN]) + (" …" if len(files) > _SHOWN else "")
            raise DataError(f"{fault.format(len(files))}: {shown}. Unpack the data set anew")
