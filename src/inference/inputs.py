"""What a user points at becomes a list of images: files, folders, patterns, lists, archives."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..indexes.walk import IMAGE_SUFFIXES

_OTHERS = "files left out that are no images by their ending"
_HIDDEN = "hidden files and folders left out"
_TWICE = "paths named more than once, with a row each time"
_NO_TEXT = r"paths that are not UTF-8, written with \x.."


@dataclass(frozen=True)
class Images:
    """Images to look at, in order: paths as they were named, `archive.tar::member`, `file.parquet::row`.

    unlisted: folders that could not be listed, path → reason. notes: what was left out or is remarkable, and
    how often.
    """

    paths: list[str]
    unlisted: Mapping[str, str]
    notes: Mapping[str, int]


def find_images(inputs: str | Path | Sequence[str | Path]) -> Images:
    """The images of one or several inputs, in the order of the inputs. Nothing is decoded.

    A folder gives the images below it at any depth, sorted, and a pattern such as `photos/**/*.jpg` the files
    that match. In both an image is told by its ending (IMAGE_SUFFIXES, and the one that the pattern itself
    ends with); hidden files are left out, and all that was left out is counted. Links to folders are followed
    below a folder, and not by `**`. A `.txt` file lists a path a line, a `.csv` file has a column `path`:
    both keep their order and every mention, and their paths are relative to the current folder. A `.tar`
    gives its images, a `.parquet` its rows. Any other file is an image, whatever it is called.

    Raises DataError for an input that is not there or holds no image, saying what was looked for.
    """
    named = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    if not named:
        raise DataError("no input: name a file, a folder, a pattern or a list")
    paths: list[str] = []
    unlisted: dict[str, str] = {}
    notes: Counter[str] = Counter()
    for one in named:
        look = _Look(os.fspath(one))
        paths += look.found()
        unlisted |= look.unlisted
        notes += look.notes
    notes[_TWICE] += sum(times > 1 for times in Counter(paths).values())
    notes[_NO_TEXT] += sum(path != shown(path) for path in paths)
    return Images(paths, unlisted, {note: count for note, count in sorted(notes.items()) if count})


def shown(path: str) -> str:
    r"""A path as text: bytes of a name that are not UTF-8 are written `\xff`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Look:
    """One input being looked at, and what is noticed on the way."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.unlisted: dict[str, str] = {}
        self.notes: Counter[str] = Counter()

    def found(self) -> list[str]:
        """The paths; DataError where there are none."""
        try:
            paths = list(self._images(self.path))
        except OSError as error:
            raise DataError(f"{shown(self.path)} cannot be read: {error.strerror}") from error
        if not paths:
            raise DataError(self._nothing())
        return paths

    def _images(self, path: str) -> Iterator[str]:
        if os.path.isdir(path):  # noqa: PTH112
            return iter(sorted(self._below(path)))
        if os.path.lexists(path):
            kinds: dict[str, Callable[[str], Iterator[str]]] = {
                ".txt": _lines,
                ".csv": _column,
                ".tar": self._members,
                ".parquet": _rows,
            }
            return kinds.get(_ending(path), _itself)(path)
        container, separator, _ = path.partition("::")
        if separator and os.path.exists(container):  # noqa: PTH110
            return iter([path])
        if re.search(r"[*?[]", path):
            return self._matching(path)
        raise DataError(
            f"{shown(path)}: there is no such file or folder, and it is no pattern such as 'photos/*.jpg'"
        )

    def _below(self, folder: str) -> Iterator[str]:
        def refused(error: OSError) -> None:
            self.unlisted[error.filename] = f"the folder cannot be listed: {error.strerror}"

        seen: set[tuple[int, int]] = set()
        for here, folders, files in os.walk(folder, onerror=refused, followlinks=True):
            status = os.stat(here)  # noqa: PTH116
            key = (status.st_dev, status.st_ino)
            if key in seen:  # links may lead in circles
                folders.clear()
                continue
            seen.add(key)
            self.notes[_HIDDEN] += sum(map(_hidden, folders))
            folders[:] = [name for name in folders if not _hidden(name)]
            for name in files:
                if self._is_image(name):
                    yield os.path.join(here, name)  # noqa: PTH118

    def _matching(self, pattern: str) -> Iterator[str]:
        """Files that match, in order; a folder that matches is not looked into."""
        parts = Path(pattern + "/*" if pattern.endswith("**") else pattern).parts
        first = next(number for number, part in enumerate(parts) if re.search(r"[*?[]", part))
        base, rest = Path(*parts[:first]), "/".join(parts[first:])
        means_hidden = any(part.startswith(".") for part in parts[first:])
        try:
            matches = sorted({str(path) for path in base.glob(rest) if not path.is_dir()})
        except ValueError as error:
            raise DataError(f"{shown(pattern)} is not a pattern: {error}") from error
        for path in matches:
            inside = Path(path).relative_to(base).parts
            if not means_hidden and any(map(_hidden, inside[:-1])):
                self.notes[_HIDDEN] += 1
            elif self._is_image(inside[-1], also=_ending(pattern), hidden=means_hidden):
                yield from self._images(path)

    def _members(self, file: str) -> Iterator[str]:
        from ..images.tar_archive import tar_members

        for member in tar_members(Path(file)):
            *folders, name = member.name.removeprefix("./").split("/")
            if member.instead:
                continue
            if any(map(_hidden, folders)):
                self.notes[_HIDDEN] += 1
            elif self._is_image(name):
                yield f"{file}::{member.name}"

    def _is_image(self, name: str, *, also: str = "", hidden: bool = False) -> bool:
        """By name alone; what is none is counted. also: an ending that counts as well."""
        if _hidden(name) and not hidden:
            self.notes[_HIDDEN] += 1
            return False
        if _ending(name) in IMAGE_SUFFIXES or (also and _ending(name) == also):
            return True
        self.notes[_OTHERS] += 1
        return False

    def _nothing(self) -> str:
        here = shown(self.path)
        if self.path in self.unlisted:
            return f"{here}: {self.unlisted[self.path]}"
        if not os.path.isdir(self.path) and _ending(self.path) in (".txt", ".csv", ".parquet"):  # noqa: PTH112
            return f"{here} holds no image: it has no row with one"
        besides = [f"{note}: {count:,}" for note, count in sorted(self.notes.items()) if count]
        besides += [f"{shown(folder)}: {reason}" for folder, reason in self.unlisted.items()]
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        return (
            f"{here} holds no image: files that end in {endings} (in any case) were looked for, and there is "
            f"none ({'; '.join(besides) or 'nor any other file'})"
        )


def _itself(file: str) -> Iterator[str]:
    yield file


def _lines(file: str) -> Iterator[str]:
    """As `find` prints them; bytes that are not UTF-8 are part of a name."""
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:  # noqa: PTH123
        yield from (path for line in lines if (path := line.rstrip("\r\n")))


def _column(file: str) -> Iterator[str]:
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:  # noqa: PTH123
        reader = csv.DictReader(lines, strict=True)
        try:
            if "path" not in (header := reader.fieldnames or []):
                raise DataError(
                    f"{shown(file)} has no column path; it has {', '.join(header) or 'nothing'}. Name the "
                    "column of files path, or list a path a line in a .txt file"
                )
            for row in reader:
                if not row["path"]:
                    raise DataError(f"{shown(file)}, line {reader.line_num}, has no path")
                yield row["path"]
        except csv.Error as error:
            raise DataError(f"{shown(file)}, line {reader.line_num}, is not csv: {error}") from error


def _rows(file: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ..images.parquet_images import image_column

    try:
        with pq.ParquetFile(file) as parquet:
            image_column(parquet.schema_arrow, Path(file))
            count = parquet.metadata.num_rows
    except pa.ArrowException as error:
        raise DataError(f"{shown(file)} is not a parquet file: {error}") from error
    return (f"{file}::{row}" for row in range(count))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122
