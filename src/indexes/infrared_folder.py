"""Infrared images of your own, a folder a class: `train|val|test/<class>/…` or plain `<class>/…`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, DataError
from .duplicates import check_near, contents, one_of_each
from .folder import split_folders
from .leaves import choose
from .table import Listing, Split, to_table
from .walk import images_below, images_in, subfolders

COLUMNS: tuple[str, ...] = ("path", "split", "group", "label", "class", "role", "modality")


def index(
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    test_fraction: float = 0.2,
    near_duplicates: float | None = None,
) -> Listing:
    """Images at any depth below class folders; labels are the positions of the sorted class names.

    Images of val and test are queries, and train is their gallery. Of plain class folders about
    test_fraction, by a hash of the bytes, becomes test. Every file is read once: of images that are byte for
    byte the same one is kept, and none where their classes differ.

    classes: names of class folders, in any case; null is all that there are. near_duplicates: see
    `duplicates.without_near`.

    Raises MissingFolder, ConfigError for arguments out of range and classes that there are not, DataError
    where no folder holds a class, and for split and class folders side by side.
    """
    check_near(near_duplicates)
    if isinstance(test_fraction, bool) or not 0 <= test_fraction < 1:
        raise ConfigError(
            f"data.index.test_fraction={test_fraction}: must be at least 0 (no test split) and below 1"
        )
    notes: Counter[str] = Counter()
    parts = split_folders(root)
    found = {prefix: subfolders(root / prefix) for _, prefix in parts}
    for prefix, folders in found.items():
        if not folders:
            raise DataError(
                f"{root / prefix} holds no class folder ({len(images_in(root / prefix))} images): put the "
                "images of each class into a folder that is called like the class"
            )
        if stray := len(images_in(root / prefix)):
            notes["images left out that lie outside every class folder"] += stray
    names = {name for folders in found.values() for name in folders}
    _check_spelling(root, names)
    chosen = choose("classes", classes, names, str(root))
    labels = {name: label for label, name in enumerate(sorted(chosen))}
    paths: list[str] = []
    splits: list[Split | None] = []
    of_class: list[str] = []
    for split, prefix in parts:
        above = f"{prefix}/" if prefix else ""
        for name in found[prefix]:
            if name not in labels:
                notes["class folders left out that were not chosen"] += 1
                continue
            below = images_below(root / prefix / name, notes)
            paths += [f"{above}{name}/{path}" for path in below]
            splits += [split] * len(below)
            of_class += [name] * len(below)
            if not below:
                notes[f"class folders without images: {above}{name}"] += 1
    table = to_table(
        {
            "path": paths,
            "split": splits,
            "group": contents(root, paths),
            "label": [labels[name] for name in of_class],
            "class": of_class,
            "role": ["query" if split in ("val", "test") else None for split in splits],
            "modality": ["infrared"] * len(paths),
        }
    )
    plain = parts == [(None, "")]
    return Listing(
        one_of_each(table, notes),
        (root,),
        notes,
        test_fraction=test_fraction if plain else 0.0,
        copies=True,
        near_duplicates=near_duplicates,
    )


def _check_spelling(root: Path, names: set[str]) -> None:
    """DataError where splits spell a class in two ways: it would be two classes, and never found again."""
    spelt: dict[str, str] = {}
    for name in sorted(names):
        other = spelt.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"{root} holds the class folders {other} and {name}: rename one, if they are the same"
            )
