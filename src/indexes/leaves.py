"""Benchmarks whose images lie in folders of one class, `…/0_real/` beside `…/1_fake/`: what they share.

A layout finds these folders, says of each what split and generator it is, and gets its Listing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, did_you_mean
from .folder import SPLIT_FOLDERS
from .table import Listing, Split, to_table
from .walk import folders_named, images_below, subfolders

REAL_FAKE: Mapping[str, int] = {"0_real": 0, "1_fake": 1}
NATURE_AI: Mapping[str, int] = {"nature": 0, "ai": 1}


@dataclass(frozen=True)
class Leaf:
    """A folder whose images are all of one class.

    folder: relative to the root, with `/`. label: 0 real, 1 generated. above: the names of the folders
    between the root and it.
    """

    folder: str
    label: int
    above: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A leaf with its place: split None where the layout has no splits, generator None where it is unknown
    or, of real images, where several generators share them."""

    leaf: Leaf
    split: Split | None
    generator: str | None


def find_leaves(root: Path, classes: Mapping[str, int], notes: Counter[str]) -> list[Leaf]:
    """All class folders below root, sorted by path.

    classes: folder name in lower case → label. Raises MissingFolder, and DataError where there is none.
    """
    found = [
        Leaf(folder, classes[folder.rsplit("/", 1)[-1].casefold()], tuple(folder.split("/")[:-1]))
        for folder in folders_named(root, classes, notes)
    ]
    if not found:
        raise DataError(
            f"{root} holds no folder named {' or '.join(classes)}, at any depth. {_instead(root, classes)}"
        )
    return found


def check_root(root: Path, leaves: Sequence[Leaf]) -> None:
    """DataError where split folders lie one level below root: its folders would be taken for generators."""
    for leaf in leaves:
        names = [name.casefold() for name in leaf.above]
        # `progan/train/0_real` is ProGAN's class train, `x/train/car/0_real` is not
        deep = len(names) > 1 and (names[1] in SPLIT_FOLDERS) and (names[1] != "train" or len(names) > 2)
        if deep and names[0] not in SPLIT_FOLDERS:
            raise DataError(
                f"{root} holds {'/'.join(leaf.above[:2])}: type data.root={root / leaf.above[0]}, the folder "
                "that train, val and test lie in"
            )


def split_of(leaf: Leaf) -> tuple[Split | None, tuple[str, ...]]:
    """The split that a leaf's first folder names, and the folders below it; None where it names none."""
    first = leaf.above[0].casefold() if leaf.above else ""
    if first in SPLIT_FOLDERS:
        return SPLIT_FOLDERS[first], leaf.above[1:]
    return None, leaf.above


def choose(key: str, wanted: Sequence[str] | None, there: Iterable[str], where: str) -> set[str]:
    """The names that an argument chooses among those that there are, all of them where it is None.

    key: the argument, for messages. Names match whatever their case and whatever stands between letters and
    digits: `glide`, `GLIDE`, `Stable Diffusion v1.4`. Raises ConfigError that lists what there is.
    """
    names = sorted(set(there))
    if wanted is None:
        return set(names)
    if isinstance(wanted, str):
        raise ConfigError(f"data.index.{key}={wanted}: must be a list: type 'data.index.{key}=[{wanted}]'")
    plain = {spelling(name): name for name in names}
    unknown = [name for name in wanted if spelling(str(name)) not in plain]
    if unknown:
        raise ConfigError(
            f"data.index.{key}: {where} has no {', '.join(map(str, unknown))}"
            f"{did_you_mean(str(unknown[0]), names) or '.'} It has {', '.join(names) or 'none'}"
        )
    return {plain[spelling(str(name))] for name in wanted}


_OTHERS: Mapping[str, Mapping[str, int]] = {
    "genimage": NATURE_AI,
    "forensynths, univfd, aigcdetectbenchmark, aigibench or wildrf": REAL_FAKE,
    "community_forensics, or data=folder": {"real": 0, "fake": 1},
}
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".z01", ".001")
_SHOWN = 8


def _instead(root: Path, classes: Mapping[str, int]) -> str:
    """What lies in a folder without class folders, and what to type for it."""
    for data, names in _OTHERS.items():
        if names != classes and (there := folders_named(root, names, Counter())):
            return f"It holds {there[0]}: type data={data}, or another data.root"
    packed = sorted(file.name for file in root.iterdir() if file.suffix.lower() in _ARCHIVES)
    if packed:
        return f"It holds archives ({', '.join(packed[:_SHOWN])}): unpack them, each into a folder of its own"
    there = subfolders(root)
    shown = ", ".join(there[:_SHOWN]) + (f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else "")
    where = "data.root=<the folder that the benchmark was unpacked into>"
    return f"It holds {shown or 'no folder'}: type {where}"


def spelling(name: str) -> str:
    """Letters and digits of a name, in lower case: what two spellings of it have in common."""
    return re.sub(r"[\W_]", "", name.casefold())


def listing(
    root: Path, parts: Iterable[Part], notes: Counter[str], watched: Sequence[Path] | None = None
) -> Listing:
    """The images of all parts, at any depth below their folders.

    watched: root where there is none. A benchmark's `0_real` and `1_fake` may be empty; what is missing then
    is for the task to say.
    """
    columns: dict[str, list[Any]] = {"path": [], "split": [], "label": [], "generator": []}
    for part in parts:
        prefix = f"{part.leaf.folder}/"
        names = images_below(root / part.leaf.folder, notes)
        columns["path"] += [prefix + name for name in names]
        columns["split"] += repeat(part.split, len(names))
        columns["label"] += repeat(part.leaf.label, len(names))
        columns["generator"] += repeat(part.generator, len(names))
    return Listing(to_table(columns), watched=watched or (root,), notes=notes)
