"""CIFAKE: CIFAR-10 against Stable Diffusion 1.4, `train|test/REAL|FAKE/*.jpg` (Bird and Lotfi, 2024)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc

from . import folder
from .table import Listing, to_table

COLUMNS: tuple[str, ...] = ("path", "split", "group", "label", "generator")

FETCHED_BY = "tapetum download cifake"

GENERATOR = "stable_diffusion_v1_4"


def index(root: Path) -> Listing:
    """50,000 + 50,000 train and 10,000 + 10,000 test images of 32×32 pixels, JPEG in both classes.

    The set holds exact duplicates, some of them across the splits. `group` is a hash of the file's bytes:
    copies of test images are removed from train (and counted), and copies within train never part into train
    and validation. The suffix ` (k)` of a file name is its CIFAR-10 class and plays no role here.
    """
    listing = folder.index(root, real=("REAL",), generated=("FAKE",), copies="remove")
    table = listing.table
    generator = pc.if_else(pc.equal(table.column("label"), 1), GENERATOR, None)
    columns = {name: table.column(name) for name in table.column_names}
    return replace(listing, table=to_table({**columns, "generator": generator}))
