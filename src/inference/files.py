"""Predictions of files, written while they are made."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError
from .inputs import Images, shown
from .output import SCHEMA, check_output, remove_table, writing
from .stream import Part

UNREADABLE = pa.schema([("path", pa.string()), ("reason", pa.string())])

_FIRST = 5

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """What was written.

    verdicts, bands: how many rows have which. unreadable: how many paths have no prediction; `first` are some
    of them with their reasons, `listed` the file of all, None where there are none. notes: what `find_images`
    noticed. seconds: reading, predicting and writing.
    """

    output: Path
    verdicts: Mapping[str, int]
    bands: Mapping[str, int]
    unreadable: int
    first: Sequence[tuple[str, str]]
    listed: Path | None
    notes: Mapping[str, int]
    seconds: float

    @property
    def images(self) -> int:
        """Rows of the output."""
        return sum(self.verdicts.values())


def write_parts(
    parts: Generator[Part], images: Images, output: str | Path, progress: Progress | None = None
) -> Written:
    """Write parts as they come, whole or not at all; the rest is listed in `<output>.unreadable.csv`.

    progress: called with (done, all) images. Raises DataError where nothing can be written, and where no
    image has a prediction; the list of reasons is then written all the same.
    """
    began = time.perf_counter()
    path = check_output(output)
    verdicts: Counter[str] = Counter()
    bands: Counter[str] = Counter()
    unreadable = [(shown(folder), reason) for folder, reason in images.unlisted.items()]
    done = 0
    with closing(parts), writing(path, SCHEMA) as write:
        for part in parts:
            write(part.table.rename_columns(SCHEMA.names))
            verdicts.update(_counts(part.table["verdict"]))
            bands.update(_counts(part.table["band"]))
            unreadable += [(bad.name, bad.reason) for bad in part.bad]
            done += len(part.table) + len(part.bad)
            if progress is not None:
                progress(done, len(images.paths))
        listed = _list(unreadable, path.with_name(path.name + ".unreadable.csv"))
        if not verdicts:
            raise DataError(_nothing_predicted(unreadable, path, listed))
    seconds = time.perf_counter() - began
    first = unreadable[:_FIRST]
    return Written(path, verdicts, bands, len(unreadable), first, listed, images.notes, seconds)


def _list(unreadable: Sequence[tuple[str, str]], path: Path) -> Path | None:
    """Written, or removed where an earlier one of the same name would tell a lie."""
    if not unreadable:
        remove_table(path, UNREADABLE)
        return None
    with writing(path, UNREADABLE) as write:
        write(
            pa.Table.from_arrays(
                [pa.array(column) for column in zip(*unreadable, strict=True)], schema=UNREADABLE
            )
        )
    return path


def _nothing_predicted(unreadable: Sequence[tuple[str, str]], path: Path, listed: Path | None) -> str:
    name, reason = unreadable[0]
    return (
        f"no image of {len(unreadable):,} could be read, so {path} is not written. The first is {name}: "
        f"{reason}. All are in {listed}"
    )


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in pc.value_counts(column).to_pylist()}
