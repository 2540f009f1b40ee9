"""Walking folders: what images lie below, what sub-folders there are, and whether anything changed since."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ..errors import DataError

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff")
)
"""Endings, in lower case, of what counts as an image; whether it is one is for decoding to say."""

Stamps = Mapping[str, tuple[int, ...]]
"""Path → (mtime_ns,) of a folder, (mtime_ns, bytes) of a file."""


class MissingFolder(DataError):
    """A root that is not there; a layout names the folder, `build` says which override does."""

    def __init__(self, folder: Path, message: str = "") -> None:
        self.folder = folder
        super().__init__(message or f"{folder} is not a folder")


def subfolders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder, hidden ones left out; MissingFolder where it is not there."""
    if not folder.is_dir():
        raise MissingFolder(folder)
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not _hidden(entry.name) and entry.is_dir())


def images_in(folder: Path) -> list[str]:
    """Sorted names of the images directly in a folder."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_image(entry.name) and not entry.is_dir())


def images_below(folder: Path, notes: Counter[str]) -> list[str]:
    """Sorted paths, relative to the folder and with `/`, of all images below it at any depth.

    Other files, hidden files and hidden folders are left out and counted in notes. Raises DataError where a
    name is not valid UTF-8.
    """
    return files_below(folder, IMAGE_SUFFIXES, notes)


def files_below(folder: Path, suffixes: Collection[str], notes: Counter[str]) -> list[str]:
    """The same for all files with one of these endings, which are in lower case and match in any."""
    found: list[str] = []
    pending = [(str(folder), "")]
    seen: set[tuple[int, int]] = set()
    while pending:
        path, prefix = pending.pop()
        if _visited(path, seen):
            continue
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if _hidden(name):
                    notes["hidden files and folders left out"] += 1
                elif entry.is_dir():
                    pending.append((entry.path, f"{prefix}{name}/"))
                elif os.path.splitext(name)[1].lower() in suffixes:  # noqa: PTH122
                    found.append(prefix + name)
                else:
                    notes["files left out that are no images by their ending"] += 1
    found.sort()
    for name in found:
        if not name.isascii() and not _is_text(name):
            raise DataError(
                f"the file name {os.fsencode(name)!r} below {folder} is not UTF-8: rename it "
                f"(convmv -f latin1 -t utf8 -r --notest {folder})"
            )
    return found


def folders_named(root: Path, names: Collection[str], notes: Counter[str]) -> list[str]:
    """Sorted paths, relative to root and with `/`, of all folders below it that have one of these names.

    names: in lower case; folders match in any case. What lies inside a folder that matches is its own matter.
    Images that lie outside all of them are counted in notes. Raises MissingFolder where root is not there.
    """
    if not root.is_dir():
        raise MissingFolder(root)
    found: list[str] = []
    pending = [(str(root), "")]
    seen: set[tuple[int, int]] = set()
    while pending:
        path, prefix = pending.pop()
        if _visited(path, seen):
            continue
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if _hidden(name):
                    notes["hidden files and folders left out"] += 1
                elif not entry.is_dir():
                    if _is_image(name):
                        notes["images left out that lie outside every class folder"] += 1
                elif name.casefold() in names:
                    found.append(prefix + name)
                else:
                    pending.append((entry.path, f"{prefix}{name}/"))
    return sorted(found)


def stamps(watched: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """The modification times of folders, of every folder below them, and of files (with their sizes)."""
    stamped: dict[str, tuple[int, ...]] = {}
    seen: set[tuple[int, int]] = set()
    pending = [os.path.abspath(path) for path in watched]  # noqa: PTH100 - Path.absolute keeps ".."
    while pending:
        path = pending.pop()
        status = os.stat(path)  # noqa: PTH116 - a Path for each of a hundred thousand folders is slow
        if not os.path.isdir(path):  # noqa: PTH112
            stamped[path] = (status.st_mtime_ns, status.st_size)
            continue
        if _visited(path, seen):
            continue
        stamped[path] = (status.st_mtime_ns,)
        with os.scandir(path) as entries:
            pending += [entry.path for entry in entries if not _hidden(entry.name) and entry.is_dir()]
    return stamped


def unchanged(stamped: Stamps) -> bool:
    """Whether every stamped folder and file is there and as it was.

    Nothing is listed: a new or removed folder shows in the time of the one that holds it, so a million images
    in a hundred folders cost a hundred calls.
    """
    for path, before in stamped.items():
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError:
            return False
        if (status.st_mtime_ns, status.st_size)[: len(before)] != tuple(before):
            return False
    return True


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _visited(path: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder was met before: links may lead in circles."""
    status = os.stat(path)  # noqa: PTH116
    key = (status.st_dev, status.st_ino)
    if key in seen:
        return True
    seen.add(key)
    return False
