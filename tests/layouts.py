"""Tiny data in the true on-disk layouts, the same on every machine.

Real images are smooth ramps of colour with noise; generated ones are the same with a checkerboard over them,
so that a network can learn the difference in a few steps. Every image is a function of (seed, split, class,
number).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SPLITS = {"train": 24, "val": 8, "test": 8}


def make_image(path: Path, *, generated: bool, seed: tuple[int, ...] | int = 0, size: int = 32) -> Path:
    """One image of size x size pixels; the ending of path says its format."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    ramp = rng.uniform(-60, 60, 3) * rows[..., None] + rng.uniform(-60, 60, 3) * columns[..., None]
    pixels = rng.uniform(90, 160, 3) + ramp + rng.normal(0, 4, (size, size, 3))
    if generated:
        board = np.indices((size, size)).sum(axis=0) % 2 * 2 - 1
        pixels += 12 * board[..., None]
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    options = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    image.save(path, **options)
    return path


def make_folder(
    root: Path,
    *,
    splits: Mapping[str, int] | None = None,
    real: str = "real",
    generated: str = "ai_generated",
    suffix: str = ".jpg",
    size: int = 32,
    seed: int = 0,
) -> Path:
    """`<split>/<class>/0000.jpg`, so many images a split and class; the split "" puts classes below root."""
    for number, (split, count) in enumerate((SPLITS if splits is None else splits).items()):
        for label, name in enumerate((real, generated)):
            for image in range(count):
                file = root / split / name / f"{image:04d}{suffix}"
                make_image(file, generated=bool(label), seed=(seed, number, label, image), size=size)
    return root


def make_cifake(
    root: Path, *, splits: Mapping[str, int] | None = None, copies: int = 0, seed: int = 0
) -> Path:
    """`train|test/REAL|FAKE/0000 (k).jpg`, 32 x 32; the first `copies` of test/FAKE are in train/FAKE too."""
    splits = {"train": 24, "test": 8} if splits is None else splits
    for number, (split, count) in enumerate(splits.items()):
        for label, name in enumerate(("REAL", "FAKE")):
            for image in range(count):
                file = root / split / name / f"{image:04d} ({image % 10 + 1}).jpg"
                make_image(file, generated=bool(label), seed=(seed, number, label, image))
    for image in range(copies):
        name = f"{image:04d} ({image % 10 + 1}).jpg"
        (root / "train" / "FAKE" / f"copy {name}").write_bytes((root / "test" / "FAKE" / name).read_bytes())
    return root


def make_manifest(
    root: Path, *, file: str = "manifest.csv", splits: Mapping[str, int] | None = None, seed: int = 0
) -> Path:
    """Images below `images/` and a csv or parquet list with path, label, split, generator, group."""
    rows = []
    for number, (split, count) in enumerate((SPLITS if splits is None else splits).items()):
        for label, name in enumerate(("real", "fake")):
            for image in range(count):
                path = f"images/{split}, {name} {image:04d}.png"  # a comma, so that csv must quote
                make_image(root / path, generated=bool(label), seed=(seed, number, label, image))
                generator = ("gan_a", "gan_b")[image % 2] if label else None
                rows.append(
                    {
                        "path": path,
                        "label": name,
                        "split": split,
                        "generator": generator,
                        "group": f"{split}{image}",
                    }
                )
    if file.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), root / file)
    else:
        with (root / file).open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return root
