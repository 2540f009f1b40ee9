"""ForenSynths (CNNDetection): ProGAN to train on, thirteen generators to test on (Wang et al., CVPR 2020)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DataError
from .leaves import REAL_FAKE, Leaf, Part, check_root, choose, find_leaves, listing, split_of
from .table import Listing, Split

COLUMNS: tuple[str, ...] = ("path", "split", "label", "generator")

ORIGIN = "https://github.com/PeterWang512/CNNDetection"

TRAINED_ON = "progan"
CLASSES: tuple[str, ...] = (
    "airplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The LSUN classes of ProGAN's training images."""


def index(
    root: Path, *, classes: Sequence[str] | None = None, test_generators: Sequence[str] | None = None
) -> Listing:
    """`train|val/<class>/0_real|1_fake` and `test/<generator>/[<class>/]0_real|1_fake`.

    classes: of train and val, all twenty by default; many papers train on [car, cat, chair, horse].
    test_generators: whose folders are the test split, all by default, none for [].

    `train/progan/<class>/…` is taken as well, and a folder without train, val and test (what one archive
    unpacks to): classes of ProGAN, or generators. Real images carry the generator that they were published
    with. The published `val` is validation, ProGAN as train is.

    Raises ConfigError for a class or generator that is not there, DataError for folders out of place.
    """
    notes: Counter[str] = Counter()
    leaves = find_leaves(root, REAL_FAKE, notes)
    return listing(root, parts_of(root, leaves, classes, test_generators), notes)


def parts_of(
    root: Path,
    leaves: Sequence[Leaf],
    classes: Sequence[str] | None,
    test_generators: Sequence[str] | None,
    *,
    by_class: Mapping[str, str] | None = None,
) -> list[Part]:
    """What split and generator each leaf is, without those that were not chosen.

    by_class: class folder of train and val → the generator of its images, where that is not ProGAN.
    """
    check_root(root, leaves)
    # `train` is also a class, so a folder that holds 0_real itself is no split.
    splits = any(split_of(leaf)[0] and len(leaf.above) > 1 for leaf in leaves)
    taken: list[tuple[Leaf, Split | None, str, str]] = []  # with generator, and class of what is trained on
    for leaf in leaves:
        split, below = split_of(leaf) if splits else (None, leaf.above)
        if splits and split is None:
            raise DataError(
                f"{root} holds train, val or test, and {leaf.folder} beside them: move it into one of them"
                + (", or type data=univfd" if leaf.above[0].casefold() == "diffusion_datasets" else "")
            )
        if not below:
            place, kind = root / Path(leaf.folder).parent, Path(leaf.folder).name
            owner = "generator" if split == "test" else "class"
            raise DataError(
                f"{place / kind} lies in no {owner}'s folder: move it to {place}/<{owner}>/{kind}"
            )
        if len(below) > 2:
            raise DataError(
                f"{root / leaf.folder} lies too deep: a generator's folder holds 0_real and 1_fake, or one "
                f"folder a class with them. Move {'/'.join(below[1:])} up into the folder of its split"
            )
        trained = split in ("train", "val") or (split is None and below[0].casefold() in CLASSES)
        kind = below[-1] if trained else ""
        generator = (by_class or {}).get(kind.casefold(), TRAINED_ON) if trained else below[0]
        if trained and len(below) > 1:
            generator = below[0]
        taken.append((leaf, split, generator, kind))
    of_training = choose("classes", classes, {kind for *_, kind in taken if kind}, str(root))
    tested = {generator for *_, generator, kind in taken if not kind}
    of_test = choose("test_generators", test_generators, tested, str(root))
    return [
        Part(leaf, split, generator)
        for leaf, split, generator, kind in taken
        if (kind in of_training if kind else generator in of_test)
    ]
