"""Conversations as Hugging Face has them: typed content, or prompt and completion; in JSON or parquet."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from ..images.parquet_images import image_columns
from .captions import check_arguments
from .conversation_files import (
    Annotations,
    annotation_files,
    image_path,
    image_paths,
    images_folder,
    json_items,
    json_lines,
)
from .messages import (
    IMAGE,
    Conversation,
    content_of,
    conversation,
    listed,
    objects_of,
    plain_text,
    shown_images,
)
from .table import MEMBER, Listing, Split

COLUMNS: tuple[str, ...] = ("path", "further_images", "split", "group", "messages")

_FORMS = ("messages", "prompt", "completion")
_IMAGES = ("images", "image")


def index(
    root: Path,
    *,
    annotations: Annotations = None,
    images: str | None = None,
    test_fraction: float = 0.1,
) -> Listing:
    """One row a conversation: `messages`, or `prompt` and `completion`, with `images` or `image`.

    A content is a text, or a list of parts `{"type": "image"}` and `{"type": "text", "text": …}`, which are
    put together as they are; a part may name its image (`image`, `path`, `url`), the others take the row's
    in order. prompt and completion are texts or lists of messages. Where nothing says where a row's images
    are shown, they stand before the first question, as trl puts them: that is counted in notes.

    annotations: the file, or `{train: FILE, test: FILE}`, relative to root. None: the `.json`, `.jsonl` or
        `.parquet` file in root or its folder `data`, or several whose names tell their splits.
        A column of images in a parquet file holds paths, lists of paths, or one embedded image a row
        (struct of bytes and path), which is read where it is.
    images: the folder that paths are relative to, itself relative to root; None: root.
    test_fraction: of files without splits, by a hash of the image.

    Raises MissingFolder, DataError that names item, line or row for whatever is not so; see
    `messages.conversation`.
    """
    check_arguments("keep", test_fraction)
    folder = images_folder(root, images)
    files = annotation_files(root, annotations, (".json", ".jsonl", ".parquet"))
    notes: Counter[str] = Counter()
    rows = []
    for file, split in files:
        read = {".json": json_items, ".jsonl": json_lines}.get(file.suffix.lower())
        if read is not None:
            rows += [_row(row, None, folder, root, where, split, notes) for where, row in read(file)]
        else:
            for where, row, member in _parquet_rows(root, file):
                rows.append(_row(row, member, folder, root, where, split, notes))
    return listed(
        rows, watched=(root, *(file for file, _ in files)), notes=notes, test_fraction=test_fraction
    )


def _row(
    row: Mapping[str, Any],
    member: str | None,
    folder: Path,
    root: Path,
    where: str,
    split: Split | None,
    notes: Counter[str],
) -> Conversation:
    """member: the path of the image that a row of a parquet file holds, None where it names its images."""

    def named(part: Mapping[str, Any], place: str) -> str | None:
        found = next((part[key] for key in ("image", "path", "url") if part.get(key)), None)
        return None if found is None else image_path(found, folder, root, f"image of {place}")

    turns: list[tuple[str, str]] = []
    slots: list[str | None] = []
    for number, (role, content) in enumerate(_messages(row, where)):
        place = f"message {number} of {where}"
        text, shown = content_of(content, f"content of {place}", kind="image", named=named)
        turns.append((plain_text(role, f"role of {place}"), text))
        slots += shown
    own = next((row[key] for key in _IMAGES if row.get(key) is not None), None)
    given = [member] if member is not None else image_paths(own, folder, root, where)
    asked = next((number for number, (role, _) in enumerate(turns) if role == "user"), None)
    if given and not slots and asked is not None:
        notes["conversations that do not say where their images are shown (before the first question)"] += 1
        turns[asked] = ("user", IMAGE * len(given) + "\n" + turns[asked][1])
        slots = [None] * len(given)
    return conversation(turns, shown_images(slots, given, where), where, split)


def _messages(row: Mapping[str, Any], where: str) -> list[tuple[Any, Any]]:
    """(role, content) of each message of a row."""
    if row.get("messages") is not None:
        found = objects_of(row["messages"], "messages", where)
    elif row.get("prompt") is not None and row.get("completion") is not None:
        found = []
        for key, role in (("prompt", "user"), ("completion", "assistant")):
            value = row[key]
            plain = isinstance(value, str)
            found += [{"role": role, "content": value}] if plain else objects_of(value, key, where)
    else:
        raise DataError(
            f"{where} has neither messages nor prompt and completion: it has {', '.join(map(str, row))}"
        )
    return [(one.get("role"), one.get("content")) for one in found]


def _parquet_rows(root: Path, file: Path) -> Iterator[tuple[str, Mapping[str, Any], str | None]]:
    """(place, row, path of the image that it holds); of embedded images only the names are read."""
    path = posixpath.normpath(file.absolute().as_posix())
    above = posixpath.normpath(root.absolute().as_posix())
    try:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        column = next((name for name in _IMAGES if name in schema.names), None)
        wanted = [name for name in (*_FORMS, "id") if name in schema.names]
        leaf, several = _leaf(schema, column)
        table = parquet.read(columns=[*wanted, *_paths(schema, column, leaf)], use_threads=False)
        rows = table.to_pylist()
        holding = _holding(parquet, column, leaf)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a whole parquet file ({error}): fetch it again") from error
    if not rows:
        raise DataError(f"{file} holds no conversation")
    found = image_columns(schema)
    alone = column == "image" or found == [column]  # what `read_bytes` takes by itself
    for number, row in enumerate(rows):
        where = f"row {number} of {file}"
        member = None
        if number in holding:
            if several:
                raise DataError(
                    f"{where} embeds a list of {holding[number]} in {column}: an image is read from a "
                    "parquet file where a row has one of them, as bytes and path without a list. Write them "
                    "as files, and name their paths"
                )
            if not path.startswith(f"{above}/"):
                raise DataError(f"{file} lies outside data.root={root}: type data.root=<a folder above it>")
            item = number if alone else f"{column}:{number}"
            member = f"{path[len(above) + 1 :]}{MEMBER}{item}"
        yield where, row, member


def _leaf(schema: pa.Schema, column: str | None) -> tuple[str | None, bool]:
    """(where a column keeps the bytes of images, None where it holds paths; whether it is one of lists)."""
    if column is None:
        return None, False
    if column in image_columns(schema):
        return column, False
    kind = schema.field(column).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return None, False
    inner = pa.schema([pa.field("inner", kind.value_type)])
    return (f"{column}.list.{kind.value_field.name}", True) if image_columns(inner) else (None, False)


def _paths(schema: pa.Schema, column: str | None, leaf: str | None) -> list[str]:
    """What is read of the column of images: its paths, never its bytes."""
    if column is None:
        return []
    if leaf is None:
        return [column]
    kind = schema.field(column).type
    struct = kind if leaf == column else kind.value_type
    return [f"{leaf}.path"] if pa.types.is_struct(struct) and "path" in struct.names else []


def _holding(parquet: pq.ParquetFile, column: str | None, leaf: str | None) -> dict[int, int]:
    """Row → images whose bytes it holds; they are read only where the file does not tell."""
    if column is None or leaf is None:
        return {}
    metadata = parquet.metadata
    places = [
        number
        for number in range(metadata.num_columns)
        if metadata.schema.column(number).path in (leaf, f"{leaf}.bytes")
    ]
    chunks = [
        metadata.row_group(group).column(one) for group in range(metadata.num_row_groups) for one in places
    ]
    told = [
        one.statistics.null_count if one.statistics and one.statistics.has_null_count else None
        for one in chunks
    ]
    if all(nulls == one.num_values for nulls, one in zip(told, chunks, strict=True)):
        return {}
    if leaf == column and all(nulls == 0 for nulls in told):
        return dict.fromkeys(range(metadata.num_rows), 1)
    found: dict[int, int] = {}
    start = 0
    for batch in parquet.iter_batches(256, columns=[column], use_threads=False):
        held = map(_images_in, batch.column(0).to_pylist())
        found |= {start + place: images for place, images in enumerate(held) if images}
        start += batch.num_rows
    return found


def _images_in(value: Any) -> int:
    """Images whose bytes a cell holds, itself or in its list."""
    if isinstance(value, list):
        return sum(map(_images_in, value))
    return int(bool(value.get("bytes") if isinstance(value, Mapping) else value))
