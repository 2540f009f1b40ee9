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
    train = pc.equal(table.column("split"), "train")
    below = int(fraction * 2**64)
    chosen = pa.array([_hash(key) < below for key in _keys(table)], pa.bool_())
    moved = pc.and_(train, chosen)
    split = pc.if_else(moved, "val", table.column("split").cast(pa.string()))
    return _with(table, split=split), int(pc.sum(moved).as_py() or 0)


def hold_out(table: pa.Table, fraction: float) -> pa.Table:
    """A table without splits as train and, about `fraction` of it, test, whose role is query.

    By the same keys as `carve` and another hash, so that the validation taken from the rest is as large as
    ever.
    """
    held = pa.array([_hash(f"test/{key}") < int(fraction * 2**64) for key in _keys(table)], pa.bool_())
    columns = {"split": pc.if_else(held, "test", "train")}
    if "role" in table.column_names:
        columns["role"] = pc.if_else(held, "query", table.column("role").cast(pa.string()))
    return _with(table, **columns)


def limited(table: pa.Table, limits: Mapping[Split, int], seed: int) -> pa.Table:
    """At most so many rows of each split, in the same proportions of label and generator (or role), smallest
    hash first.

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


def without_copies(table: pa.Table, contents: pa.Array | None = None) -> tuple[pa.Table, dict[str, int]]:
    """A table without the train rows whose copy is in val or test and the val rows whose copy is in test.

    contents: a hash of each row's bytes; the group where it is that. Of copies within a split those with the
    role query leave where one has the role gallery; the others stay and are counted: where they share their
    group, no validation is carved between them.
    """
    split = table.column("split")
    group = table.column("group") if contents is None else pa.chunked_array([contents])
    notes: dict[str, int] = {}
    keep = pa.chunked_array([pa.array(np.ones(table.num_rows, dtype=bool))])
    for name, others in (("train", ("val", "test")), ("val", ("test",))):
        elsewhere = group.filter(pc.is_in(split, pa.array(others))).combine_chunks()
        copies = pc.and_(pc.equal(split, name), pc.is_in(group, elsewhere, skip_nulls=True))
        removed = int(pc.sum(copies).as_py() or 0)
        if removed:
            notes[f"exact duplicates of other splits removed from {name}"] = removed
            keep = pc.and_(keep, pc.invert(copies))
    if "role" in table.column_names:
        for name in SPLITS:
            own = pc.and_(keep, pc.equal(split, name))
            gallery = pc.fill_null(pc.and_(own, pc.equal(table.column("role"), "gallery")), False)
            there = group.filter(gallery).combine_chunks()
            queries = pc.fill_null(pc.and_(own, pc.equal(table.column("role"), "query")), False)
            answered = pc.and_(queries, pc.is_in(group, there, skip_nulls=True))
            removed = int(pc.sum(answered).as_py() or 0)
            if removed:
                notes[f"exact duplicates of gallery images removed from the queries of {name}"] = removed
                keep = pc.and_(keep, pc.invert(answered))
    table, group = table.filter(keep), group.filter(keep)
    for name in SPLITS:
        groups = group.filter(pc.equal(table.column("split"), name)).drop_null()
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
    label, generator, role = (_numbers(table, name) for name in ("label", "generator", "role"))
    stratum = generator * (role.max() + 1) + role
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


def _keys(table: pa.Table) -> list[str]:
    """What decides where a row belongs: its group, or its path where it has none."""
    keys = table.column("path")
    if "group" in table.column_names:
        keys = pc.coalesce(table.column("group"), keys)
    listed: list[str] = keys.to_pylist()
    return listed


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _with(table: pa.Table, **columns: object) -> pa.Table:
    return to_table({**{name: table.column(name) for name in table.column_names}, **columns})
