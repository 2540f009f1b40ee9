"""GenImage: ImageNet against eight generators, `<generator>/train|val/ai|nature/` (Zhu et al., 2023)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import DataError
from .leaves import NATURE_AI, Leaf, Part, choose, find_leaves, listing, spelling
from .table import Listing, Split

COLUMNS: tuple[str, ...] = ("path", "split", "label", "generator")

ORIGIN = "https://github.com/GenImage-Dataset/GenImage"

GENERATORS: tuple[str, ...] = (
    "ADM",
    "BigGAN",
    "Midjourney",
    "VQDM",
    "glide",
    "stable_diffusion_v_1_4",
    "stable_diffusion_v_1_5",
    "wukong",
)
"""Each generator's one name: the folder that its archive unpacks to."""

_SPLITS: dict[str, Split] = {"train": "train", "val": "test"}
_OTHER_NAMES = {
    "sdv4": "stable_diffusion_v_1_4",
    "sdv5": "stable_diffusion_v_1_5",
    "sdv14": "stable_diffusion_v_1_4",
    "sdv15": "stable_diffusion_v_1_5",
    "sd14": "stable_diffusion_v_1_4",
    "sd15": "stable_diffusion_v_1_5",
}
_INNER = re.compile(r"imagenet(_ai)?(_\d+)?_(?P<name>.+)", re.IGNORECASE)


def index(
    root: Path,
    *,
    train_generators: Sequence[str] | None = None,
    test_generators: Sequence[str] | None = None,
) -> Listing:
    """Below each generator's folder `train|val/ai|nature`, with or without the archives' own level between
    (`stable_diffusion_v_1_4/imagenet_ai_0419_sdv4/train/ai/…`); folders of that level may also stand alone.

    train_generators, test_generators: whose images are learnt from and evaluated on, all by default, none for
        []; the paper trains on one and tests on all.

    The published `val` is the test split; validation is carved from train when the index is built. Real
    images carry the generator that they were published with. Folders that are none of the eight are
    generators under their own name.

    Raises ConfigError for a generator that is not there, DataError for class folders outside `train` and
    `val` and for two folders of one generator.
    """
    notes: Counter[str] = Counter()
    leaves = find_leaves(root, NATURE_AI, notes)
    names = _names(root, leaves)
    wanted = {
        "train": _wanted("train_generators", train_generators, names.values(), root),
        "test": _wanted("test_generators", test_generators, names.values(), root),
    }
    parts = []
    for leaf in leaves:
        split, generator = _SPLITS[leaf.above[-1].casefold()], names[leaf.above[0]]
        if generator in wanted[split]:
            parts.append(Part(leaf, split, generator))
    return listing(root, parts, notes)


def canonical(folder: str) -> str:
    """The generator's one name for a folder's: `Wukong` → `wukong`, `imagenet_ai_0419_sdv4` →
    `stable_diffusion_v_1_4`; the folder's own for any other."""
    inner = _INNER.fullmatch(folder)
    plain = spelling(inner["name"] if inner else folder)
    known = {spelling(name): name for name in GENERATORS} | _OTHER_NAMES
    return known.get(plain, inner["name"] if inner else folder)


def _names(root: Path, leaves: Sequence[Leaf]) -> dict[str, str]:
    """Folder directly below root → the generator's name."""
    for leaf in leaves:
        if not leaf.above or leaf.above[-1].casefold() not in _SPLITS:
            raise DataError(
                f"{root / leaf.folder} lies in neither train/ nor val/: GenImage is <generator>/train|val/ai|"
                "nature. Move it there, or type data=folder for another order"
            )
        if len(leaf.above) == 1:
            raise DataError(
                f"{root} is the folder of one generator: type data.root={root.parent}, the folder above it"
                f" (and 'data.index.test_generators=[{canonical(root.name)}]' to take it alone)"
            )
    _check_root(root, leaves)
    names: dict[str, str] = {}
    for folder in sorted({leaf.above[0] for leaf in leaves}):
        name = canonical(folder)
        twice = [other for other, known in names.items() if known == name]
        if twice:
            raise DataError(f"{root} holds {name} twice ({twice[0]}, {folder}): move one of them away")
        names[folder] = name
    return names


def _check_root(root: Path, leaves: Sequence[Leaf]) -> None:
    """DataError where root is the folder above GenImage: all of its generators would be taken for one."""
    below: dict[str, set[str]] = {}
    for leaf in leaves:
        if len(leaf.above) > 2:
            below.setdefault(leaf.above[0], set()).add(leaf.above[1])
    for folder, inner in below.items():
        several = len({canonical(name) for name in inner}) > 1
        plain = [name for name in inner if canonical(name) in GENERATORS and not _INNER.fullmatch(name)]
        if several or (plain and canonical(folder) not in GENERATORS):
            raise DataError(
                f"{root / folder} holds {', '.join(sorted(inner)[:4])}, so it is no generator: type "
                f"data.root={root / folder}"
            )


def _wanted(key: str, given: Sequence[str] | None, there: Iterable[str], root: Path) -> set[str]:
    listed = given if given is None or isinstance(given, str) else [canonical(str(one)) for one in given]
    return choose(key, listed, there, str(root))
