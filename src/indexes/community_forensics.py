"""Community Forensics: thousands of generators, `<generator>/real|fake/` (Park and Owens, CVPR 2025)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from .leaves import Part, check_root, choose, find_leaves, listing, split_of
from .table import Listing

COLUMNS: tuple[str, ...] = ("path", "split", "label", "generator")

ORIGIN = "https://github.com/JeongsooP/Community-Forensics"

_CLASSES = {"real": 0, "fake": 1}


def index(root: Path, *, generators: Sequence[str] | None = None) -> Listing:
    """`<generator or source>/real|fake/…`, or the same below `train`, `val` and `test`.

    generators: whose generated images are taken, all by default; real images are always taken.

    A name may have several levels (`org/model`). Real images beside generated ones carry that name; those of
    a source that has real images only are shared by all generators. Without split folders all is train, and
    validation is carved from it; data.roots.test=DIR names a set to test on.

    Raises ConfigError for a generator that is not there, DataError for folders out of place.
    """
    notes: Counter[str] = Counter()
    leaves = find_leaves(root, _CLASSES, notes)
    check_root(root, leaves)
    splits = any(split_of(leaf)[0] for leaf in leaves)
    parts = []
    for leaf in leaves:
        split, below = split_of(leaf)
        if splits and split is None:
            raise DataError(f"{root} holds split folders and {leaf.folder} beside them: move it into one")
        if not below:
            raise DataError(
                f"{root / leaf.folder} lies in no generator's folder: move it to "
                f"{root / Path(leaf.folder).parent}/<generator>/, or type data=folder"
            )
        parts.append(Part(leaf, split, "/".join(below)))
    there = {str(part.generator) for part in parts if part.leaf.label}
    wanted = choose("generators", generators, there, str(root))
    kept = []
    for part in parts:
        if part.generator in wanted:
            kept.append(part)
        elif not part.leaf.label:  # of a generator that was not chosen, or of a source without one
            kept.append(Part(part.leaf, part.split, None))
    return listing(root, kept, notes)
