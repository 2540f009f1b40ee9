"""DRCT-2M: MS COCO against sixteen diffusion models, in two roots (Chen et al., ICML 2024)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .leaves import choose
from .table import Listing, Split, to_table
from .walk import images_below, subfolders

COLUMNS: tuple[str, ...] = ("path", "root", "split", "group", "label", "generator")

ORIGIN = "https://github.com/beibuwandeluori/DRCT"

_SPLITS: dict[str, Split] = {"train2017": "train", "val2017": "test"}


def index(
    root: Path,
    *,
    real: str = "../MSCOCO",
    train_generators: Sequence[str] | None = None,
    test_generators: Sequence[str] | None = None,
) -> Listing:
    """`<generator>/train2017|val2017/` below root, and `<real>/train2017|val2017/`, the images of MS COCO.

    real: a folder, absolute (it may lie on another disk) or relative to root.
    train_generators, test_generators: whose images are learnt from and evaluated on, all by default, none
        for []; the paper trains on one and tests on all.

    `val2017` is the test split. The real images are shared by all generators. A generated image has the name
    of the COCO image whose caption made it, and shares its group, so that both are on one side of a carved
    validation split.

    Raises ConfigError for a generator that is not there, DataError where a folder or the real images of a
    split are missing.
    """
    folders = {name: set(subfolders(root / name)) & _SPLITS.keys() for name in subfolders(root)}
    if not any(folders.values()):
        there = ", ".join(list(folders)[:8]) or "no folder"
        raise DataError(
            f"{root} holds no <generator>/train2017 and no <generator>/val2017, but {there}: type "
            "data.root=<folder of DRCT-2M's generators>"
        )
    coco = root / Path(real).expanduser()
    if not coco.is_dir():
        raise DataError(
            f"{coco} is not a folder: type data.index.real=<folder of MS COCO, which holds train2017 and "
            "val2017>"
        )
    notes: Counter[str] = Counter()
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for year, key, given in (
        ("train2017", "train_generators", train_generators),
        ("val2017", "test_generators", test_generators),
    ):
        wanted = sorted(choose(key, given, (name for name in folders if year in folders[name]), str(root)))
        if not wanted:
            continue
        real_images = images_below(coco / year, notes) if (coco / year).is_dir() else []
        if not real_images:
            raise DataError(
                f"the real images of {', '.join(wanted)} are missing: {coco} has no {year}, or it is empty. "
                "Bring it back, or type data.index.real=<folder of MS COCO>"
            )
        _add(columns, real_images, year, year, None)
        for name in wanted:
            _add(columns, images_below(root / name / year, notes), f"{name}/{year}", year, name)
    odd = sum(not years for years in folders.values())
    if odd:
        notes["folders left out that hold neither train2017 nor val2017"] = odd
    return Listing(to_table(columns), watched=(root, coco), notes=notes, roots=(coco,))


def _add(
    columns: dict[str, list[Any]], names: Sequence[str], folder: str, year: str, generator: str | None
) -> None:
    """The images of one folder: generated ones lie below root 0, the real ones below root 1."""
    columns["path"] += [f"{folder}/{name}" for name in names]
    columns["root"] += [0 if generator else 1] * len(names)
    columns["split"] += [_SPLITS[year]] * len(names)
    columns["group"] += [f"{year}/{Path(name).stem}" for name in names]
    columns["label"] += [int(generator is not None)] * len(names)
    columns["generator"] += [generator] * len(names)
