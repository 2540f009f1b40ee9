"""CIFAKE: CIFAR-10 against Stable Diffusion 1.4, `train|test/REAL|FAKE/*.jpg` (Bird and Lotfi, 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pyarrow.compute as pc

from . import folder
from .table import Listing, to_table

COLUMNS: tuple[str, ...] = ("path", "split", "group", "label", "generator")

GENERATOR = "stable_diffusion_v1_4"


def index(root: Path) -> Listing:
    """50,000 + 50,000 train and 10,000 + 10,000 test images of 32×32 pixels, JPEG in both classes.

    The set holds exact duplicates, some of them across the splits. `group` is a hash of the file's bytes:
    copies of test images are removed from train (and counted), and copies within train never part into train
    and validation. The suffix ` (k)` of a file name is its CIFAR-10 class and plays no role here.
    """
    listing = folder.index(root, real=("REAL",), generated=("FAKE",))
    table = listing.table
    generator = pc.if_else(pc.equal(table.column("label"), 1), GENERATOR, None)
    columns = {name: table.column(name) for name in table.column_names}
    group = _contents(root, table.column("path").to_pylist())
    return replace(listing, table=to_table({**columns, "generator": generator, "group": group}), copies=True)


def _contents(root: Path, paths: Sequence[str]) -> list[str | None]:
    """24 hex digits over the bytes of each file; None for an empty file, a copy of nothing."""
    contents = ((root / path).read_bytes() for path in paths)
    return [blake2b(content, digest_size=12).hexdigest() if content else None for content in contents]
