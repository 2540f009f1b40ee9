"""Answers and captions that are right to the word."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def exact_match(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of texts that are one of their references, but for case, spaces and composed characters.

    NaN of none.
    """
    if not candidates:
        return float("nan")
    return sum(matches(candidates, references)) / len(candidates)


def matches(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[bool]:
    """Which of the texts are one of their references."""
    return [
        _plain(text) in {_plain(one) for one in known}
        for text, known in zip(candidates, references, strict=True)
    ]


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
