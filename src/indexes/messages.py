"""Conversations about images: what their layouts share, every fault with its place, one row a conversation.

A conversation is a list of messages, `role` (system, user or assistant) and `content`; a literal `<image>` in
a content stands where an image is shown. The last message is the assistant's, and is the answer. Contents are
kept as they stand in their file, but for white space at both ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, did_you_mean
from .captions import json_kind
from .table import Listing, Split, to_table

IMAGE = "<image>"

ROLES: Mapping[str, str] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}

Message = dict[str, str]


@dataclass(frozen=True)
class Conversation:
    """A conversation as its file has it.

    images: relative to the root, in the order of their tags. where: its item, line or row, for messages.
    """

    messages: list[Message]
    images: list[str]
    where: str
    split: Split | None = None


def conversation(
    messages: Sequence[tuple[str, str]], images: Sequence[str], where: str, split: Split | None = None
) -> Conversation:
    """A checked conversation of (role, content) by the names of ROLES.

    Perhaps a system message, then user and assistant by turns, the user first and the assistant last. Raises
    DataError with the place for any other order, a blank question or answer, an image in an answer, and
    where there is no image or not one for each tag.
    """
    found = [
        {"role": _role(role, f"message {number} of {where}"), "content": content.strip()}
        for number, (role, content) in enumerate(messages)
    ]
    _check_order([one["role"] for one in found], where)
    for number, one in enumerate(found):
        place = f"message {number} of {where}"
        if not one["content"] and one["role"] != "system":
            raise DataError(
                f"{place} is blank, and is the {one['role']}'s: write "
                f"{'an answer' if one['role'] == 'assistant' else 'what is asked'}, or take the row out"
            )
        if one["role"] == "assistant" and IMAGE in one["content"]:
            raise DataError(f"{place} shows an {IMAGE}, and is an answer: only questions can show images")
    _check_tags(sum(one["content"].count(IMAGE) for one in found), len(images), where)
    return Conversation(found, list(images), where, split)


def plain_text(value: Any, where: str) -> str:
    """A content that is a text; DataError for anything else, and for half a character."""
    if not isinstance(value, str):
        raise DataError(f"{where} is {json_kind(value)}: must be a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a character ({value[error.start]!r}, a lone surrogate): write it anew"
        ) from error
    return value


def content_of(
    value: Any, where: str, *, kind: str, named: Callable[[Mapping[str, Any], str], str | None]
) -> tuple[str, list[str | None]]:
    """(text with tags, for each tag the image that its part names, or None for the next of the row's).

    value: a text, or a list of parts of the types `text` and `kind`, which are put together as they are, as
    chat templates do. named: the image of a part of that kind; its second argument is the part's place.
    """
    if not isinstance(value, list):
        text = plain_text(value, where)
        return text, [None] * text.count(IMAGE)
    texts: list[str] = []
    slots: list[str | None] = []
    for number, part in enumerate(value):
        place = f"part {number} of {where}"
        found = part.get("type") if isinstance(part, Mapping) else None
        if found == "text":
            texts.append(plain_text(part.get("text"), f"text of {place}"))
            slots += [None] * texts[-1].count(IMAGE)
        elif found == kind:
            slots.append(named(part, place))
            texts.append(IMAGE)
        else:
            what = f"of the type {found!r}" if isinstance(part, Mapping) else json_kind(part)
            raise DataError(f"{place} is {what}: must be of the type text or {kind}")
    return "".join(texts), slots


def shown_images(slots: Sequence[str | None], given: Sequence[str], where: str) -> list[str]:
    """The images in the order of their tags: those that parts name, and for the other tags the row's own."""
    open_ = sum(slot is None for slot in slots)
    if open_ != len(given):
        _check_tags(len(slots), len(slots) - open_ + len(given), where)
    rest = iter(given)
    return [next(rest) if slot is None else slot for slot in slots]


def objects_of(value: Any, key: str, where: str) -> list[Mapping[str, Any]]:
    """A list of objects that is not empty, as messages are."""
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else json_kind(value)
        raise DataError(f"{key} of {where} is {what}: must be a list of messages")
    for number, one in enumerate(value):
        if not isinstance(one, Mapping):
            raise DataError(f"{key}[{number}] of {where} is {json_kind(one)}: must be an object")
    return value


def listed(
    rows: Sequence[Conversation], *, watched: Sequence[Path], notes: Mapping[str, int], test_fraction: float
) -> Listing:
    """The Listing of conversations, those about the same image in one group.

    Where files tell the splits an image may be in several of them: that is counted, and nothing removed.
    """
    counted = Counter(notes)
    groups = _groups(rows)
    splits: dict[str, set[str]] = {}
    for row, group in zip(rows, groups, strict=True):
        splits.setdefault(group, set()).add(str(row.split))
    shared = sum(
        row.split == "train" and bool(splits[group] - {"train"})
        for row, group in zip(rows, groups, strict=True)
    )
    if shared:
        counted["conversations of train about images that val or test has too (kept)"] = shared
    several = any(len(row.images) > 1 for row in rows)
    columns: dict[str, Any] = {
        "path": [row.images[0] for row in rows],
        "split": [row.split for row in rows],
        "group": [
            group if row.split is None else f"{row.split}/{group}"
            for row, group in zip(rows, groups, strict=True)
        ],
        "messages": [row.messages for row in rows],
    }
    if several:
        columns["further_images"] = [row.images[1:] or None for row in rows]
    plain = all(row.split is None for row in rows)
    return Listing(
        to_table(columns),
        watched=watched,
        notes=dict(counted),
        test_fraction=test_fraction if plain else 0.0,
    )


def _role(value: str, where: str) -> str:
    if value not in ROLES:
        raise DataError(
            f"{where} is of the role {value!r}{did_you_mean(value, ROLES) or ','} known are "
            f"{', '.join(ROLES)}"
        )
    return ROLES[value]


def _check_order(roles: Sequence[str], where: str) -> None:
    turns = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user", "assistant"] * ((len(turns) + 1) // 2)
    if not turns or list(turns) != expected:
        raise DataError(
            f"the messages of {where} are those of {', '.join(roles) or 'nobody'}: must be perhaps system, "
            "then user and assistant by turns, and assistant last"
        )


def _check_tags(tags: int, images: int, where: str) -> None:
    if not images:
        raise DataError(f"{where} has no image: name one, or take the row out")
    if tags != images:
        raise DataError(
            f"{where} has {_many(tags, f'{IMAGE} tag')} in its messages and {_many(images, 'image')}: write "
            f"{IMAGE} once for each image, where it is shown"
        )


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _groups(rows: Sequence[Conversation]) -> list[str]:
    """For each conversation the first by name of all images that it is linked to by shared images."""
    above: dict[str, str] = {}

    def first(image: str) -> str:
        while above.setdefault(image, image) != image:
            above[image] = above[above[image]]
            image = above[image]
        return image

    for row in rows:
        for image in row.images:
            one, other = sorted((first(row.images[0]), first(image)))
            above[other] = one
    return [first(row.images[0]) for row in rows]
