"""What retrieval asks of the classes of an index: met more than once, and known to the gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import DataError
from .roles import Roles, roles
from .table import Index, Split

_SHOWN = 5


def oddities(index: Index) -> dict[str, int]:
    """Notes on classes of one image, and on queries of val and test whose class their gallery lacks.

    Nothing is removed: such queries are the subject of the open-set figures.
    """
    names = index.classes()
    if not names or "role" not in index.table.column_names:
        return {}
    notes: dict[str, int] = {}
    labels = index.column("label")
    present, counts = np.unique(labels, return_counts=True)
    single = present[counts == 1].tolist()
    if single:
        notes[f"classes or identities of one image, which matches no other: {_few(single, names)}"] = len(
            single
        )
    for split in ("val", "test"):
        found = searched(index, split)
        if found is None:
            continue
        asked = labels[found.queries]
        unknown = asked[~np.isin(asked, labels[found.gallery])]
        if len(unknown):
            absent = _few(np.unique(unknown).tolist(), names)
            notes[f"{split} queries whose class or identity no gallery image has: {absent}"] = len(unknown)
    return notes


def searched(index: Index, split: Split) -> Roles | None:
    """Queries and gallery of a split, or None where `roles` has an error for whoever needs both."""
    try:
        return roles(index, split)
    except DataError:
        return None


def _few(labels: Sequence[int], names: Mapping[int, str]) -> str:
    called = [names[label] for label in labels]
    more = f" and {len(called) - _SHOWN} more" if len(called) > _SHOWN else ""
    return ", ".join(called[:_SHOWN]) + more
