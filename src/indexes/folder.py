"""Your own images: `train|val|test/<class>/…` or plain `<class>/…`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..errors import ConfigError, DataError
from .duplicates import contents
from .table import Listing, Split, to_table
from .walk import images_below, images_in, subfolders

COLUMNS: tuple[str, ...] = ("path", "split", "label", "generator")

REAL: tuple[str, ...] = ("real", "0_real", "nature")
GENERATED: tuple[str, ...] = ("generated", "fake", "ai_generated", "1_fake", "ai")

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def index(
    root: Path,
    *,
    real: Sequence[str] = REAL,
    generated: Sequence[str] = GENERATED,
    generator: Literal["class", "subfolder"] = "class",
    copies: Literal["keep", "remove"] = "keep",
) -> Listing:
    """Images at any depth below class folders, with or without split folders above them.

    real, generated: names of class folders, in any case.
    generator: `class` takes the generated class folder's name (as spelt in the config) as the generator of
        its images; `subfolder` takes the folder below it (`generated/<generator>/…`). Real rows have none.
    copies: `remove` reads every file and takes those out of train whose bytes are in val or test, too, and
        out of val those in test; a carved validation is never parted from its copies. Their hash is `group`.

    Raises DataError for a class folder that neither list names, for split and class folders side by side, and
    where no class folder is found.
    """
    classes = _classes(real, generated)
    if generator not in ("class", "subfolder"):
        raise ConfigError(f"data.index.generator={generator}: must be class or subfolder")
    if copies not in ("keep", "remove"):
        raise ConfigError(f"data.index.copies={copies}: must be keep or remove")
    notes: Counter[str] = Counter()
    paths: list[str] = []
    splits: list[Split | None] = []
    labels: list[int] = []
    generators: list[str | None] = []
    for split, prefix in split_folders(root):
        for folder, label, name in _class_folders(root, prefix, classes):
            for path in images_below(root / folder, notes):
                paths.append(f"{folder}/{path}")
                splits.append(split)
                labels.append(label)
                generators.append(_generator(root / folder, path, name, generator) if label else None)
        stray = len(images_in(root / prefix))
        if stray:
            notes["images left out that lie outside every class folder"] += stray
    columns = {"path": paths, "split": splits, "label": labels, "generator": generators}
    if copies == "remove":
        columns["group"] = contents(root, paths)
    return Listing(to_table(columns), watched=(root,), notes=notes, copies=copies == "remove")


def _classes(real: Sequence[str], generated: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Folder name in lower case → (label, the name as configured)."""
    classes: dict[str, tuple[int, str]] = {}
    for label, names in enumerate((real, generated)):
        key = "generated" if label else "real"
        if isinstance(names, str) or not names:
            raise ConfigError(f"data.index.{key}={names!r}: must be a list of folder names, such as [{key}]")
        for name in names:
            known = classes.setdefault(name.casefold(), (label, name))
            if known[0] != label:
                raise ConfigError(f"data.index.real and data.index.generated both name the folder {name!r}")
    return classes


def split_folders(root: Path) -> list[tuple[Split | None, str]]:
    """(split, its folder relative to root), by name; (None, "") where root itself holds the classes."""
    names = subfolders(root)
    found = [(SPLIT_FOLDERS[name.casefold()], name) for name in names if name.casefold() in SPLIT_FOLDERS]
    others = [name for name in names if name.casefold() not in SPLIT_FOLDERS]
    if not found:
        return [(None, "")]
    if others:
        raise DataError(
            f"{root} holds split folders ({', '.join(name for _, name in found)}) and others beside them "
            f"({', '.join(others)}): move the others away, or into the split they belong to"
        )
    twice = [split for split, times in Counter(split for split, _ in found).items() if times > 1]
    if twice:
        same = ", ".join(name for split, name in found if split == twice[0])
        raise DataError(f"{root} holds several folders for the split {twice[0]} ({same}): keep one")
    return list(found)


def _class_folders(
    root: Path, prefix: str, classes: dict[str, tuple[int, str]]
) -> list[tuple[str, int, str]]:
    """(folder relative to root, label, configured class name) of the class folders of one split."""
    here = root / prefix
    names = subfolders(here)
    unknown = [name for name in names if name.casefold() not in classes]
    real, generated = ([name for label, name in classes.values() if label == wanted] for wanted in (0, 1))
    if unknown or not names:
        found = ", ".join(names) if names else f"no folder, {len(images_in(here))} images"
        what = (
            f"{here} holds {'the unknown class folder ' + repr(unknown[0]) if unknown else 'no class folder'}"
        )
        example = unknown[0] if unknown else "<folder>"
        raise DataError(
            f"{what} (found: {found}). Known, in any case: real = {', '.join(real)}; generated = "
            f"{', '.join(generated)}. Type 'data.index.real=[{example}]' or "
            f"'data.index.generated=[{example}]', with all names of that class"
        )
    above = f"{prefix}/" if prefix else ""
    return [(above + name, *classes[name.casefold()]) for name in names]


def _generator(folder: Path, path: str, class_name: str, rule: str) -> str:
    if rule == "class":
        return class_name
    name, slash, _ = path.partition("/")
    if not slash:
        raise DataError(
            f"{folder / path} lies in no generator's folder: move it to {folder}/<generator>/, or type "
            f"data.index.generator=class"
        )
    return name
