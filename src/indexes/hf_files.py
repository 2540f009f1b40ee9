"""Which files of a Hugging Face data set belong to which split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from ..errors import ConfigError, DataError, did_you_mean
from .folder import SPLIT_FOLDERS
from .hf_features import Card
from .table import SPLITS, Split

_SHARD = re.compile(r"(?P<name>.+?)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_NUMBERED = re.compile(r"(?P<name>.*?)[-_.]?\d*")
SPLIT_NAMES: Mapping[str, Split] = {
    **SPLIT_FOLDERS,
    "training": "train",
    "dev": "val",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}


@dataclass(frozen=True)
class Shard:
    """A file relative to the data set's folder; split: None where none of the files tells one."""

    path: str
    split: Split | None


def shards(
    paths: Sequence[str], card: Card, config_name: str | None, splits: Mapping[str, str] | None
) -> tuple[list[Shard], dict[str, int], str | None]:
    """The files of one configuration with their splits, what was left aside, and the configuration's name.

    splits: the data set's names → train, val or test; the files of other names are left aside. None: by the
        usual names. Raises DataError for an unknown or absent name and for a missing shard.
    """
    chosen, config_name = _of_config(paths, card, config_name)
    _check_complete([path for path, _ in chosen])
    placed = placed_splits([name for _, name in chosen], splits)
    notes: dict[str, int] = {}
    for _, name in chosen:
        if name not in placed:
            note = f"files of the split {name}, which data.index.splits does not name (left out)"
            notes[note] = notes.get(note, 0) + 1
    return [Shard(path, placed[name]) for path, name in chosen if name in placed], notes, config_name


def placed_splits(names: Sequence[str], splits: Mapping[str, str] | None) -> dict[str, Split | None]:
    """The data set's own split names → train, val or test; names that `splits` leaves out are not in it.

    Where no name is one of the usual ones, all are None: the data set has no splits.
    """
    names = list(dict.fromkeys(names))
    if splits is None:
        unknown = [name for name in names if name.casefold() not in SPLIT_NAMES]
        if unknown and len(unknown) < len(names):
            mapping = ", ".join(
                f"{name}: {SPLIT_NAMES.get(name.casefold(), 'test')}" for name in names if name
            )
            raise DataError(
                f"the split {unknown[0]!r} is not known (there are: {', '.join(names)}): type "
                f"'data.index.splits={{{mapping}}}', without those that are not wanted"
            )
        return {name: SPLIT_NAMES.get(name.casefold()) for name in names}
    placed: dict[str, Split | None] = {}
    for name, wanted in splits.items():
        if name not in names:
            raise DataError(
                f"data.index.splits names {name!r}, which the data set has not"
                f"{did_you_mean(name, names) or ':'} it has {', '.join(names)}"
            )
        split = next((one for one in SPLITS if one == wanted), None)
        if split is None:
            raise ConfigError(f"data.index.splits.{name}={wanted}: must be train, val or test")
        placed[name] = split
    return placed


def split_name(path: str) -> str:
    """What a file calls its split: `train-00000-of-00002` → train, `default/test/0000` → test."""
    file = PurePosixPath(path)
    shard = _SHARD.fullmatch(file.stem)
    if shard:
        return shard["name"]
    name = (_NUMBERED.fullmatch(file.stem) or {"name": ""})["name"]
    if name.casefold() in SPLIT_NAMES or not file.parent.name:
        return name or "data"
    folders = [folder.removeprefix("partial-") for folder in reversed(file.parent.parts)]
    for folder in folders:
        if folder.casefold() in SPLIT_NAMES:
            return folder
    return name or (folders[0] if folders else "data")


def _of_config(
    paths: Sequence[str], card: Card, config_name: str | None
) -> tuple[list[tuple[str, str]], str | None]:
    """(path, split name) of the files of one configuration, as the card or else the folders have it."""
    listed = {str(one.get("config_name", "default")): one for one in card.configs if one.get("data_files")}
    if listed:
        name = _one_config(list(listed), config_name)
        found = _matched(paths, listed[name]["data_files"])
        if not found:
            raise DataError(
                f"the data set card lists files for {name} of which none is there: fetch the whole data set"
            )
        return found, name
    grouped: dict[str, list[tuple[str, str]]] = {}
    for path in paths:
        group = [part for part in PurePosixPath(path).parent.parts if part != "data"]
        group = [part for part in group if part.removeprefix("partial-").casefold() not in SPLIT_NAMES]
        grouped.setdefault("/".join(group), []).append((path, split_name(path)))
    if len(grouped) == 1 and config_name is None:
        return next(iter(grouped.values())), None
    name = _one_config(list(grouped), config_name)
    return grouped[name], name


def _one_config(names: Sequence[str], wanted: str | None) -> str:
    if wanted is not None and wanted not in names:
        raise DataError(
            f"data.index.config_name={wanted} is not among the data set's configurations"
            f"{did_you_mean(wanted, names) or ':'} {', '.join(names)}"
        )
    if wanted is None and len(names) > 1 and "default" not in names:
        raise DataError(
            "the data set has several configurations: type data.index.config_name=NAME, of "
            f"{', '.join(names)}"
        )
    return wanted or ("default" if "default" in names else names[0])


def _matched(paths: Sequence[str], data_files: object) -> list[tuple[str, str]]:
    """`data_files` of a card: a pattern, a list of them, or a list of {split, path}."""
    entries = data_files if isinstance(data_files, list) else [data_files]
    found: list[tuple[str, str]] = []
    for entry in entries:
        patterns = entry.get("path", []) if isinstance(entry, Mapping) else entry
        listed = patterns if isinstance(patterns, list) else [patterns]
        for path in paths:
            if any(_fits(path, str(pattern)) for pattern in listed):
                name = entry.get("split", "train") if isinstance(entry, Mapping) else split_name(path)
                found.append((path, str(name)))
    twice = {path for path, _ in found if sum(path == other for other, _ in found) > 1}
    if twice:
        raise DataError(f"the data set card lists {min(twice)} in more than one split: mend README.md")
    return sorted(found)


def _fits(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, pattern.replace("**/", ""))


def _check_complete(paths: Sequence[str]) -> None:
    there: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        shard = _SHARD.fullmatch(PurePosixPath(path).stem)
        if shard:
            key = (str(PurePosixPath(path).parent / shard["name"]), int(shard["count"]))
            there.setdefault(key, set()).add(int(shard["number"]))
    for (name, count), numbers in there.items():
        missing = sorted(set(range(count)) - numbers)
        if missing:
            raise DataError(
                f"{name}-{missing[0]:05d}-of-{count:05d}.parquet is missing ({len(missing)} of {count} "
                "shards): fetch the whole data set"
            )
