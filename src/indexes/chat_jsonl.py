"""Conversations, one a line: `messages` as OpenAI has them, or `conversations` as ShareGPT; with `images`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .captions import check_arguments
from .conversation_files import (
    Annotations,
    annotation_files,
    image_path,
    image_paths,
    images_folder,
    json_lines,
)
from .messages import Conversation, content_of, conversation, listed, objects_of, plain_text, shown_images
from .table import Listing, Split

COLUMNS: tuple[str, ...] = ("path", "further_images", "split", "group", "messages")


def index(
    root: Path,
    *,
    annotations: Annotations = None,
    images: str | None = None,
    test_fraction: float = 0.1,
) -> Listing:
    """One row a line: `{"messages": [{"role": "user", "content": "<image>…"}, …], "images": ["a.jpg"]}`.

    A content is a text in which `<image>` stands for the next of `images` (or `image`), or a list of parts
    that are put together as they are: `{"type": "text", "text": …}` and `{"type": "image_url", "image_url":
    {"url": "a.jpg"}}`, whose url is a path or a `file:` (an image elsewhere, or written out as `data:`, is
    refused). ShareGPT's `conversations` with `from` and `value` are taken in the place of `messages`.

    annotations: the file, or `{train: FILE, test: FILE}`, relative to root. None: the `.jsonl` file in root
        or its folder `data`, or several whose names tell their splits.
    images: the folder that paths are relative to, itself relative to root; None: root.
    test_fraction: of files without splits, by a hash of the image.

    Raises MissingFolder, DataError that names the line for whatever is not so; see `messages.conversation`.
    """
    check_arguments("keep", test_fraction)
    folder = images_folder(root, images)
    files = annotation_files(root, annotations, (".jsonl",))
    rows = [_row(row, folder, root, where, split) for file, split in files for where, row in json_lines(file)]
    return listed(rows, watched=(root, *(file for file, _ in files)), notes={}, test_fraction=test_fraction)


def _row(row: Mapping[str, Any], folder: Path, root: Path, where: str, split: Split | None) -> Conversation:
    key, names = ("messages", ("role", "content"))
    if key not in row and "conversations" in row:
        key, names = ("conversations", ("from", "value"))

    def named(part: Mapping[str, Any], place: str) -> str:
        url = part.get("image_url")
        found = url.get("url") if isinstance(url, Mapping) else url
        return image_path(found, folder, root, f"image_url of {place}")

    turns: list[tuple[str, str]] = []
    slots: list[str | None] = []
    for number, one in enumerate(objects_of(row.get(key), key, where)):
        place = f"message {number} of {where}"
        text, shown = content_of(one.get(names[1]), f"{names[1]} of {place}", kind="image_url", named=named)
        turns.append((plain_text(one.get(names[0]), f"{names[0]} of {place}"), text))
        slots += shown
    given = image_paths(row.get("images", row.get("image")), folder, root, where)
    return conversation(turns, shown_images(slots, given, where), where, split)
