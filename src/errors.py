"""The errors that a user is meant to read.

Each says what was wrong with its value, what would be right, and what to type. The command line prints the
message alone, without a traceback; anything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class TapetumError(Exception):
    """A failure that the user can mend; its message is the whole story."""


class ConfigError(TapetumError):
    """One or more problems of a composed config, all reported together."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        count = len(self.problems)
        head = "1 problem in the config:" if count == 1 else f"{count} problems in the config:"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


class DataError(TapetumError):
    """The data on the disk is not what the layout or the task needs."""


class ImageError(TapetumError):
    """One image cannot be used; the message is the reason, without the path."""


class CheckpointError(TapetumError):
    """A checkpoint or weight file is damaged, foreign or does not fit."""


class TrainingError(TapetumError):
    """Training cannot go on: a loss that is not finite, memory that ran out, nothing to train."""


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """`": did you mean X?"`, or an empty string where nothing known is near."""
    near = get_close_matches(value, list(known), n=1, cutoff=0.6)
    return f": did you mean {near[0]}?" if near else ""
