"""UnivFD: ForenSynths and eight diffusion test sets, which share real images (Ojha et al., CVPR 2023)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import DataError
from . import forensynths
from .leaves import REAL_FAKE, Leaf, Part, choose, find_leaves, listing
from .table import Listing
from .walk import images_below

COLUMNS: tuple[str, ...] = ("path", "split", "label", "generator")

ORIGIN = "https://github.com/WisconsinAIVision/UniversalFakeDetect"

REAL_SET: Mapping[str, str] = {
    "guided": "imagenet",
    "ldm_200": "laion",
    "ldm_200_cfg": "laion",
    "ldm_100": "laion",
    "glide_100_27": "laion",
    "glide_50_27": "laion",
    "glide_100_10": "laion",
    "dalle": "laion",
}
"""Diffusion generator → the folder of real images that it is judged against."""


def index(
    root: Path, *, classes: Sequence[str] | None = None, test_generators: Sequence[str] | None = None
) -> Listing:
    """`diffusion_datasets/<generator>/1_fake` with `imagenet|laion/0_real`, at any depth, and whatever there
    is of ForenSynths (`train|val/<class>/…`, `test/<generator>/…`).

    classes: of train and val. test_generators: the test split, all that are there by default, none for [].

    `imagenet` carries the generator guided, the only one judged against it; `laion` is shared, so its
    generator is null. A generator with a `0_real` of its own (as in NPR's copy of these sets) keeps to it.

    Raises ConfigError for a class or generator that is not there, DataError where a generator's real images
    are missing.
    """
    notes: Counter[str] = Counter()
    diffusion: dict[str, list[Leaf]] = {}
    others: list[Leaf] = []
    for leaf in find_leaves(root, REAL_FAKE, notes):
        name = next((one for one in reversed(leaf.above) if one in _SETS), None)
        if name is None:
            others.append(leaf)
        else:
            diffusion.setdefault(name, []).append(leaf)
    generated = [name for name in REAL_SET if any(leaf.label for leaf in diffusion.get(name, ()))]
    tested = forensynths.parts_of(root, others, classes, None)
    there = {str(part.generator) for part in tested if _judged(part)} | set(generated)
    wanted = choose("test_generators", test_generators, there, str(root))
    parts = [part for part in tested if not _judged(part) or part.generator in wanted]
    if diffusion:  # a folder of test sets: those of ForenSynths beside them are test sets, too
        parts = [replace(part, split=part.split or "test") for part in parts]
    return listing(root, [*parts, *_diffusion(root, diffusion, wanted, notes)], notes)


_SETS = frozenset({*REAL_SET, *REAL_SET.values()})


def _judged(part: Part) -> bool:
    """Whether a part of ForenSynths is chosen by its generator: train and val are chosen by class."""
    return part.split == "test" or (part.split is None and part.generator != forensynths.TRAINED_ON)


def _diffusion(
    root: Path, found: Mapping[str, Sequence[Leaf]], wanted: set[str], notes: Counter[str]
) -> list[Part]:
    """The chosen generators and the real images that each is judged against."""
    parts: list[Part] = []
    needed: dict[str, list[str]] = {}
    for name in REAL_SET:
        if name not in wanted:
            continue
        parts += [Part(leaf, "test", name) for leaf in found[name]]
        if all(leaf.label for leaf in found[name]):
            needed.setdefault(REAL_SET[name], []).append(name)
    for folder, names in needed.items():
        real = [leaf for leaf in found.get(folder, ()) if not leaf.label]
        if not any(images_below(root / leaf.folder, Counter()) for leaf in real):
            others = [name for name in wanted if name not in names]
            what = f"{root / real[0].folder} is empty" if real else f"{root} has no {folder}/0_real"
            raise DataError(
                f"the real images of {', '.join(names)} are missing: {what}. Unpack "
                f"{folder} there, or leave {'it' if len(names) == 1 else 'them'} out with "
                f"'data.index.test_generators=[{','.join(sorted(others))}]'"
            )
        users = [name for name, of in REAL_SET.items() if of == folder]
        parts += [Part(leaf, "test", users[0] if len(users) == 1 else None) for leaf in real]
    unused = sorted({*REAL_SET.values()} & found.keys() - needed.keys())
    if unused:
        notes[f"folders of real images left out that no chosen generator needs: {', '.join(unused)}"] = len(
            unused
        )
    return parts
