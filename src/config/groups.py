"""The choices a user has: the groups of `conf/` and one line about each option, read without Hydra."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

# The model brings its task along, so nobody chooses one.
HIDDEN = frozenset({"task"})


@dataclass(frozen=True)
class Option:
    """One YAML of a group; description is its first comment, empty where it has none."""

    name: str
    description: str


@cache
def groups() -> dict[str, list[Option]]:
    """Group → its options in alphabetical order, the user's own included; names with `_` are hidden."""
    found = {}
    for folder in sorted(files("tapetum.conf").iterdir(), key=lambda entry: entry.name):
        if not folder.is_dir() or folder.name.startswith(("_", ".")) or folder.name in HIDDEN:
            continue
        options = [
            Option(entry.name.removesuffix(".yaml"), _description(entry.read_text(encoding="utf-8")))
            for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
            if entry.name.endswith(".yaml") and not entry.name.startswith("_")
        ]
        found[folder.name] = options
    return found


def option_names(group: str) -> list[str]:
    """Names of a group's options."""
    return [option.name for option in groups().get(group, [])]


def _description(text: str) -> str:
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.lstrip("#").strip()
        if words and not words.startswith("@package"):
            return words
    return ""
