"""Tar archives: WebDataset shards (`key.jpg` with `key.cls|json|txt`), or folders as in `cifake.tar`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, did_you_mean
from .archives import PackedImage, folders_of, key_of, packed_images, split_of
from .folder import GENERATED, REAL, SPLIT_FOLDERS
from .table import Listing, to_table

COLUMNS: tuple[str, ...] = ("path", "split", "label", "generator", "captions")


def index(
    root: Path,
    *,
    label: str | None = None,
    generator: str | None = None,
    real: Sequence[str | int] = REAL,
    generated: Sequence[str | int] = GENERATED,
) -> Listing:
    """A row for each image in the uncompressed tar archives below root: `train-000000.tar::00017.jpg`.

    label: `cls`, `txt` or a key of `json` beside each image; `folder`: the folders in the archive. None:
        `cls` where there is one, else the key `label` of `json`, else folders; no label where none tells one.
    generator: a key of `json`; without, a generated image's generator is its class name as configured.
    real, generated: what classes are called, in any case. A `.cls` holds a number by custom, which says
        nothing of itself: type 'data.index.real=[0]' and 'data.index.generated=[1]', or the other way round.

    Splits are told by the archive's name or folder (`train-000000.tar`, `val/0.tar`), or by folders in it.
    A `.txt` that is not the label is the image's caption. Headers are read once; the index is kept.

    Raises DataError for archives that are compressed, truncated or damaged, and for members that are double,
    lie outside, or have no label or one that neither list names.
    """
    classes = _classes(real, generated)
    notes: Counter[str] = Counter()
    images, files = packed_images(root, notes)
    splits = [split_of(image) for image in images]
    columns: dict[str, Any] = {"path": [image.path for image in images], "split": splits}
    source = _label_source(images, label, classes)
    if source is not None:
        values = _labels(images, source, classes)
        found = [_judge(value, classes) for value in values]
        _check_known(images, values, found, classes)
        columns["label"] = [one[0] for one in found if one]
        columns["generator"] = [
            None if not number else name if generator is None else _text(_of_json(image, generator))
            for image, (number, name) in zip(images, (one for one in found if one), strict=True)
        ]
    if source != "txt" and any(".txt" in image.besides for image in images):
        columns["captions"] = [
            [image.besides[".txt"]] if ".txt" in image.besides else None for image in images
        ]
    return Listing(to_table(columns), watched=(root, *files), notes=notes)


def _classes(real: Sequence[Any], generated: Sequence[Any]) -> dict[str, tuple[int, str]]:
    """Class name in lower case → (label, the name as configured)."""
    classes: dict[str, tuple[int, str]] = {}
    for number, (key, names) in enumerate((("real", real), ("generated", generated))):
        if isinstance(names, str) or not names:
            raise ConfigError(f"data.index.{key}={names!r}: must be a list of class names, such as [{key}]")
        for name in names:
            if classes.setdefault(_name(name), (number, str(name)))[0] != number:
                raise ConfigError(f"data.index.real and data.index.generated both name {name!r}")
    return classes


def _label_source(
    images: Sequence[PackedImage], label: str | None, classes: Mapping[str, tuple[int, str]]
) -> str | None:
    if label is not None:
        return label
    if any(".cls" in image.besides for image in images):
        return "cls"
    if any(isinstance(one := image.besides.get(".json"), Mapping) and "label" in one for image in images):
        return "label"
    in_folders = any(folder.casefold() in classes for image in images for folder in folders_of(image))
    beside = any(image.besides for image in images)
    return "folder" if in_folders or not beside else None


def _labels(images: Sequence[PackedImage], source: str, classes: Mapping[str, tuple[int, str]]) -> list[str]:
    """The class of every image as it stands there; DataError where one has none."""
    values: list[str] = []
    for image in images:
        if source == "folder":
            values.append(_folder_class(image, classes))
            continue
        beside = f".{source}" if source in ("cls", "txt") else ".json"
        value = image.besides.get(beside) if beside != ".json" else _of_json(image, source)
        if value is None or value == "":
            missing = sum(beside not in other.besides for other in images)
            raise DataError(
                f"{image.path} has no label: {key_of(image.name)}{beside} is missing or empty"
                + (f" or lacks the key {source}" if beside == ".json" else "")
                + f" ({missing} of {len(images)} images have no {beside}). Name the source with "
                "data.index.label=cls, txt, folder or a key of json"
            )
        values.append(str(value).strip())
    return values


def _folder_class(image: PackedImage, classes: Mapping[str, tuple[int, str]]) -> str:
    folders = folders_of(image)
    found = [folder for folder in folders if folder.casefold() in classes]
    if len({classes[folder.casefold()][0] for folder in found}) > 1:
        raise DataError(f"{image.path} lies in folders of both classes ({', '.join(found)}): pack it anew")
    if found:
        return found[0]
    return next((one for one in reversed(folders) if one.casefold() not in SPLIT_FOLDERS), "")


def _judge(value: str, classes: Mapping[str, tuple[int, str]]) -> tuple[int, str] | None:
    return classes.get(_name(value))


def _check_known(
    images: Sequence[PackedImage],
    values: Sequence[str],
    found: Sequence[tuple[int, str] | None],
    classes: Mapping[str, tuple[int, str]],
) -> None:
    if all(found):
        return
    place = next(number for number, one in enumerate(found) if one is None)
    counted = Counter(values).most_common(8)
    names = ([name for label, name in classes.values() if label == wanted] for wanted in (0, 1))
    shown_real, shown_generated = (", ".join(one) for one in names)
    example = values[place] or "<class>"
    raise DataError(
        f"{images[place].path}: the class {values[place]!r} is not known"
        f"{did_you_mean(values[place], classes) or '.'} There are: "
        f"{', '.join(f'{value!r} ({count} images)' for value, count in counted)}. Known, in any case: real = "
        f"{shown_real}; generated = {shown_generated}. Type 'data.index.real=[{example}]' or "
        f"'data.index.generated=[{example}]', with all names of that class"
    )


def _of_json(image: PackedImage, key: str) -> Any:
    found = image.besides.get(".json")
    return found.get(key) if isinstance(found, Mapping) else None


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _name(value: Any) -> str:
    return str(value).strip().casefold()
