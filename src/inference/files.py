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
from .output import check_output, remove_table, writing
from .stream import Part

UNREADABLE = pa.schema([("path", pa.string()), ("reason", pa.string())])

_FIRST = 5

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """What was written.

    images: rows of the output. verdicts, bands: how many of them have which, empty where the task has none.
    unreadable: how many paths have no prediction; `first` are some of them with their reasons, `listed` the
    file of all, None where there are none. notes: what `find_images` noticed. seconds: reading, predicting
    and writing.
    """

    output: Path
    images: int
    verdicts: Mapping[str, int]
    bands: Mapping[str, int]
    unreadable: int
    first: Sequence[tuple[str, str]]
    listed: Path | None
    notes: Mapping[str, int]
    seconds: float


def write_parts(
    parts: Generator[Part],
    schema: pa.Schema,
    images: Images,
    output: str | Path,
    progress: Progress | None = None,
) -> Written:
    """Write parts as they come, whole or not at all; the rest is listed in `<output>.unreadable.csv`.

    schema: of the output, in which the parts' first column is called `path`. progress: called with (done,
    all) images. Raises DataError where nothing can be written, and where no image has a prediction; the list
    of reasons is then written all the same.
    """
    began = time.perf_counter()
    path = check_output(output)
    counted: dict[str, Counter[str]] = {"verdict": Counter(), "band": Counter()}
    unreadable = [(shown(folder), reason) for folder, reason in images.unlisted.items()]
    rows = bad = 0
    with closing(parts), writing(path, schema) as write:
        for part in parts:
            write(part.table.rename_columns(schema.names))
            for name, counts in counted.items():
                if name in schema.names:
                    counts.update(_counts(part.table[name]))
            unreadable += [(one.name, one.reason) for one in part.bad]
            rows += len(part.table)
            bad += len(part.bad)
            if progress is not None:
                progress(rows + bad, len(images.paths))
        listed = list_unreadable(unreadable, path)
        if not rows:
            raise DataError(_nothing_predicted(unreadable, path, listed))
    seconds = time.perf_counter() - began
    first = unreadable[:_FIRST]
    verdicts, bands = counted["verdict"], counted["band"]
    return Written(path, rows, verdicts, bands, len(unreadable), first, listed, images.notes, seconds)


def list_unreadable(unreadable: Sequence[tuple[str, str]], output: Path) -> Path | None:
    """Write (path, reason) to `<output>.unreadable.csv`; without any, None, and an earlier one is removed."""
    path = output.with_name(output.name + ".unreadable.csv")
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
