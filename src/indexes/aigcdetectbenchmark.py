"""AIGCDetectBenchmark: ForenSynths to train on, sixteen generators to test on (Zhong et al., 2023)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import forensynths
from .leaves import REAL_FAKE, find_leaves, listing, spelling
from .table import Listing

COLUMNS: tuple[str, ...] = ("path", "split", "label", "generator")

ORIGIN = "https://github.com/Ekko-zn/AIGCDetectBenchmark"

GENERATORS: tuple[str, ...] = (
    "progan",
    "stylegan",
    "biggan",
    "cyclegan",
    "stargan",
    "gaugan",
    "stylegan2",
    "whichfaceisreal",
    "ADM",
    "Glide",
    "Midjourney",
    "stable_diffusion_v_1_4",
    "stable_diffusion_v_1_5",
    "VQDM",
    "wukong",
    "DALLE2",
    "SDXL",
)
"""Spelt as the benchmark's own evaluation does; SDXL came later."""


def index(
    root: Path, *, classes: Sequence[str] | None = None, test_generators: Sequence[str] | None = None
) -> Listing:
    """`train|val/<class>/0_real|1_fake` (ProGAN) and `test/<generator>/[<class>/]0_real|1_fake`.

    classes: of train and val, all by default. test_generators: all by default, none for [].

    Names of test folders are spelt as in GENERATORS whatever their case; any other is a generator under its
    own name. The rest is as in `forensynths`, and so is what is raised.
    """
    notes: Counter[str] = Counter()
    leaves = find_leaves(root, REAL_FAKE, notes)
    known = {spelling(name): name for name in GENERATORS}
    parts = [
        replace(part, generator=known.get(spelling(str(part.generator)), part.generator))
        for part in forensynths.parts_of(root, leaves, classes, test_generators)
    ]
    return listing(root, parts, notes)
