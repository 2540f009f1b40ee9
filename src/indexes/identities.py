"""Sets of people, vehicles or animals that are met again: what their layouts share.

A layout says of each image who is on it and which part it plays, and gets its Listing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ConfigError, DataError, did_you_mean
from .table import Listing, Split, to_table

Role = Literal["gallery", "query"]
Modality = Literal["infrared", "visible"]

_SHOWN = 5


@dataclass(frozen=True)
class Sighting:
    """One image of an identity; path as in the Index, camera and sequence None where nobody noted them."""

    path: str
    split: Split
    identity: str
    role: Role
    modality: Modality
    camera: str | None = None
    sequence: str | None = None


def listing(
    sightings: Sequence[Sighting],
    watched: Sequence[Path],
    notes: Counter[str],
    near_duplicates: float | None,
    *,
    disjoint: bool = True,
) -> Listing:
    """The Listing of all sightings; labels are the positions of the identities among their sorted names.

    `group` is the identity, so that validation is carved by identity, and one that is in two splits is an
    error; unless disjoint, test has no groups. Copies between queries and their gallery or train are looked
    for when the index is built.
    """
    names = sorted({sighting.identity for sighting in sightings})
    labels = {name: label for label, name in enumerate(names)}
    columns = {
        "path": [sighting.path for sighting in sightings],
        "split": [sighting.split for sighting in sightings],
        "group": [
            sighting.identity if disjoint or sighting.split != "test" else None for sighting in sightings
        ],
        "label": [labels[sighting.identity] for sighting in sightings],
        "class": [sighting.identity for sighting in sightings],
        "role": [sighting.role for sighting in sightings],
        "camera": [sighting.camera for sighting in sightings],
        "sequence": [sighting.sequence for sighting in sightings],
        "modality": [sighting.modality for sighting in sightings],
    }
    return Listing(to_table(columns), watched, notes, read_for_copies=True, near_duplicates=near_duplicates)


def read_ids(file: Path) -> list[str]:
    """The folder names `0001`, ascending, of the numbers that stand in a file with commas between them."""
    text = read_text(file)
    try:
        numbers = sorted({int(number) for number in text.replace(",", " ").split()})
    except ValueError as error:
        raise DataError(
            f"{file} is not a list of numbers with commas between them ({error}): unpack the data set anew"
        ) from error
    if not numbers:
        raise DataError(f"{file} names no identity: unpack the data set anew")
    return [f"{number:04d}" for number in numbers]


def read_pairs(root: Path, name: str) -> list[tuple[str, int]]:
    """(path, label) of the lines `path label` of an index file; DataError names line and value."""
    file = root / name
    pairs: list[tuple[str, int]] = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        if not path.strip() or not label.isdigit():
            raise DataError(
                f"line {number} of {file} is {line!r}, not a path and a number: unpack the set anew"
            )
        pairs.append((path.strip().lstrip("/"), int(label)))
    if not pairs:
        raise DataError(f"{file} names no image: unpack the data set anew")
    return pairs


def read_text(file: Path) -> str:
    """A text file of the data set; DataError where it is not there or no text."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(
            f"{file} is not there: type data.root=<the folder that holds {file.parent.name}/{file.name}>"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text in UTF-8 ({error}): unpack the data set anew") from error


def check_choice(key: str, value: object, known: Iterable[str]) -> None:
    """Raise ConfigError for a value of data.index.<key> that is none of the known ones."""
    names = list(known)
    if value not in names:
        hint = did_you_mean(str(value), names)
        raise ConfigError(f"unknown value data.index.{key}={value}{hint or ':'} it is {' or '.join(names)}")


def check_trial(trial: int, first: int, last: int) -> None:
    """Raise ConfigError for a trial that there is not."""
    if isinstance(trial, bool) or not isinstance(trial, int) or not first <= trial <= last:
        raise ConfigError(f"data.index.trial={trial}: must be a whole number from {first} to {last}")


def few(names: Iterable[str]) -> str:
    """The first of some names, for a message."""
    listed = sorted(names)
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
