"""Tar archives: WebDataset shards (`key.jpg` with `key.cls|json|txt`), or folders as in `cifake.tar`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ConfigError, DataError, ImageError, did_you_mean
from ..images.decode import Limits
from ..images.tar_archive import Member, OpenArchive, tar_members
from .folder import GENERATED, REAL, SPLIT_FOLDERS
from .hf_files import SPLIT_NAMES, split_name
from .table import MEMBER, Listing, Split, to_table
from .walk import IMAGE_SUFFIXES, MissingFolder

COLUMNS: tuple[str, ...] = ("path", "split", "label", "generator", "captions")

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_BESIDES = (".cls", ".json", ".txt")
_LIMITS = Limits(max_bytes=2**20)  # of what stands beside an image


@dataclass
class _Image:
    """An image of an archive and what stands beside it: text of `.cls` and `.txt`, the object of `.json`."""

    archive: str
    name: str
    besides: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"{self.archive}{MEMBER}{self.name}"


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
    if root.is_file():
        raise DataError(
            f"data.root={root} is a file: type data.root={root.parent}, the folder of the archives"
        )
    if not root.is_dir():
        raise MissingFolder(root)
    classes = _classes(real, generated)
    notes: Counter[str] = Counter()
    files = _archives(root)
    images = [image for file in files for image in _images(root, file, notes)]
    if not images:
        names = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{root} holds no image in its {len(files)} archives (members ending in {names})")
    splits = [_split(image) for image in images]
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
    return Listing(to_table(columns), watched=(root, *(root / file for file in files)), notes=notes)


# --- archives ---


def _archives(root: Path) -> list[str]:
    below = [file.relative_to(root) for file in root.rglob("*") if file.is_file()]
    names = sorted(file.as_posix() for file in below if not any(part.startswith(".") for part in file.parts))
    packed = [name for name in names if name.lower().endswith(_PACKED)]
    if packed:
        raise DataError(
            f"{root / packed[0]} is compressed ({len(packed)} such files), and one image of it cannot be "
            f"read without the others: unpack it to a .tar (gunzip, bunzip2, unxz, unzstd), or move it away"
        )
    found = [name for name in names if name.lower().endswith(".tar")]
    if not found:
        raise DataError(f"{root} holds no .tar file: type data.root=<the folder that holds the archives>")
    return found


def _images(root: Path, archive: str, notes: Counter[str]) -> list[_Image]:
    """The images of one archive with what stands beside them, in the archive's order."""
    file = root / archive
    members: dict[str, Member] = {}
    for member in tar_members(file):
        if member.instead == "a directory":
            continue
        _check_name(member, file)
        if _hidden(member.name):
            notes["hidden members left out"] += 1
        elif member.instead:
            notes[f"members left out that are {member.instead}"] += 1
        elif member.name in members:
            raise DataError(
                f"{file} holds {member.name} twice, and only one can count: write it anew with each key once"
            )
        else:
            members[member.name] = member
    images: dict[str, _Image] = {}
    for name in members:
        if _suffix(name) in IMAGE_SUFFIXES:
            key = _key(name)
            if key in images and any(f"{key}{one}" in members for one in _BESIDES):
                raise DataError(
                    f"{file} holds two images with the key {key} ({images[key].name}, {name}) and one label "
                    "beside them: give each image a key of its own"
                )
            images[key if key not in images else name] = _Image(archive, name)
    opened = OpenArchive(file)
    others = 0
    for name, member in members.items():
        suffix = _suffix(name)
        if suffix in IMAGE_SUFFIXES:
            continue
        owner = images.get(_key(name))
        if owner is None or suffix not in _BESIDES:
            others += 1
            continue
        owner.besides[suffix] = _beside(opened, member, file)
    if others:
        notes["members left out that are neither images nor beside one"] += others
    return list(images.values())


def _beside(archive: OpenArchive, member: Member, file: Path) -> Any:
    if member.size == 0:
        return ""
    try:
        text = archive.read(member.offset, member.size, _LIMITS).decode("utf-8-sig").strip()
        return json.loads(text) if _suffix(member.name) == ".json" else text
    except (ImageError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{file}: the member {member.name} cannot be read ({error}): write it anew"
        ) from error


def _check_name(member: Member, file: Path) -> None:
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts:
        raise DataError(
            f"{file} holds {member.name!r}, which leads out of it: write the archive anew without it"
        )
    try:
        member.name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{file} holds {member.name!r}, which is not UTF-8: write it anew") from error


# --- labels and splits ---


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
    images: Sequence[_Image], label: str | None, classes: Mapping[str, tuple[int, str]]
) -> str | None:
    if label is not None:
        return label
    if any(".cls" in image.besides for image in images):
        return "cls"
    if any(isinstance(one := image.besides.get(".json"), Mapping) and "label" in one for image in images):
        return "label"
    in_folders = any(folder.casefold() in classes for image in images for folder in _folders(image))
    beside = any(image.besides for image in images)
    return "folder" if in_folders or not beside else None


def _labels(images: Sequence[_Image], source: str, classes: Mapping[str, tuple[int, str]]) -> list[str]:
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
                f"{image.path} has no label: {_key(image.name)}{beside} is missing or empty"
                + (f" or lacks the key {source}" if beside == ".json" else "")
                + f" ({missing} of {len(images)} images have no {beside}). Name the source with "
                "data.index.label=cls, txt, folder or a key of json"
            )
        values.append(str(value).strip())
    return values


def _folder_class(image: _Image, classes: Mapping[str, tuple[int, str]]) -> str:
    folders = _folders(image)
    found = [folder for folder in folders if folder.casefold() in classes]
    if len({classes[folder.casefold()][0] for folder in found}) > 1:
        raise DataError(f"{image.path} lies in folders of both classes ({', '.join(found)}): pack it anew")
    if found:
        return found[0]
    return next((one for one in reversed(folders) if one.casefold() not in SPLIT_FOLDERS), "")


def _judge(value: str, classes: Mapping[str, tuple[int, str]]) -> tuple[int, str] | None:
    return classes.get(_name(value))


def _check_known(
    images: Sequence[_Image],
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


def _split(image: _Image) -> Split | None:
    """By the archive, else by the folders in it; DataError where both tell, and not the same."""
    outer = SPLIT_NAMES.get(split_name(image.archive).casefold())
    inner = next(
        (SPLIT_FOLDERS[one.casefold()] for one in _folders(image) if one.casefold() in SPLIT_FOLDERS), None
    )
    if outer and inner and outer != inner:
        raise DataError(
            f"{image.path}: the archive's name says {outer}, the folder in it {inner}: rename the archive"
        )
    return outer or inner


def _folders(image: _Image) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(image.name).parent.parts if part != ".")


def _of_json(image: _Image, key: str) -> Any:
    found = image.besides.get(".json")
    return found.get(key) if isinstance(found, Mapping) else None


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _name(value: Any) -> str:
    return str(value).strip().casefold()


def _key(name: str) -> str:
    """What comes before the last suffix. WebDataset ends a key at its first dot, but `a.b.jpg` is common."""
    return name.removesuffix(PurePosixPath(name).suffix)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _hidden(name: str) -> bool:
    return any(
        (part.startswith(".") and part != ".") or part == "__MACOSX" for part in PurePosixPath(name).parts
    )
