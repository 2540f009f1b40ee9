"""What runs chose, which choices tell groups of runs apart, and how a group is called for short."""

from __future__ import annotations

from collections import Counter
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
    "sweep.",
    "resume",
    "data.num_workers",
    "data.cache",
    "data.rescan",
    "train.timeout_minutes",
    "train.report",
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
        if key.endswith(".seed") and value == root:
            continue
        if is_choice(key):
            kept[key] = plain(value)
    return kept


def is_choice(key: str) -> bool:
    """Whether a dotted key, or a group's name, may move a figure: none of NO_CHOICE, and not the seed."""
    bare = key.removeprefix(f"{TRAINED}.")
    return bare != "seed" and not any(
        bare == name.removesuffix(".") or (name.endswith(".") and bare.startswith(name)) for name in NO_CHOICE
    )


def run_names(paths: Sequence[Path]) -> list[str]:
    """The shortest end of each run's path that no other run has."""
    every = [path.resolve().parts for path in paths]
    names = [str(path) for path in paths]
    left = set(range(len(paths)))
    for length in range(1, max(map(len, every), default=0)):
        ends = Counter(parts[-length:] for parts in every)
        for place in [place for place in left if ends[every[place][-length:]] == 1]:
            if length < len(every[place]):
                names[place] = "/".join(every[place][-length:])
                left.remove(place)
    return names


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
    names = [tail(differing[at], differing) for at in used]
    for shorten, absent in ((short, False), (short, True), (_whole, True)):
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


def tail(key: str, keys: Sequence[str]) -> str:
    """The shortest end of a dotted key that no other shares; a target goes by what it builds."""
    bare = key.removesuffix("._target_")
    others = [other.removesuffix("._target_") for other in keys if other != key]
    parts = bare.split(".")
    for length in range(1, len(parts)):
        tail = ".".join(parts[-length:])
        if not any(other == tail or other.endswith(f".{tail}") for other in others):
            return tail
    return key


def short(key: str, value: str) -> str:
    """A target by what it builds, `tapetum.detectors.npr.NPR` as `NPR`; a path by its end."""
    if key.endswith("_target_"):
        return value.rpartition(".")[2]
    if value.count("/") > 1:
        value = value.rstrip("/").rpartition("/")[2]
    return value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"


def _whole(key: str, value: str) -> str:
    return value
