"""Which rows are train, validation and test: stable under added files, the same on every machine.

Every choice here is a hash of a row's own name, never of its position, so that a row keeps its place when
others come and go.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import DataError
from .table import SPLITS, Split, to_table


def carve(table: pa.Table, fraction: float) -> tuple[pa.Table, int]:
    """Move about `fraction` of train to val, by blake2b of `group`, or of `path` where there is none.

    Without a seed, so that all experiments on a data set choose on the same images. Returns the table and how
    many rows moved.
    """
    keys = table.column("path")
    if "group" in table.column_names:
        keys = pc.coalesce(table.column("group"), keys)
    train = pc.equal(table.column("split"), "train")
    below = int(fraction * 2**64)
    chosen = pa.array([_hash(key) < below for key in keys.to_pylist()], pa.bool_())
    moved = pc.and_(train, chosen)
    split = pc.if_else(moved, "val", table.column("split").cast(pa.string()))
    return _with(table, split=split), int(pc.sum(moved).as_py() or 0)


def limited(table: pa.Table, limits: Mapping[Split, int], seed: int) -> pa.Table:
    """At most so many rows of each split, in the same proportions of label and generator, smallest hash
    first.

    The rows of a limit are among those of any larger limit. Within a generator rows come by blake2b(seed,
    path); generators, and then labels, take turns by the share of theirs that is already taken, so that every
    one of them is there as soon as the limit allows.
    """
    split = np.asarray(table.column("split").to_pylist())
    keep = np.ones(table.num_rows, dtype=bool)
    for name, number in limits.items():
        rows = np.flatnonzero(split == name)
        if len(rows) > number:
            keep[rows] = False
            keep[rows[_order(table.take(rows), seed)[:number]]] = True
    return table.filter(pa.array(keep))


def without_copies(table: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """A table without the train rows whose group is in val or test and the val rows whose group is in test.

    For listings whose group is the hash of a file's bytes. Copies within a split stay and are counted: they
    share their group, so no validation is carved between them.
    """
    split, group = table.column("split"), table.column("group")
    notes: dict[str, int] = {}
    keep = pa.chunked_array([pa.array(np.ones(table.num_rows, dtype=bool))])
    for name, others in (("train", ("val", "test")), ("val", ("test",))):
        elsewhere = group.filter(pc.is_in(split, pa.array(others))).combine_chunks()
        copies = pc.and_(pc.equal(split, name), pc.is_in(group, elsewhere, skip_nulls=True))
        removed = int(pc.sum(copies).as_py() or 0)
        if removed:
            notes[f"exact duplicates of other splits removed from {name}"] = removed
            keep = pc.and_(keep, pc.invert(copies))
    table = table.filter(keep)
    for name in SPLITS:
        groups = table.column("group").filter(pc.equal(table.column("split"), name)).drop_null()
        repeated = len(groups) - pc.count_distinct(groups).as_py()
        if repeated:
            notes[f"exact duplicates within {name} (kept)"] = repeated
    return table, notes


def check_groups(table: pa.Table, name: str) -> None:
    """DataError where rows of one group are in two splits."""
    if "group" not in table.column_names:
        return
    pairs = table.select(["group", "split"]).filter(pc.is_valid(table.column("group")))
    pairs = pairs.set_column(1, "split", pairs.column("split").cast(pa.string()))
    spread = pairs.group_by("group").aggregate([("split", "count_distinct"), ("split", "distinct")])
    leaks = spread.filter(pc.greater(spread.column("split_count_distinct"), 1))
    if leaks.num_rows:
        group = leaks.column("group")[0].as_py()
        where = " and ".join(sorted(leaks.column("split_distinct")[0].as_py()))
        raise DataError(
            f"{leaks.num_rows} groups of {name} are in more than one split, the first is {group!r} in "
            f"{where}: rows of one group must share a split, or what is learnt from one is tested on its "
            "sibling. Mend the split or group column"
        )


def _order(table: pa.Table, seed: int) -> NDArray[np.int64]:
    """int64 [n]: the rows in the order in which a limit takes them."""
    hashes = np.array([_hash(f"{seed}/{path}") for path in table.column("path").to_pylist()], dtype=np.uint64)
    label, stratum = _numbers(table, "label"), _numbers(table, "generator")
    order = np.argsort(hashes, kind="stable")
    for keys in (label * (stratum.max() + 1) + stratum, label):
        order = order[np.argsort(_turns(keys[order]), kind="stable")]
    return order


def _turns(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [n]: for rows in order of preference, the share of their key that is taken before them."""
    sizes = np.bincount(keys)
    rows = np.argsort(keys, kind="stable")
    position = np.empty(len(keys), dtype=np.int64)
    position[rows] = np.arange(len(keys)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return position / sizes[keys]


def _numbers(table: pa.Table, name: str) -> NDArray[np.int64]:
    if name not in table.column_names:
        return np.zeros(table.num_rows, dtype=np.int64)
    values = [str(value) for value in table.column(name).to_pylist()]
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _with(table: pa.Table, **columns: object) -> pa.Table:
    return to_table({**{name: table.column(name) for name in table.column_names}, **columns})
