"""MS COCO captions (Chen et al., 2015): the published annotations of 2014 or 2017, or Karpathy's splits."""

from __future__ import annotations

import posixpath
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError, DataError
from .caption_lists import KARPATHY, read_karpathy
from .captions import (
    Captioned,
    Copies,
    caption_of,
    captioned,
    check_arguments,
    check_there,
    find_file,
    images_of,
    json_kind,
    json_of,
    once_each,
    placed,
)
from .table import Listing, Split
from .walk import MissingFolder

COLUMNS: tuple[str, ...] = ("path", "split", "group", "captions")

ORIGIN = "https://cocodataset.org"

PROTOCOLS = ("karpathy", "2014", "2017")
FILE = "dataset_coco.json"

_YEARS: tuple[tuple[str, Split], ...] = (("train", "train"), ("val", "test"))


def index(
    root: Path,
    *,
    protocol: Literal["karpathy", "2014", "2017"] | int | None = None,
    restval: Literal["train"] | None = "train",
    images: str | None = None,
    copies: Copies = "keep",
) -> Listing:
    """One row an image with its captions; images lie in `train2014`, `val2014`, `train2017`, `val2017`.

    protocol: `karpathy` reads `dataset_coco.json` (113,287 with restval, 5,000 and 5,000 images of 2014);
        2014 and 2017 read `annotations/captions_train<year>.json` and, as the test split,
        `captions_val<year>.json`; the published test images have no captions. None: the first that is there.
    restval: where Karpathy's 30,504 images of that name go; None leaves them out.
    images: the folder that holds `train2014` and so on, relative to root; None: root, or `images` in it.
    copies: see `captions.captioned`.

    Raises MissingFolder, ConfigError for arguments out of range, DataError with file and entry for whatever
    is not so, for captions without their image and listed images without a caption. Images that are on no
    list are left out and counted.
    """
    check_arguments(copies)
    wanted = None if protocol is None else str(protocol)
    if wanted is not None and wanted not in PROTOCOLS:
        raise ConfigError(f"data.index.protocol={protocol}: must be null, {', '.join(PROTOCOLS)}")
    if restval not in ("train", None):
        raise ConfigError(f"data.index.restval={restval}: must be train, or null to leave them out")
    if not root.is_dir():
        raise MissingFolder(root)
    there = _protocols(root)
    if not there or (wanted is not None and wanted not in there):
        looked = f"{FILE} (karpathy), annotations/captions_train2014.json or captions_train2017.json"
        what = ", ".join(there) if there else "none of them"
        raise DataError(
            f"{root} holds no file of captions"
            + (f" for data.index.protocol={wanted}" if wanted else "")
            + f": looked for {looked}, in it and the folders in it, and found {what}. Type data.root=<the "
            "folder that holds annotations/>"
        )
    chosen = wanted or next(iter(there))
    notes: Counter[str] = Counter()
    for other in there:
        if other != chosen:
            notes[f"captions not read, since data.index.protocol is {chosen}: {other}"] = 1
    files = there[chosen]
    if chosen == "karpathy":
        entries = list(once_each(read_karpathy(files[0], {**KARPATHY, "restval": restval})))
    else:
        entries = [
            entry
            for (name, split), file in zip(_YEARS, files, strict=False)
            for entry in placed(_annotated(file, split), f"{name}{chosen}")
        ]
    above = _above(root, images, entries)
    entries = placed(entries, above)
    folders = sorted({posixpath.dirname(entry.path) for entry in entries})
    found = {one for folder in folders if (root / folder).is_dir() for one in images_of(root, folder)}
    check_there(root, entries, found, " and ".join(str(root / folder) for folder in folders))
    if len(found) > len(entries):
        notes["images left out that the file of captions does not name"] = len(found) - len(entries)
    return captioned(root, entries, watched=(root, *files), notes=notes, copies=copies)


def _protocols(root: Path) -> dict[str, list[Path]]:
    """Protocol → its files, of those that are there; of a year train, and val where it is there too."""
    names = {"karpathy": [FILE]}
    names |= {year: [f"captions_{name}{year}.json" for name, _ in _YEARS] for year in PROTOCOLS[1:]}
    there: dict[str, list[Path]] = {}
    for protocol, wanted in names.items():
        found = [find_file(root, [name]) for name in wanted]
        if found[0] is not None:
            there[protocol] = [one[0] for one in found if one is not None]
    return there


def _above(root: Path, wanted: str | None, entries: list[Captioned]) -> str:
    """The folder that `train2014` and so on lie in."""
    if wanted is not None:
        if not (root / wanted).is_dir():
            raise DataError(f"data.index.images={wanted}: {root / wanted} is not a folder")
        return wanted
    first = posixpath.dirname(entries[0].path) if entries else ""
    return next((name for name in (".", "images") if (root / name / first).is_dir()), ".")


def _annotated(file: Path, split: Split) -> list[Captioned]:
    """The images of one annotation file, in the order of its `images`."""
    content = json_of(file)
    lists = [content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations")]
    if not all(isinstance(one, list) and one for one in lists):
        raise DataError(f'{file} is not an object with the lists "images" and "annotations"')
    entries: dict[int, Captioned] = {}
    for number, one in enumerate(lists[0] or ()):
        where = f"images[{number}] of {file}"
        name = _value(one, "file_name", str, where)
        key = _value(one, "id", int, where)
        if key in entries:
            raise DataError(f"{where} has the id {key}, as {entries[key].where} has: keep one")
        entries[key] = Captioned(name, where, [], split)
    for number, one in enumerate(lists[1] or ()):
        where = f"annotations[{number}] of {file}"
        key = _value(one, "image_id", int, where)
        if key not in entries:
            raise DataError(f"{where} is of the image {key}, which is not among its images: take it out")
        entries[key].captions.append(caption_of(_value(one, "caption", None, where), where))
    bare = [entry for entry in entries.values() if not entry.captions]
    if bare:
        raise DataError(
            f"{len(bare)} of the images of {file} have no caption, the first is {bare[0].path} "
            f"({bare[0].where}): add one, or take them out"
        )
    return list(once_each(list(entries.values())))


def _value(entry: Any, key: str, kind: type | None, where: str) -> Any:
    if not isinstance(entry, dict):
        raise DataError(f"{where} is {json_kind(entry)}, not an object")
    if key not in entry:
        raise DataError(f"{where} has no {key}")
    value = entry[key]
    if kind is not None and (not isinstance(value, kind) or isinstance(value, bool) or value == ""):
        raise DataError(
            f"{where} has {json_kind(value)} as {key}: must be a {'text' if kind is str else 'whole number'}"
        )
    return value
