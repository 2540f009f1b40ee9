"""FLIR ADAS, the thermal starter set of 2018: objects before a car, as crops of 16-bit frames.

    train|val|video/                    in the first edition `Training`, `Validation`, `Video`
      thermal_16_bit/FLIR_00001.tiff    `Data` there: 14-bit counts in 16 bits, 640 x 512, no gain control
      Annotations/FLIR_00001.json       one file a frame, or `thermal_annotations.json` for all

Known from the set's ReadMe: the folders, the frames, the five categories and their numbers, that boxes are
counted from the top left, and that whole recordings lie in one folder. A frame's file holds `annotation`, a
list with `bbox` (x, y, width, height), `category_id` and `iscrowd`, and `image`; `thermal_annotations.json`,
known from programs that read it, is COCO's usual one. Not known, since the set is given out on request only:
which frames were one recording, and whether other editions spell the keys otherwise. What does not fit is an
error that names the file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ConfigError, DataError
from .duplicates import check_near
from .leaves import choose
from .table import Listing, Split, to_table
from .walk import images_in, subfolders

COLUMNS: tuple[str, ...] = ("path", "split", "box", "group", "label", "class", "role", "modality")

ORIGIN = "https://www.flir.com/oem/adas/adas-dataset-form/"

SPLITS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "video": "test",
}
CATEGORIES: Mapping[int, str] = {1: "person", 2: "bicycle", 3: "car", 18: "dog", 91: "other_vehicle"}

_FRAMES = ("thermal_16_bit", "data")
_WHOLE = "thermal_annotations.json"
_WIDTH, _HEIGHT = 640, 512
_SHOWN = 5


def index(
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    min_size: int = 24,
    near_duplicates: float | None = None,
) -> Listing:
    """One row a box; train is the gallery, val (other recordings) and the video, which is test, are queries.

    classes: of person, bicycle, car, dog and other_vehicle; null is all that there are. min_size: boxes whose
    shorter side has fewer pixels are left out and counted, as are crowds; boxes that leave the frame are cut
    at its border. near_duplicates: see `duplicates.without_near`. Crops of one frame share their `group`.

    Raises MissingFolder, ConfigError for arguments, DataError where annotations are damaged or name frames
    that are not there.
    """
    check_near(near_duplicates)
    if isinstance(min_size, bool) or min_size < 1:
        raise ConfigError(f"data.index.min_size={min_size}: must be at least 1 pixel")
    parts = [(name, SPLITS[name.casefold()]) for name in subfolders(root) if name.casefold() in SPLITS]
    if not parts:
        raise DataError(
            f"{root} holds none of the folders train, val and video: type data.root=<the folder that holds "
            "them>"
        )
    notes: Counter[str] = Counter()
    boxes: list[tuple[Split, _Box]] = []
    for name, split in parts:
        boxes += [(split, box) for box in _boxes_of(root, name, notes)]
    chosen = choose("classes", classes, {box.name for _, box in boxes}, str(root))
    labels = {name: label for label, name in enumerate(sorted(chosen))}
    kept: list[tuple[Split, _Box]] = []
    for split, box in boxes:
        x0, y0, x1, y1 = box.corners
        if box.name not in labels:
            notes["boxes left out of classes that were not chosen"] += 1
        elif min(x1 - x0, y1 - y0) < min_size:
            notes[f"boxes left out that are smaller than {min_size} pixels"] += 1
        else:
            kept.append((split, box))
    table = to_table(
        {
            "path": [box.frame for _, box in kept],
            "split": [split for split, _ in kept],
            "box": [list(box.corners) for _, box in kept],
            "group": [box.frame for _, box in kept],
            "label": [labels[box.name] for _, box in kept],
            "class": [box.name for _, box in kept],
            "role": [None if split == "train" else "query" for split, _ in kept],
            "modality": ["infrared"] * len(kept),
        }
    )
    return Listing(table, (root,), notes, read_for_copies=True, near_duplicates=near_duplicates)


@dataclass(frozen=True)
class _Box:
    frame: str
    name: str
    corners: tuple[float, float, float, float]


def _boxes_of(root: Path, part: str, notes: Counter[str]) -> Iterator[_Box]:
    """The boxes of one of the folders, in the order of its frames."""
    folder = root / part
    inside = {name.casefold(): name for name in subfolders(folder)}
    frames = next((inside[name] for name in _FRAMES if name in inside), None)
    if frames is None:
        raise DataError(
            f"{folder} holds no folder thermal_16_bit or Data with the 16-bit frames; it has "
            f"{', '.join(sorted(inside.values())) or 'none'}: unpack the data set anew"
        )
    files = {PurePosixPath(name).stem: f"{part}/{frames}/{name}" for name in images_in(folder / frames)}
    annotated: Counter[str] = Counter()
    seen: set[tuple[str, str, tuple[float, ...]]] = set()
    for source, stem, found, names, size in _annotations(folder, inside.get("annotations")):
        if stem not in files:
            raise DataError(
                f"{source} is about the frame {stem}, which is not in {folder / frames}: unpack the data set "
                "anew"
            )
        annotated[stem] += 1
        for entry in found:
            box = _box(entry, files[stem], names, size, source, notes)
            if box is None:
                continue
            key = (box.frame, box.name, box.corners)
            if key in seen:
                notes["boxes left out that are there twice"] += 1
                continue
            seen.add(key)
            yield box
    lacking = files.keys() - annotated.keys()
    if lacking:
        notes[f"frames of {part} without annotations"] += len(lacking)


def _annotations(
    folder: Path, per_frame: str | None
) -> Iterator[tuple[Path, str, list[Any], dict[int, str], tuple[int, int]]]:
    """(file, stem of the frame, its annotations, names of categories, (width, height)) of every frame."""
    files = sorted((folder / per_frame).glob("*.json")) if per_frame else []
    files = [file for file in files if file.name.casefold() != "catids.json"]
    if files:
        for file in files:
            content = _json(file)
            found = content.get("annotation", content.get("annotations"))
            if not isinstance(found, list):
                raise DataError(f"{file} has no list `annotation`: unpack the data set anew")
            yield file, file.stem, found, dict(CATEGORIES), _size(content.get("image"))
        return
    whole = folder / _WHOLE
    if not whole.is_file():
        raise DataError(f"{folder} holds neither Annotations/*.json nor {_WHOLE}: unpack the data set anew")
    content = _json(whole)
    images, entries = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(entries, list):
        raise DataError(f"{whole} has no lists `images` and `annotations`: unpack the data set anew")
    names = {**_names(content.get("categories")), **CATEGORIES}
    of_image: dict[Any, list[Any]] = {}
    for entry in entries:
        of_image.setdefault(entry.get("image_id") if isinstance(entry, dict) else None, []).append(entry)
    for image in images:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            raise DataError(f"{whole} has an image without file_name ({image!r}): unpack the data set anew")
        stem = PurePosixPath(image["file_name"]).stem
        yield whole, stem, of_image.pop(image.get("id"), []), names, _size(image)
    if of_image:
        raise DataError(
            f"{whole} has annotations of images that it does not list ({list(of_image)[:_SHOWN]}): unpack "
            "the data set anew"
        )


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # undecodable bytes, too
        raise DataError(f"{file} is not json in UTF-8 ({error}): unpack the data set anew") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} is not an object: unpack the data set anew")
    return content


def _names(categories: Any) -> dict[int, str]:
    """COCO's own list of categories, as far as it is one."""
    entries = categories if isinstance(categories, list) else []
    return {
        entry["id"]: str(entry["name"])
        for entry in entries
        if isinstance(entry, dict) and entry.keys() >= {"id", "name"}
    }


def _size(image: Any) -> tuple[int, int]:
    """(width, height) as stated, else that of the camera."""
    stated = image if isinstance(image, dict) else {}
    width, height = stated.get("width"), stated.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else (_WIDTH, _HEIGHT)


def _box(
    entry: Any, frame: str, names: Mapping[int, str], size: tuple[int, int], source: Path, notes: Counter[str]
) -> _Box | None:
    """The box of one annotation within its frame, None for a crowd or one that lies outside."""
    given = entry.get("bbox") if isinstance(entry, dict) else None
    listed = given if isinstance(given, list) else []
    numbers = [float(number) for number in listed if type(number) in (int, float)]
    if len(numbers) != 4 or len(listed) != 4 or min(numbers[2:]) < 0:
        raise DataError(
            f"{source}: {entry!r} has no bbox of x, y, width and height: unpack the data set anew"
        )
    category = entry.get("category_id")
    if category not in names:
        raise DataError(
            f"{source}: category_id {category!r} is none of "
            f"{', '.join(f'{number} ({name})' for number, name in CATEGORIES.items())}"
        )
    if entry.get("iscrowd"):
        notes["boxes left out that mark a crowd"] += 1
        return None
    x, y, width, height = numbers
    corners = (max(0.0, x), max(0.0, y), min(float(size[0]), x + width), min(float(size[1]), y + height))
    if corners != (x, y, x + width, y + height):
        notes["boxes cut at the border of their frame"] += 1
    return _Box(frame, names[category], corners)
