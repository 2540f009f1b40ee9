"""What would make an acceptance worthless: queries that are in the gallery, or that the weights have seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from ..errors import DataError, ImageError
from ..images.sources import read_bytes
from .roles import Rows, roles
from .table import Index, Split

_SHOWN = 3


def check_no_copies(index: Index, split: Split) -> None:
    """Raise DataError, naming pairs, where a query of the split is byte for byte an image of its gallery.

    Reads every file of both. One that can't be read is a copy of nothing.
    """
    found = roles(index, split)
    first: dict[tuple[bytes, object], int] = {}
    for row, content in zip(found.gallery.tolist(), _contents(index, found.gallery), strict=True):
        if content is not None:
            first.setdefault(content, row)
    queries = zip(found.queries.tolist(), _contents(index, found.queries), strict=True)
    pairs = [(row, first[content]) for row, content in queries if content in first]
    if pairs:
        named = [f"{index.location(one)[1]} is {index.location(other)[1]}" for one, other in pairs[:_SHOWN]]
        raise DataError(
            f"{len(pairs):,} of {len(found.queries):,} queries are byte for byte images of the gallery, so "
            f"each would find itself: {_listed(named, len(pairs))}. Remove one of each pair"
        )


def check_unseen(index: Index, split: Split, trained: Index) -> None:
    """Raise DataError, naming some, where queries of the split are images of `trained`, here or copied.

    trained: the Index of a run; its train split taught the weights, its val split chose them. Reads every
    file of both.
    """
    learnt = np.concatenate([trained.rows("train"), trained.rows("val")])
    places = set(_places(trained, learnt.tolist()))
    contents = {content for content in _contents(trained, learnt) if content is not None}
    queries = roles(index, split).queries
    both = [
        row
        for row, place, content in zip(
            queries.tolist(), _places(index, queries.tolist()), _contents(index, queries), strict=True
        )
        if place in places or content in contents
    ]
    if both:
        named = [index.location(row)[1] for row in both[:_SHOWN]]
        raise DataError(
            f"the run was trained on {len(both):,} of the {len(queries):,} queries, or its weights were "
            f"chosen by them: {_listed(named, len(both))}. Name images that it has not seen"
        )


def _contents(index: Index, rows: Rows) -> Iterator[tuple[bytes, object] | None]:
    """(hash of the file, box) of each row, None where it can't be read: embedding it will say so."""
    boxes = index.table.column("box") if "box" in index.table.column_names else None
    for row in rows.tolist():
        try:
            content = read_bytes(*index.location(row))
        except ImageError:
            yield None
            continue
        box = None if boxes is None else boxes[row].as_py()
        yield blake2b(content, digest_size=16).digest(), None if box is None else tuple(box)


def _places(index: Index, rows: Sequence[int]) -> list[tuple[str, object]]:
    """(file, box) of each row, the file by where it really is."""
    roots = [root.resolve() for root in index.roots]
    table = index.table.take(pa.array(rows, pa.int64()))
    boxes = table.column("box").to_pylist() if "box" in table.column_names else [None] * len(rows)
    return [
        (f"{roots[root]}/{path}", None if box is None else tuple(box))
        for root, path, box in zip(
            table.column("root").to_pylist(), table.column("path").to_pylist(), boxes, strict=True
        )
    ]


def _listed(names: Sequence[str], count: int) -> str:
    return ", ".join(names) + (", …" if count > len(names) else "")
