"""Which rows are judged for which generator, and how it is called in a metric's name."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import DataError


@dataclass(frozen=True)
class Subset:
    """The rows that one generator is judged on.

    name: as it stands in the data. metric_name: as it stands in a metric's name. rows: int64 positions in the
    table, ascending. generated, real: how many of them. reals: `own` if real images were published with this
    generator, `shared` if those without a generator stand in, `none` if there are neither.
    """

    name: str
    metric_name: str
    rows: npt.NDArray[np.int64]
    generated: int
    real: int
    reals: str


def subsets(predictions: pa.Table) -> list[Subset]:
    """One Subset for each generator that has generated rows, sorted by name.

    A generator is judged on its generated rows and the real rows published with it; where it has none, on all
    real rows that name no generator. Generated rows without a generator belong to no subset and count in the
    whole only. Raises DataError where two generators would get the same metric name.
    """
    labels = predictions["label"].to_numpy()
    # object comparison against None and names; a table has few distinct names but may have millions of rows
    encoded = predictions["generator"].combine_chunks().dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    shared = np.flatnonzero((labels == 0) & (codes == -1))
    found: list[Subset] = []
    for code, name in sorted(enumerate(names), key=lambda pair: pair[1]):
        mine = codes == code
        generated = np.flatnonzero(mine & (labels == 1))
        if not len(generated):
            continue
        own = np.flatnonzero(mine & (labels == 0))
        real, reals = (own, "own") if len(own) else (shared, "shared" if len(shared) else "none")
        rows = np.sort(np.concatenate([generated, real])).astype(np.int64)
        found.append(Subset(name, metric_name(name), rows, len(generated), len(real), reals))
    _refuse_collisions(found)
    return found


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
