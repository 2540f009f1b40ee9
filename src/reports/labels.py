"""What runs chose, which choices tell groups of runs apart, and how a group is called for short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .format import flatten, plain

# where a run's files lie, what it is called, how it is watched and fed can move no figure
NO_CHOICE = (
    "name",
    "paths.",
    "hydra.",
    "logger.",
    "launcher.",
    "resume",
    "data.num_workers",
    "data.cache",
    "data.rescan",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
)
ABSENT = "–"
TRAINED = "trained"
"""Where the config of an evaluation has what its run was trained on, if it was held against another's."""
_LONGEST = 48


def choices(config: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key → value as text of what could move a figure, seeds apart.

    Left out are the keys of NO_CHOICE, `seed`, and every key called seed that repeats the root's value
    (resolved from `${seed}`).
    """
    root = config.get("seed")
    kept: dict[str, str] = {}
    for key, value in flatten(config).items():
        if key == "seed" or (key.endswith(".seed") and value == root):
            continue
        bare = key.removeprefix(f"{TRAINED}.")
        if any(bare == name or (name.endswith(".") and bare.startswith(name)) for name in NO_CHOICE):
            continue
        kept[key] = plain(value)
    return kept


def run_name(path: Path, among: Sequence[Path]) -> str:
    """The shortest end of a run's path that no other run has."""
    parts = path.resolve().parts
    for length in range(1, len(parts)):
        name = "/".join(parts[-length:])
        if sum(other.resolve().parts[-length:] == parts[-length:] for other in among) == 1:
            return name
    return str(path)


def group_labels(groups: Sequence[Mapping[str, str]], differing: Sequence[str]) -> list[str]:
    """What tells each group from the others, in short: the network, and the fewest differing keys that do.

    groups: the choices of each, no two alike; differing: the keys whose values are not the same everywhere.
    """
    rows = [[choice.get(key, ABSENT) for key in differing] for choice in groups]
    networks = [key for key in ("model.net._target_", "model.net.name") if key in differing]
    used = [differing.index(key) for key in networks[:1]]  # who wins by its network must not win by its `lr`
    while len({tuple(row[at] for at in used) for row in rows}) < len(rows):
        rest = [at for at in range(len(differing)) if at not in used]
        used.append(max(rest, key=lambda at: _told_apart(rows, [*used, at], differing[at])))
    names = [_tail(differing[at], differing) for at in used]
    for shorten, absent in ((_short, False), (_short, True), (_whole, True)):
        labels = [
            ", ".join(
                f"{name}={shorten(differing[at], row[at])}"
                for name, at in zip(names, used, strict=True)
                if absent or row[at] != ABSENT
            )
            for row in rows
        ]
        if len(set(labels)) == len(labels) and all(labels):
            break
    return labels


def _told_apart(rows: list[list[str]], used: list[int], key: str) -> tuple[int, bool]:
    """How many groups the columns tell apart; among equals, what was built says more than how."""
    return len({tuple(row[at] for at in used) for row in rows}), key.endswith("._target_")


def _tail(key: str, keys: Sequence[str]) -> str:
    """The shortest end of a dotted key that no other shares; a target goes by what it builds."""
    bare = key.removesuffix("._target_")
    others = [other.removesuffix("._target_") for other in keys if other != key]
    parts = bare.split(".")
    for length in range(1, len(parts)):
        tail = ".".join(parts[-length:])
        if not any(other == tail or other.endswith(f".{tail}") for other in others):
            return tail
    return key


def _short(key: str, value: str) -> str:
    """A target by what it builds, `tapetum.detectors.npr.NPR` as `NPR`; a path by its end."""
    if key.endswith("_target_"):
        return value.rpartition(".")[2]
    if value.count("/") > 1:
        value = value.rstrip("/").rpartition("/")[2]
    return value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"


def _whole(key: str, value: str) -> str:
    return value
