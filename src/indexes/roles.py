"""Who is searched by whom: the gallery and the queries of a split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .table import Index, Split

Rows = NDArray[np.int64]

QUERY, GALLERY = 0, 1


@dataclass(frozen=True)
class Roles:
    """queries and gallery: int64 row numbers, ascending, never one in both.

    own: whether the gallery is the split's own; otherwise it is what was learnt from.
    """

    queries: Rows
    gallery: Rows
    own: bool


def roles(index: Index, split: Split) -> Roles:
    """The queries of val or test and the gallery that they search.

    A split with gallery rows of its own is searched by its rows of the role query. One without is searched
    for in train: each of its rows is a query, and the gallery are the rows of train that are none. Raises
    DataError where one of the two is empty, or where a row of a split with a gallery has no role.
    """
    named = _names(index)
    rows = index.rows(split)
    own = rows[named[rows] == "gallery"]
    if len(own):
        without = rows[named[rows] == ""]
        if len(without):
            raise DataError(
                f"{len(without)} images of {split} are neither gallery nor query, while others are, the "
                f"first is {index.location(int(without[0]))[1]}: give every image of the split a role"
            )
        queries, gallery = rows[named[rows] == "query"], own
    else:
        queries, gallery = rows, train_gallery(index)
    for what, found in (("queries", queries), ("gallery", gallery)):
        if not len(found):
            raise DataError(
                f"the {what} of {split} {'are' if what == 'queries' else 'is'} empty: "
                + (
                    f"images of {split} with the role query are needed"
                    if what == "queries"
                    else f"images of {split} with the role gallery are needed, or a train split to search"
                )
            )
    return Roles(queries, gallery, bool(len(own)))


def train_gallery(index: Index) -> Rows:
    """int64 rows of train that may be searched: all but those of the role query."""
    rows = index.rows("train")
    searched: Rows = rows[_names(index)[rows] != "query"]
    return searched


def resolved(index: Index) -> Rows:
    """int64 [n]: GALLERY or QUERY for each row, as `roles` has it; train is gallery, but for its queries."""
    named = _names(index)
    found = np.where(named == "gallery", GALLERY, QUERY)
    train = index.rows("train")
    found[train] = np.where(named[train] == "query", QUERY, GALLERY)
    return found.astype(np.int64)


def _names(index: Index) -> NDArray[np.str_]:
    codes, names = index.codes("role")
    return np.array([*names, ""], dtype=np.str_)[codes]
