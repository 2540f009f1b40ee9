"""Which images lie in uncompressed tar archives, what stands beside each, and what split it is of."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError, ImageError
from ..images.decode import Limits
from ..images.tar_archive import Member, OpenArchive, tar_members
from .folder import SPLIT_FOLDERS
from .hf_files import SPLIT_NAMES, split_name
from .table import MEMBER, Split
from .walk import IMAGE_SUFFIXES, MissingFolder

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_BESIDES = (".cls", ".json", ".txt")
_LIMITS = Limits(max_bytes=2**20)  # of what stands beside an image


@dataclass
class PackedImage:
    """An image of an archive and what stands beside it: text of `.cls` and `.txt`, the object of `.json`."""

    archive: str
    name: str
    besides: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """`archive.tar::member`."""
        return f"{self.archive}{MEMBER}{self.name}"


def packed_images(root: Path, notes: Counter[str]) -> tuple[list[PackedImage], list[Path]]:
    """The images of all archives below a folder, in their order, and the archives.

    What is neither image nor beside one is left out and counted in notes. Headers are read once.

    Raises MissingFolder, DataError for archives that are compressed, truncated or damaged, for members that
    are double or lie outside, and where there is no image.
    """
    if root.is_file():
        raise DataError(
            f"data.root={root} is a file: type data.root={root.parent}, the folder of the archives"
        )
    if not root.is_dir():
        raise MissingFolder(root)
    files = _archives(root)
    images = [image for file in files for image in _images(root, file, notes)]
    if not images:
        names = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{root} holds no image in its {len(files)} archives (members ending in {names})")
    return images, [root / file for file in files]


def split_of(image: PackedImage) -> Split | None:
    """By the archive, else by the folders in it; DataError where both tell, and not the same."""
    outer = SPLIT_NAMES.get(split_name(image.archive).casefold())
    inner = next(
        (SPLIT_FOLDERS[one.casefold()] for one in folders_of(image) if one.casefold() in SPLIT_FOLDERS), None
    )
    if outer and inner and outer != inner:
        raise DataError(
            f"{image.path}: the archive's name says {outer}, the folder in it {inner}: rename the archive"
        )
    return outer or inner


def folders_of(image: PackedImage) -> tuple[str, ...]:
    """The folders of its archive that an image lies in, outermost first."""
    return tuple(part for part in PurePosixPath(image.name).parent.parts if part != ".")


def key_of(name: str) -> str:
    """What comes before the last suffix. WebDataset ends a key at its first dot, but `a.b.jpg` is common."""
    return name.removesuffix(PurePosixPath(name).suffix)


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


def _images(root: Path, archive: str, notes: Counter[str]) -> list[PackedImage]:
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
    images: dict[str, PackedImage] = {}
    for name in members:
        if _suffix(name) in IMAGE_SUFFIXES:
            key = key_of(name)
            if key in images and any(f"{key}{one}" in members for one in _BESIDES):
                raise DataError(
                    f"{file} holds two images with the key {key} ({images[key].name}, {name}) and one "
                    "label or caption beside them: give each image a key of its own"
                )
            images[key if key not in images else name] = PackedImage(archive, name)
    opened = OpenArchive(file)
    others = 0
    for name, member in members.items():
        suffix = _suffix(name)
        if suffix in IMAGE_SUFFIXES:
            continue
        owner = images.get(key_of(name))
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


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _hidden(name: str) -> bool:
    return any(
        (part.startswith(".") and part != ".") or part == "__MACOSX" for part in PurePosixPath(name).parts
    )
