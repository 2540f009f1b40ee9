"""WildRF: images as people post them, tested platform by platform (Cavia et al., 2024)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from .leaves import REAL_FAKE, Part, check_root, choose, find_leaves, listing, split_of
from .table import Listing

COLUMNS: tuple[str, ...] = ("path", "split", "label", "generator")

ORIGIN = "https://github.com/barcavia/RealTime-DeepfakeDetection-in-the-RealWorld"


def index(root: Path, *, test_generators: Sequence[str] | None = None) -> Listing:
    """`train|val/0_real|1_fake` and `test/{reddit,twitter,facebook}/0_real|1_fake`.

    test_generators: which platforms are the test split, all by default, none for [].

    Nobody knows what made these images, so the platform stands in the generator column, for real and
    generated ones alike; it is null in train and val, which name none.

    Raises ConfigError for a platform that is not there, DataError for folders out of place.
    """
    notes: Counter[str] = Counter()
    parts = []
    leaves = find_leaves(root, REAL_FAKE, notes)
    check_root(root, leaves)
    for leaf in leaves:
        split, below = split_of(leaf)
        if split is None or len(below) > 1 or (split == "test" and not below):
            raise DataError(
                f"{root / leaf.folder} is out of place: WildRF is train|val/0_real|1_fake and "
                "test/<platform>/0_real|1_fake. Move it there, or type data=folder for another order"
            )
        parts.append(Part(leaf, split, below[0] if below else None))
    platforms = {str(part.generator) for part in parts if part.split == "test"}
    wanted = choose("test_generators", test_generators, platforms, str(root))
    return listing(root, [one for one in parts if one.split != "test" or one.generator in wanted], notes)
