"""The same image twice: exact copies by the bytes of a file, look-alikes by a thumbnail."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..errors import ConfigError, DataError, ImageError
from ..images.decode import decode_stored
from ..images.sources import read_bytes
from .classes import searched
from .table import SPLITS, Index, Split

SIDE = 16
_CHUNK = 1024


def contents(root: Path, paths: Sequence[str]) -> list[str | None]:
    """24 hex digits over the bytes of each file; None for an empty file, a copy of nothing."""
    read = ((root / path).read_bytes() for path in paths)
    return [blake2b(content, digest_size=12).hexdigest() if content else None for content in read]


def contents_of(table: pa.Table, roots: Sequence[Path]) -> pa.Array:
    """The same for the rows of a table, with the box of each that has one; files in containers, too."""
    keys: list[str | None] = []
    for content, box in _read(table, roots):
        hashed = blake2b(content, digest_size=12).hexdigest() if content else None
        keys.append(f"{hashed} {box}" if hashed and box else hashed)
    return pa.array(keys, pa.string())


def check_near(threshold: float | None) -> None:
    """Raise ConfigError for a `near_duplicates` that is no cosine of look-alikes."""
    if threshold is not None and (isinstance(threshold, bool) or not 0.5 <= threshold <= 1):
        raise ConfigError(
            f"data.index.near_duplicates={threshold}: must be null (none are looked for) or a cosine from "
            "0.5 to 1, such as 0.995"
        )


def one_of_each(table: pa.Table, notes: Counter[str]) -> pa.Table:
    """A table with one row of each `group`, where groups are hashes of the bytes of labelled images.

    Of images that are byte for byte the same one is kept: that of test before val before train, by path.
    Where their classes contradict each other none is, for nobody can say which is right. Both are counted in
    notes.
    """
    groups = table.column("group").to_pylist()
    labels = table.column("label").to_pylist()
    splits = table.column("split").to_pylist() if "split" in table.column_names else [None] * len(groups)
    paths = table.column("path").to_pylist()
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        if group is not None:
            rows.setdefault(group, []).append(row)
    keep = np.ones(table.num_rows, dtype=bool)
    for same in rows.values():
        if len(same) < 2:
            continue
        keep[same] = False
        if len({labels[row] for row in same}) > 1:
            notes["images removed that are byte for byte the same but of different classes"] += len(same)
            continue
        kept = min(same, key=lambda row: (-SPLITS.index(splits[row] or "train"), paths[row]))
        keep[kept] = True
        notes["exact duplicates removed, one of each kept"] += len(same) - 1
    return table.filter(pa.array(keep))


def without_near(index: Index, threshold: float) -> tuple[pa.Table, dict[str, int]]:
    """The table of an index without the queries that look like an image of their gallery or of train.

    Two images look alike where the cosine of their thumbnails is at least threshold: 16 x 16 means of grey
    levels, less their mean, of unit norm, so whatever gain and offset they were stored with. Queries of test
    are compared with val as well, which was carved from train. An image that can't be read looks like none.
    Returns the table and notes with the counts.
    """
    table = index.table
    splits = np.asarray(table.column("split").to_pylist(), dtype=object)
    looks, unread = _thumbnails(table, index.roots)
    keep = np.ones(len(index), dtype=bool)
    notes: dict[str, int] = {}
    learnt: Mapping[Split, tuple[Split, ...]] = {"val": ("train",), "test": ("train", "val")}
    for split, before in learnt.items():
        found = searched(index, split)
        if found is None:
            continue
        others = np.union1d(found.gallery, np.flatnonzero(np.isin(splits, before)))
        near = found.queries[_best(looks[found.queries], looks[others]) >= threshold]
        keep[near] = False
        if len(near):
            notes[f"queries removed from {split} that look like an image they search or learn from"] = len(
                near
            )
    if unread:
        notes["images that can't be read and so were not compared with others"] = unread
    return table.filter(pa.array(keep)), notes


def _best(queries: Tensor, others: Tensor) -> NDArray[np.float32]:
    """The largest cosine of each query."""
    best = [(chunk @ others.T).amax(1) for chunk in torch.split(queries, _CHUNK)] if len(others) else []
    return (torch.cat(best) if best else torch.full((len(queries),), -1.0)).numpy()


def _thumbnails(table: pa.Table, roots: Sequence[Path]) -> tuple[Tensor, int]:
    """(float32 [n, 256], how many of the rows are zero since their image can't be read)."""
    looks = torch.zeros(table.num_rows, SIDE * SIDE)
    unread = 0
    for row, (content, box) in enumerate(_read(table, roots)):
        try:
            grey = decode_stored(content).to(torch.float32).mean(0, keepdim=True)
        except ImageError:
            unread += 1
            continue
        if box:
            left, top, right, bottom = (max(0, value) for value in box)
            grey = grey[:, math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)]
        if grey.numel():
            small = functional.adaptive_avg_pool2d(grey, SIDE).flatten()
            # Half a level of rounding in a constant image is no pattern.
            looks[row] = functional.normalize(small - small.mean(), dim=0, eps=1.0)
    return looks, unread


def _read(table: pa.Table, roots: Sequence[Path]) -> Iterator[tuple[bytes, list[float] | None]]:
    """(bytes, box) of each row; a file of many boxes in consecutive rows is read once."""
    boxes = table.column("box").to_pylist() if "box" in table.column_names else [None] * table.num_rows
    before, content = None, b""
    for root, path, box in zip(
        table.column("root").to_pylist(), table.column("path").to_pylist(), boxes, strict=True
    ):
        if (root, path) != before:
            try:
                content = read_bytes(roots[root], path)
            except ImageError as error:
                raise DataError(f"{roots[root] / path} can't be read: {error}") from error
            before = (root, path)
        yield content, box
