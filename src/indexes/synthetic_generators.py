"""The embedded set with a choice of generators: learn one kind of up-sampling, be judged on every kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from . import synthetic
from .leaves import choose
from .table import Listing

COLUMNS: tuple[str, ...] = synthetic.COLUMNS


def index(
    root: Path,
    *,
    train_generators: Sequence[str] | None = None,
    test_generators: Sequence[str] | None = None,
    train: int = 4000,
    test: int = 800,
    size: int = 64,
    difficulty: float = 0.7,
    seed: int = 0,
) -> Listing:
    """`synthetic.index`, of whose generated images only those of some generators are taken.

    train_generators, test_generators: bicubic, nearest, pixel_shuffle, transposed_convolution; all by
    default. The real images, which all generators share, stay: `data.sampler=class_balanced` shows both
    classes equally often in training. The rest is as in `synthetic.index`. Raises ConfigError for a generator
    that there is not.
    """
    listing = synthetic.index(root, train=train, test=test, size=size, difficulty=difficulty, seed=seed)
    names, splits = (listing.table.column(name).cast(pa.string()) for name in ("generator", "split"))
    there = pc.unique(names).drop_null().to_pylist()
    kept = pc.is_null(names)
    for split, wanted in (("train", train_generators), ("test", test_generators)):
        chosen = choose(f"{split}_generators", wanted, there, "the synthetic set")
        of_it = pc.is_in(names, value_set=pa.array(sorted(chosen), pa.string()))
        kept = pc.or_(kept, pc.and_(pc.equal(splits, split), of_it))
    return replace(listing, table=listing.table.filter(kept))
