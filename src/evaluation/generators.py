"""Which rows are judged for which generator, and how it is called in a metric's name."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError

DATA = "data"
"""The column that names the data set of a row, where several were joined."""
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Subset:
    """The rows that one generator is judged on.

    name: as it stands in the data, or `<data>.<name>` where several data sets have it. metric_name: as it
    stands in a metric's name. rows: int64 positions in the table, ascending. generated, real: how many of
    them. reals: `own` if real images were published with this generator, `shared` if those without a
    generator stand in, `none` if there are neither. data: the data set, None where there is but one.
    generator: the name without a data set before it.
    """

    name: str
    metric_name: str
    rows: npt.NDArray[np.int64]
    generated: int
    real: int
    reals: str
    data: str | None
    generator: str


def subsets(predictions: pa.Table) -> list[Subset]:
    """One Subset for each generator that has generated rows, sorted by data set, then by name.

    A generator is judged on its generated rows and the real rows published with it; where it has none, on all
    real rows that name no generator. Data sets that were joined share nothing: a generator that two of them
    hold is two Subsets, each with the real images of its set. Generated rows without a generator belong to no
    subset and count in the whole only. Raises DataError where two generators would get the same metric name.
    """
    labels = predictions["label"].to_numpy()
    # object comparison against None and names; a table has few distinct names but may have millions of rows
    encoded = predictions["generator"].combine_chunks().dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    found: list[Subset] = []
    sets: dict[str | None, Bools] = dict(data_sets(predictions).items())
    sets = sets or {None: np.ones(len(labels), np.bool_)}
    fakes = {data: place & (labels == 1) for data, place in sets.items()}
    several = {
        code for code in range(len(names)) if sum((codes[of] == code).any() for of in fakes.values()) > 1
    }
    for data, place in sets.items():
        shared = np.flatnonzero(place & (labels == 0) & (codes == -1))
        for code, name in sorted(enumerate(names), key=lambda pair: pair[1]):
            mine = place & (codes == code)
            generated = np.flatnonzero(mine & (labels == 1))
            if not len(generated):
                continue
            own = np.flatnonzero(mine & (labels == 0))
            real, reals = (own, "own") if len(own) else (shared, "shared" if len(shared) else "none")
            rows = np.sort(np.concatenate([generated, real])).astype(np.int64)
            whole = f"{data}.{name}" if code in several else name
            plain = name.removeprefix(f"{data}.") if data else name
            counts = len(generated), len(real)
            found.append(Subset(whole, metric_name(whole), rows, *counts, reals, data, plain))
    _refuse_collisions(found)
    return found


def data_sets(predictions: pa.Table) -> dict[str, Bools]:
    """Data set → bool [N], which rows are its own, sorted by name; empty where there are no two of them.

    Raises DataError where rows of a joined table name no data set, or two would get the same metric name.
    """
    if DATA not in predictions.column_names:
        return {}
    names = predictions[DATA].combine_chunks().cast(pa.string())
    known: list[str | None] = pc.unique(names).to_pylist()
    if len(known) < 2:
        return {}
    if None in known:
        raise DataError(f"{names.null_count} of {len(names)} predictions name no data set, the others do")
    there = sorted(str(name) for name in known)
    owner: dict[str, str] = {}
    for name in there:
        other = owner.setdefault(metric_name(name), name)
        if other != name:
            raise DataError(f"the data sets {other!r} and {name!r} are both {metric_name(name)!r} in metrics")
    return {name: pc.equal(names, name).to_numpy(zero_copy_only=False) for name in there}


def metric_name(generator: str) -> str:
    """The generator's name as part of a metric's name.

    Every character outside [A-Za-z0-9_. -] becomes `_`, the slash too since it separates levels; spaces at
    the ends are dropped; a name of dots only, which MLflow would read as a folder, becomes underscores.
    """
    name = re.sub(r"[^A-Za-z0-9_. -]", "_", generator).strip()
    return re.sub(r"\.", "_", name) if set(name) <= {"."} else name


def _refuse_collisions(found: list[Subset]) -> None:
    owner: dict[str, str] = {}
    for subset in found:
        if not subset.metric_name:
            raise DataError(f"the generator {subset.name!r} has no character that a metric's name may hold")
        other = owner.setdefault(subset.metric_name, subset.name)
        if other != subset.name:
            raise DataError(
                f"the generators {other!r} and {subset.name!r} are both {subset.metric_name!r} in metrics;"
                " rename one of them in the data (allowed: letters, digits, `_`, `.`, `-`, space)"
            )
