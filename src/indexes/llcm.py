"""LLCM: `idx/train_vis.txt`, `idx/train_nir.txt`, `idx/test_id.txt` (Zhang and Wang, CVPR 2023).

People at low light. Lines of the two train lists are `path label`; the test list holds numbers with commas
between them, whose images lie in `test_vis/cam1…cam9/<identity>/` and `test_nir/cam1…cam9/<identity>/` (the
third camera has no infrared). What the files below the train folders are called is not documented: the camera
is read off `cam3` or `_c03` in the path, and null where there is neither.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Literal

from .duplicates import check_near
from .identities import Modality, Sighting, check_choice, check_trial, listing, read_ids, read_pairs
from .table import Listing
from .walk import MissingFolder, images_in, subfolders

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

ORIGIN = "https://github.com/ZYK100/LLCM"

DIRECTIONS = {"infrared_to_visible": "nir", "visible_to_infrared": "vis"}

_SPECTRA: dict[str, Modality] = {"vis": "visible", "nir": "infrared"}
_CAMERA = re.compile(r"cam(\d+)|_c(\d+)", re.IGNORECASE)


def index(
    root: Path,
    *,
    direction: Literal["infrared_to_visible", "visible_to_infrared"] = "infrared_to_visible",
    trial: int = 0,
    near_duplicates: float | None = None,
) -> Listing:
    """The images of the one spectrum are queries, those of the other the gallery.

    The gallery of test has one image of each identity and camera, drawn as the published evaluation draws it:
    by Python's random seeded with the trial, over identities and then cameras in ascending order. The others
    are left out and counted. Papers report the mean of the trials 0 to 9.

    direction: from the queries to the gallery. near_duplicates: see `duplicates.without_near`. Identities are
    called `train-17` by their label and `test-0017` by their folder: nobody is in both.

    Raises MissingFolder, DataError where a list file is not there or no list, ConfigError for arguments.
    """
    check_near(near_duplicates)
    check_choice("direction", direction, DIRECTIONS)
    check_trial(trial, 0, 2**31)
    if not root.is_dir():
        raise MissingFolder(root)
    notes: Counter[str] = Counter()
    asking = DIRECTIONS[direction]
    sightings = [
        Sighting(
            path,
            "train",
            f"train-{label}",
            "query" if spectrum == asking else "gallery",
            modality,
            _camera(path),
        )
        for spectrum, modality in _SPECTRA.items()
        for path, label in read_pairs(root, f"idx/train_{spectrum}.txt")
    ]
    drawn = random.Random(trial)  # the published protocol's own generator
    identities = read_ids(root / "idx" / "test_id.txt")
    for spectrum, modality in _SPECTRA.items():
        cameras = [f"test_{spectrum}/{name}" for name in subfolders(root / f"test_{spectrum}")]
        for identity in identities:
            for camera in cameras:
                folder = root / camera / identity
                paths = (
                    [f"{camera}/{identity}/{file}" for file in images_in(folder)] if folder.is_dir() else []
                )
                if spectrum != asking and paths:
                    notes["images of test left out by the single-shot gallery"] += len(paths) - 1
                    paths = [drawn.choice(paths)]
                role: Literal["gallery", "query"] = "query" if spectrum == asking else "gallery"
                sightings += [
                    Sighting(path, "test", f"test-{identity}", role, modality, _camera(path))
                    for path in paths
                ]
    return listing(sightings, (root,), +notes, near_duplicates)


def _camera(path: str) -> str | None:
    found = _CAMERA.search(path)
    return f"cam{int(found[1] or found[2])}" if found else None
