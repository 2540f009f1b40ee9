"""SYSU-MM01: `cam1…cam6/<identity>/*.jpg` and `exp/{train,val,test}_id.txt` (Wu et al., ICCV 2017).

People before four visible cameras (1, 2, 4, 5) and two near-infrared ones (3, 6). The list files hold numbers
with commas between them; 296 identities are train, 99 val and 96 test.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Literal

from ..errors import DataError
from .duplicates import check_near
from .identities import Sighting, check_choice, check_trial, listing, read_ids
from .table import Listing, Split
from .walk import MissingFolder, images_in

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

ORIGIN = "https://github.com/wuancong/SYSU-MM01"

INFRARED = ("cam3", "cam6")
VISIBLE = {"all": ("cam1", "cam2", "cam4", "cam5"), "indoor": ("cam1", "cam2")}
PLACES = {
    "cam1": "room1",
    "cam2": "room2",
    "cam3": "room2",
    "cam4": "gate",
    "cam5": "garden",
    "cam6": "passage",
}


def index(
    root: Path,
    *,
    mode: Literal["all", "indoor"] = "all",
    trial: int = 0,
    train_on_val: bool = False,
    near_duplicates: float | None = None,
) -> Listing:
    """Infrared images are the queries, visible ones the gallery, in every split.

    The gallery of test has one image of each identity and visible camera, drawn as the published single-shot
    evaluation draws it: by Python's random seeded with the trial, over identities and then cameras in
    ascending order. Papers report the mean of the trials 0 to 9. The other visible images of test are left
    out and counted.

    mode: the visible cameras of the test gallery, all four or the two indoors. trial: 0 or more.
    train_on_val: whether the published validation identities are learnt from, too, as in the papers; then
    `data.val_fraction` of all identities becomes val. near_duplicates: see `duplicates.without_near`.
    `sequence` is the place: the published evaluation compares no query of camera 3 with camera 2, which sees
    the same room.

    Raises MissingFolder, DataError where a list file is not there or no list, ConfigError for arguments.
    """
    check_near(near_duplicates)
    check_choice("mode", mode, VISIBLE)
    check_trial(trial, 0, 2**31)
    if not root.is_dir():
        raise MissingFolder(root)
    notes: Counter[str] = Counter()
    drawn = random.Random(trial)  # the published protocol's own generator
    sightings: list[Sighting] = []
    listed: dict[str, str] = {}
    for name in ("train", "val", "test"):
        split: Split = "train" if name == "val" and train_on_val else name
        for identity in read_ids(root / "exp" / f"{name}_id.txt"):
            if identity in listed:
                raise DataError(
                    f"{root / 'exp'} names the identity {int(identity)} in {listed[identity]}_id.txt and in "
                    f"{name}_id.txt: nobody may be learnt from and tested on, unpack the data set anew"
                )
            listed[identity] = name
            here: dict[str, list[str]] = {}
            for camera in PLACES:
                folder = root / camera / identity
                if folder.is_dir():
                    here[camera] = [f"{camera}/{identity}/{file}" for file in images_in(folder)]
            if not any(here.values()):
                notes[f"identities of exp/{name}_id.txt without images"] += 1
            for camera, paths in here.items():
                if split == "test" and camera not in INFRARED:
                    shown = [drawn.choice(paths)] if camera in VISIBLE[mode] and paths else []
                    notes["visible images of test left out by the single-shot gallery"] += len(paths) - len(
                        shown
                    )
                    paths = shown
                infrared = camera in INFRARED
                sightings += [
                    Sighting(
                        path,
                        split,
                        identity,
                        "query" if infrared else "gallery",
                        "infrared" if infrared else "visible",
                        camera,
                        PLACES[camera],
                    )
                    for path in paths
                ]
    return listing(sightings, (root,), +notes, near_duplicates)
