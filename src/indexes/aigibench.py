"""AIGIBench: ProGAN and Stable Diffusion 1.4 to train on, 25 sets to test on (Li et al., NeurIPS 2025)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from . import forensynths
from .leaves import REAL_FAKE, choose, find_leaves, listing
from .table import Listing

COLUMNS: tuple[str, ...] = ("path", "split", "label", "generator")

ORIGIN = "https://github.com/HorizonTEL/AIGIBench"

_BY_CLASS = {"sdv1.4": "stable_diffusion_v_1_4"}


def index(
    root: Path,
    *,
    train_generators: Sequence[str] | None = None,
    test_generators: Sequence[str] | None = None,
) -> Listing:
    """`train|val/{car,cat,chair,horse,sdv1.4}/0_real|1_fake` and `test/<generator>/0_real|1_fake`.

    train_generators: of train and val; both by default, which is the benchmark's setting II; [progan] is its
        setting I. test_generators: all by default, none for [].

    Real images carry the generator that they were published with. Raises what `forensynths` does.
    """
    notes: Counter[str] = Counter()
    leaves = find_leaves(root, REAL_FAKE, notes)
    parts = forensynths.parts_of(root, leaves, None, test_generators, by_class=_BY_CLASS)
    trained = {str(part.generator) for part in parts if part.split != "test"}
    wanted = choose("train_generators", train_generators, trained, str(root))
    kept = [part for part in parts if part.split == "test" or part.generator in wanted]
    return listing(root, kept, notes)
