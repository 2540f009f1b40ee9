"""The Index: a table with one row an image (or a conversation), and where its files lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
MEMBER = "::"
"""Separates a container from what it holds in `path`: `archive.tar::member`, `file.parquet::row`."""

_NAME = pa.dictionary(pa.int32(), pa.string())  # few distinct values: four bytes a row whatever their length

TYPES: Mapping[str, pa.DataType] = {
    "path": pa.string(),
    "further_images": pa.list_(pa.string()),
    "root": pa.int16(),
    "split": _NAME,
    "box": pa.list_(pa.float32()),
    "group": pa.string(),
    "data": _NAME,
    "label": pa.int64(),
    "generator": _NAME,
    "class": _NAME,
    "captions": pa.list_(pa.string()),
    "role": _NAME,
    "camera": _NAME,
    "sequence": _NAME,
    "modality": _NAME,
    "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
}
"""Every column an Index may have, in this order. `path`, `root` and `split` are always there, the rest as the
task needs:

path: relative to the root, `/` between folders, or `container::member`. root: number into `Index.roots`.
further_images: the second and later images of a conversation, of the same root; null where it shows one.
split: train, val or test; a published evaluation set is always test.
box: x0, y0, x1, y1 in pixels, half open; null is the whole image. A list without a fixed length, since
parquet can't read nulls of one that has it.
group: rows of one group are never in two splits; null is a group of its own.
data: the data set a row came from, where several were joined.
label: 0 real and 1 generated; in retrieval the class or identity, and class its name. generator: which one
made the image; on real rows the subset they were published with, null where they are shared by all.
captions, and in retrieval role (gallery or query, null is neither), camera, sequence, modality; messages of a
conversation, see `messages`.
"""


@dataclass(frozen=True)
class Index:
    """What there is to learn from; row numbers are the `index` of batches and predictions.

    table: columns of TYPES, each one chunk. roots: absolute folders that `path` is relative to.
    fingerprint: 32 hex digits over the content of the table (every column of every row in order: paths,
        splits, labels, groups, …) and the size of every file in bytes, not over the roots: data that was
        copied elsewhere keeps it, and a resumed run compares it.
    notes: what was found, removed or left aside on the way, and how often.
    edition: 32 hex digits over the fingerprint, the roots and the modification time of every file; the key
        for whatever is made of the pixels and kept on this machine. Empty where no files were looked at.
    """

    table: pa.Table
    roots: tuple[Path, ...]
    fingerprint: str
    notes: Mapping[str, int] = field(default_factory=dict)
    edition: str = ""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def rows(self, split: Split) -> NDArray[np.int64]:
        """int64 [n]: the row numbers of one split, ascending; empty where the index has none of it."""
        mask = pc.equal(self.table.column("split"), split)
        return np.flatnonzero(mask.to_numpy(zero_copy_only=False)).astype(np.int64, copy=False)

    def column(self, name: str) -> NDArray[np.int64] | list[Any]:
        """One column: int64 [n] where it holds integers without a null, else a list with None for nulls.

        A list of a million strings takes a hundred megabytes; `codes` and `location` do without one.
        """
        values = self.table.column(name)
        if pa.types.is_integer(values.type) and values.null_count == 0:
            return np.asarray(values.to_numpy(), dtype=np.int64)
        listed: list[Any] = values.to_pylist()
        return listed

    def codes(self, name: str) -> tuple[NDArray[np.int64], list[str]]:
        """(int64 [n] positions in the vocabulary, -1 for null; the sorted vocabulary) of a column of names.

        A column that the index lacks is all null.
        """
        if name not in self.table.column_names:
            return np.full(len(self), -1, np.int64), []
        values = self.table.column(name).cast(pa.string())
        vocabulary = sorted(pc.unique(values).drop_null().to_pylist())
        found = pc.fill_null(pc.index_in(values, pa.array(vocabulary, pa.string()), skip_nulls=True), -1)
        return np.asarray(found.to_numpy(), dtype=np.int64), vocabulary

    def judged(self) -> Index:
        """The same rows as they are evaluated: where a data set has no test split, all of its rows are it."""
        split = np.asarray(self.table.column("split").to_pylist())
        data = self.codes("data")[0]
        for name in np.unique(data):
            own = data == name
            if not (split[own] == "test").any():
                split[own] = "test"
        place = self.table.column_names.index("split")
        column = pa.array(split.tolist(), pa.string()).cast(TYPES["split"])
        return replace(self, table=self.table.set_column(place, "split", column))

    def location(self, row: int) -> tuple[Path, str]:
        """(root, relative path) of one row; the path may name a member of a container."""
        root = self.table.column("root")[row].as_py()
        return self.roots[root], self.table.column("path")[row].as_py()

    def generators(self) -> list[str]:
        """The sorted names in the generator column, nulls left out."""
        return self.codes("generator")[1]

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per split and class, splits and classes without images left out.

        Classes are `real` and `generated` where there is a generator column, else they are called as the
        class column says, or by the label's number; without labels everything counts as `images`.
        """
        counted: dict[str, dict[str, int]] = {}
        labels = self.table.column("label").to_numpy() if "label" in self.table.column_names else None
        for split in SPLITS:
            rows = self.rows(split)
            if not len(rows):
                continue
            if labels is None:
                counted[split] = {"images": len(rows)}
                continue
            present, numbers = np.unique(labels[rows], return_counts=True)
            counted[split] = {
                self.class_name(label): int(n) for label, n in zip(present, numbers, strict=True)
            }
        return counted

    def class_name(self, label: float) -> str:
        """What the class of a label is called in counts and messages; NaN is a row without a label."""
        if np.isnan(label):
            return "unlabelled"
        if "generator" in self.table.column_names:
            return ("real", "generated")[int(label)]
        return self.classes().get(int(label), str(int(label)))

    def classes(self) -> dict[int, str]:
        """Label → name, of the labels that have one, ascending; empty without a class column."""
        if "class" not in self.table.column_names:
            return {}
        named = self.table.select(["label", "class"]).drop_null()
        pairs = named.set_column(1, "class", named.column("class").cast(pa.string()))
        counted = pairs.group_by(["label", "class"]).aggregate([]).sort_by("label")
        return dict(zip(counted["label"].to_pylist(), counted["class"].to_pylist(), strict=True))


@dataclass(frozen=True)
class Listing:
    """What a layout found below one root.

    table: columns of TYPES; `split` absent or all null where the layout has no splits, `root` only where
        `roots` has more than the root that was listed.
    notes: what was left aside or is odd, and how often.
    watched: folders (with all folders below) and files whose modification times decide whether the listing is
        still true; relative to nothing, so absolute or as the root was given.
    test_fraction: share of the rows, none of which has a split, that becomes test by hash of `group` or else
        of the path, where test has no root of its own.
    copies: `group` is a hash of the file's bytes, so that the same image is never learnt from and evaluated
        on: the copies in train are removed and counted, and those of gallery images among the queries.
    read_for_copies: the same where `group` is something else, such as an identity: every file is read once.
    near_duplicates: queries that look like an image of their gallery or of train at this cosine are removed
        and counted, see `duplicates.without_near`.
    roots: further folders that paths are relative to: 0 in `root` is the listed root, n the nth of these.
    """

    table: pa.Table
    watched: Sequence[Path]
    notes: Mapping[str, int] = field(default_factory=dict)
    test_fraction: float = 0.0
    copies: bool = False
    read_for_copies: bool = False
    near_duplicates: float | None = None
    roots: Sequence[Path] = ()


def to_table(columns: Mapping[str, Any]) -> pa.Table:
    """Columns of Python values or arrow arrays as a table with the types and the order of TYPES."""
    unknown = columns.keys() - TYPES.keys()
    if unknown:
        raise ValueError(f"an Index has no columns {sorted(unknown)}; it may have {list(TYPES)}")
    arrays = {name: _array(columns[name], kind) for name, kind in TYPES.items() if name in columns}
    return pa.table(arrays)


def numbered(table: pa.Table) -> pa.Table:
    """A table whose labels are the positions of its classes among their sorted names.

    A layout numbers what lies below one root; where the splits have roots of their own, or several sets are
    joined, a class that one of them lacks would give its number to another. Tables without a class in every
    row stay as they are.
    """
    if "class" not in table.column_names or table.column("class").null_count:
        return table
    names = table.column("class").cast(pa.string())
    vocabulary = pa.array(sorted(pc.unique(names).to_pylist()), pa.string())
    columns = {name: table.column(name) for name in table.column_names}
    return to_table({**columns, "label": pc.index_in(names, vocabulary)})


def join(indexes: Mapping[str, Index]) -> Index:
    """Several data sets as one Index; column `data` says where a row came from, absent columns are null.

    A generator, class or identity that several sets name is told apart by its set: `genimage.ADM`. Labels of
    classes are numbered anew.
    """
    tables: list[pa.Table] = []
    roots: list[Path] = []
    notes: dict[str, int] = {}
    told = ("generator", "class")
    named = {
        column: Counter(one for index in indexes.values() for one in index.codes(column)[1])
        for column in told
    }
    for name, index in indexes.items():
        table = index.table
        shifted = pc.cast(pc.add(pc.cast(table.column("root"), pa.int32()), len(roots)), pa.int16())
        columns = {column: table.column(column) for column in table.column_names}
        for column in told:
            if column in columns:
                again = {one: f"{name}.{one}" for one, times in named[column].items() if times > 1}
                columns[column] = _renamed(columns[column], again)
        data = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(index), np.int32)), pa.array([name]))
        tables.append(to_table({**columns, "root": shifted, "data": data}))
        roots += index.roots
        notes |= {f"{name}: {note}": count for note, count in index.notes.items()}
    joined = numbered(pa.concat_tables(tables, promote_options="permissive").unify_dictionaries())
    ordered = joined.select([name for name in TYPES if name in joined.column_names])
    return Index(
        ordered.unify_dictionaries().combine_chunks(),
        tuple(roots),
        digest(*((name, index.fingerprint) for name, index in indexes.items())),
        notes,
        digest(*((name, index.edition) for name, index in indexes.items())),
    )


def digest(*parts: object) -> str:
    """32 hex digits over the text of the parts."""
    hashed = blake2b(digest_size=16)
    for part in parts:
        hashed.update(repr(part).encode("utf-8", "surrogateescape") + b"\0")
    return hashed.hexdigest()


def _renamed(values: pa.ChunkedArray, names: Mapping[str, str]) -> pa.Array:
    """A column of names in which some are called otherwise."""
    encoded = values.combine_chunks()
    called = [names.get(name, name) for name in encoded.dictionary.to_pylist()]
    return pa.DictionaryArray.from_arrays(encoded.indices, pa.array(called, pa.string()))


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        return values if values.type == kind else values.cast(kind)
    if isinstance(kind, pa.DictionaryType):
        return pa.array(values, kind.value_type).dictionary_encode()
    return pa.array(values, kind)
