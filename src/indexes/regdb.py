"""RegDB: `idx/{train,test}_{visible,thermal}_{1…10}.txt` and the images they name (Nguyen et al., 2017).

412 people, ten visible and ten thermal images each; every trial has another half of them for training. A
line is `path label`, the path relative to the root. Labels count the people of the list, so an identity is
called after both: `train-17`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from .duplicates import check_near
from .identities import Modality, Sighting, check_choice, check_trial, listing, read_pairs
from .table import Listing, Split
from .walk import MissingFolder

COLUMNS: tuple[str, ...] = (
    "path",
    "split",
    "group",
    "label",
    "class",
    "role",
    "camera",
    "sequence",
    "modality",
)

ORIGIN = "http://dm.dongguk.edu/link.html"

DIRECTIONS = {"thermal_to_visible": "thermal", "visible_to_thermal": "visible"}


def index(
    root: Path,
    *,
    direction: Literal["thermal_to_visible", "visible_to_thermal"] = "thermal_to_visible",
    trial: int = 1,
    near_duplicates: float | None = None,
) -> Listing:
    """The images of one trial; those of the one spectrum are queries, those of the other the gallery.

    direction: from the queries to the gallery. trial: 1 to 10; papers report the mean of all.
    near_duplicates: see `duplicates.without_near`. There is one camera a spectrum.

    Raises MissingFolder, DataError where a list file is not there or no list, ConfigError for arguments.
    """
    check_near(near_duplicates)
    check_choice("direction", direction, DIRECTIONS)
    check_trial(trial, 1, 10)
    if not root.is_dir():
        raise MissingFolder(root)
    spectra: dict[str, Modality] = {"visible": "visible", "thermal": "infrared"}
    splits: tuple[Split, ...] = ("train", "test")
    sightings = [
        Sighting(
            path,
            split,
            f"{split}-{label}",
            "query" if spectrum == DIRECTIONS[direction] else "gallery",
            modality,
            spectrum,
        )
        for split in splits
        for spectrum, modality in spectra.items()
        for path, label in read_pairs(root, f"idx/{split}_{spectrum}_{trial}.txt")
    ]
    return listing(sightings, (root,), Counter(), near_duplicates)
