"""Your own identities: `gallery/`, `probe/`, `unknown_probe/` and `train/`, names in the files' names."""

from __future__ import annotations

import re
from collections import Counter
from hashlib import blake2b
from pathlib import Path

from ..errors import ConfigError, DataError
from .duplicates import check_near
from .identities import Modality, Role, Sighting, check_choice, few, listing
from .table import Listing, Split
from .walk import images_below, subfolders

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


def index(
    root: Path,
    *,
    gallery: str = "gallery",
    probe: str = "probe",
    unknown_probe: str | None = "unknown_probe",
    train: str | None = "train",
    pattern: str = "(?P<identity>[^_]+)_.*",
    modality: Modality = "infrared",
    near_duplicates: float | None = None,
) -> Listing:
    """Images at any depth below four folders, the last two of which may be lacking.

    gallery, probe: test, searched and searching. A probe whose identity the gallery lacks is counted and
        named, and stays. unknown_probe: queries whose identity is in no gallery. train: learnt from; there an
        image of each identity, and by a hash of its path about every second other one, is gallery, the rest
        queries, which matters to the identities that become val. Identities of train may be in the gallery
        and are counted.
    pattern: a regular expression for the whole name of a file, without its ending, with a group `identity`
        and optionally `camera` and `sequence`; with a `/` in it, for the path below the folder.
    modality: infrared or visible, of all. near_duplicates: see `duplicates.without_near`.

    Raises MissingFolder, ConfigError for arguments, DataError for a name that does not match, an empty
    gallery or probe, and unknown probes that the gallery knows.
    """
    check_near(near_duplicates)
    check_choice("modality", modality, ("infrared", "visible"))
    compiled = _compiled(pattern)
    folders = {"gallery": gallery, "probe": probe, "unknown_probe": unknown_probe, "train": train}
    _check_folders(folders)
    there = set(subfolders(root))
    notes: Counter[str] = Counter()
    if others := sorted(there - {name.split("/")[0] for name in folders.values() if name}):
        notes[f"folders left out beside {gallery} and {probe}: {few(others)}"] = len(others)
    found = {
        key: _named(root, name, compiled, notes)
        for key, name in folders.items()
        if name and (root / name).is_dir()
    }
    for key in ("gallery", "probe"):
        if not found.get(key):
            raise DataError(
                f"{root / str(folders[key])} holds no images, so the {key} is empty: type "
                f"data.index.{key}=<folder of the {key} images> (below {root} there are: "
                f"{', '.join(sorted(there)) or 'none'})"
            )
    known = {match["identity"] for _, match in found["gallery"]}
    _check_unknown(found, known, folders)
    if lacking := {match["identity"] for _, match in found["probe"]} - known:
        count = sum(match["identity"] in lacking for _, match in found["probe"])
        notes[f"probes whose identity the gallery lacks: {few(lacking)}"] = count
    trained = {match["identity"] for _, match in found.get("train", [])}
    if shared := trained & known:
        notes[f"identities of train that the gallery has, too: {few(shared)}"] = len(shared)
    roles: dict[str, Role] = {"gallery": "gallery", "probe": "query", "unknown_probe": "query"}
    sightings: list[Sighting] = []
    for key, matched in found.items():
        split: Split = "train" if key == "train" else "test"
        searched = _train_gallery(matched) if key == "train" else set()
        for path, match in matched:
            role = roles.get(key) or ("gallery" if path in searched else "query")
            groups = match.groupdict()
            sightings.append(
                Sighting(
                    path,
                    split,
                    match["identity"],
                    role,
                    modality,
                    groups.get("camera") or None,
                    groups.get("sequence") or None,
                )
            )
    return listing(sightings, (root,), notes, near_duplicates, disjoint=False)


_Named = list[tuple[str, "re.Match[str]"]]


def _named(root: Path, folder: str, pattern: re.Pattern[str], notes: Counter[str]) -> _Named:
    """(path relative to root, match) of the images below a folder."""
    named: _Named = []
    for below in images_below(root / folder, notes):
        text = below.rpartition(".")[0]
        match = pattern.fullmatch(text if "/" in pattern.pattern else text.rpartition("/")[2])
        if match is None or not match["identity"]:
            raise DataError(
                f"{root / folder / below} does not match data.index.pattern={pattern.pattern}, so nobody "
                "knows who is on it: rename it, or type a data.index.pattern with a group (?P<identity>…) "
                "that fits all files"
            )
        named.append((f"{folder}/{below}", match))
    return named


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"data.index.pattern={pattern} is no regular expression: {error}") from error
    known = {"identity", "camera", "sequence"}
    if "identity" not in compiled.groupindex or set(compiled.groupindex) - known:
        raise ConfigError(
            f"data.index.pattern={pattern}: must have a group (?P<identity>…), and may have (?P<camera>…) "
            f"and (?P<sequence>…); it has {', '.join(compiled.groupindex) or 'none'}"
        )
    return compiled


def _check_folders(folders: dict[str, str | None]) -> None:
    """ConfigError where one folder plays two parts, or lies in another that does."""
    used = [(key, Path(name)) for key, name in folders.items() if name]
    for position, (key, folder) in enumerate(used):
        for other, elsewhere in used[position + 1 :]:
            if folder.is_relative_to(elsewhere) or elsewhere.is_relative_to(folder):
                raise ConfigError(
                    f"data.index.{key}={folder} and data.index.{other}={elsewhere}: the same images can't be "
                    "both; give them separate folders"
                )


def _check_unknown(found: dict[str, _Named], known: set[str], folders: dict[str, str | None]) -> None:
    wrong = {match["identity"] for _, match in found.get("unknown_probe", [])} & known
    if wrong:
        raise DataError(
            f"{len(wrong)} identities of {folders['unknown_probe']} are in {folders['gallery']}, so they are "
            f"not unknown: {few(wrong)}. Move their images to {folders['probe']}, or type "
            "data.index.unknown_probe=null"
        )


def _train_gallery(matched: _Named) -> set[str]:
    """The paths of train that a carved validation searches: one of each identity, and half of the others."""
    hashed = {path: blake2b(path.encode(), digest_size=8).digest() for path, _ in matched}
    first: dict[str, str] = {}
    for path, match in matched:
        best = first.setdefault(match["identity"], path)
        if hashed[path] < hashed[best]:
            first[match["identity"]] = path
    return {path for path in hashed if hashed[path][0] < 128} | set(first.values())
