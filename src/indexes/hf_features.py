"""What the columns of a Hugging Face data set mean: image, class names, text.

Names come from the metadata that `datasets` writes into each parquet file, else from the data set card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from ..errors import DataError, did_you_mean
from ..images.parquet_images import image_columns

_CARD_LIMIT = 16 * 2**20


@dataclass(frozen=True)
class Card:
    """The YAML head of README.md: `dataset_info` and `configs`, each a list; empty where there is none."""

    dataset_info: Sequence[Mapping[str, Any]]
    configs: Sequence[Mapping[str, Any]]


def read_card(folder: Path) -> Card:
    """The card of a data set; DataError where its head is no YAML."""
    file = folder / "README.md"
    if not file.is_file():
        return Card((), ())
    with file.open(encoding="utf-8", errors="replace") as lines:
        text = lines.read(_CARD_LIMIT)
    if not text.startswith("---"):
        return Card((), ())
    head = text[3:].partition("\n---")[0]
    try:
        found = yaml.safe_load(head)
    except yaml.YAMLError as error:
        raise DataError(f"the head of {file} is not YAML ({str(error).splitlines()[0]}): mend it") from error
    found = found if isinstance(found, Mapping) else {}
    return Card(_mappings(found.get("dataset_info")), _mappings(found.get("configs")))


def class_names(schema: pa.Schema, card: Card, config_name: str | None) -> dict[str, list[str]]:
    """Column → its class names in the order of their numbers, for the columns that have some."""
    names = {}
    for column, feature in _card_features(card, config_name).items():
        found = _card_names(feature)
        if found:
            names[column] = found
    embedded = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(embedded)["info"]["features"] if embedded else {}
        for column, feature in features.items():
            if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel":
                names[column] = [str(name) for name in feature["names"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"its `huggingface` metadata is damaged ({error!r}): write the file anew") from error
    return {column: values for column, values in names.items() if column in schema.names}


def label_column(schema: pa.Schema, names: Mapping[str, Sequence[str]], wanted: str | None) -> str:
    """The column that tells the class, named or found; DataError (without the file) where that is none."""
    if wanted is not None:
        return _present(schema, wanted, "label")
    named: list[str] = [one for one in schema.names if one in names]
    for usual in ("label", "labels"):
        if usual in named or (usual in schema.names and _is_text(schema.field(usual).type)):
            return usual
    if len(named) == 1:
        return str(named[0])
    for usual in ("label", "labels"):
        if usual in schema.names:
            return usual  # numbers without names, as `label_values` then says
    raise DataError(
        f"which column tells real from generated is not clear: type data.index.label=NAME, of "
        f"{described(schema, names)}"
    )


def image_column_of(schema: pa.Schema, wanted: str | None) -> str:
    """The column that holds images, named or found; DataError (without the file) where that is none."""
    found = image_columns(schema)
    if wanted is not None:
        _present(schema, wanted, "image")
        if wanted not in found:
            raise DataError(
                f"its column {wanted} holds no image bytes; those do: {', '.join(found) or 'none'}"
            )
        return wanted
    if "image" in found or len(found) == 1:
        return "image" if "image" in found else found[0]
    if not found:
        raise DataError(f"it has no column with image bytes, only {described(schema, {})}")
    raise DataError(f"it has several columns with images: type data.index.image=NAME, of {', '.join(found)}")


def label_values(values: pa.ChunkedArray, names: Sequence[str] | None, column: str) -> pa.Array:
    """string [n]: the class name of each row, null where it has none (also -1, as in unlabelled test splits).

    Raises DataError (without the file) for numbers that have no name, and for a type that is no label.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if names is not None and pa.types.is_integer(kind):
        numbers = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
        known = {float(number): name for number, name in enumerate(names)}
        known[-1.0] = None  # type: ignore[assignment]
        found: list[str | None] = []
        for row, number in enumerate(numbers.tolist()):
            if number is None or number != number:
                found.append(None)
            elif float(number) in known:
                found.append(known[float(number)])
            else:
                raise DataError(
                    f"row {row} has {column} {int(number)}, but the names are "
                    f"{', '.join(f'{n} {name}' for n, name in enumerate(names))}: mend the file or its card"
                )
        return pa.array(found, pa.string())
    if _is_text(kind):
        return values.cast(pa.string()).combine_chunks()
    if pa.types.is_boolean(kind):
        return pa.array(
            [None if one is None else str(one).lower() for one in values.to_pylist()], pa.string()
        )
    if pa.types.is_integer(kind):
        seen = sorted({one for one in values.to_pylist() if one is not None})[:5]
        names_of = "{class_label: {names: {'0': A, '1': B}}}"
        head = f"dataset_info: {{features: [{{name: {column}, dtype: {names_of}}}]}}"
        raise DataError(
            f"its column {column} holds the numbers {', '.join(map(str, seen))}, nothing says what they are "
            "called, and copies of one data set disagree on them: type data.index.label=NAME of a column "
            f"with names, or let README.md begin with the three lines ---, {head} and ---"
        )
    raise DataError(f"its column {column} is {kind}, which is no class: type data.index.label=NAME")


def described(schema: pa.Schema, names: Mapping[str, Sequence[str]]) -> str:
    """The columns with their class names or types, for messages."""
    return "; ".join(
        f"{field.name} ({', '.join(names[field.name][:8]) if field.name in names else field.type})"
        for field in schema
    )


def _present(schema: pa.Schema, column: str, key: str) -> str:
    if column not in schema.names:
        raise DataError(
            f"it has no column {column} (data.index.{key}={column}){did_you_mean(column, schema.names)} It "
            f"has {', '.join(schema.names)}"
        )
    return column


def _card_features(card: Card, config_name: str | None) -> dict[str, Mapping[str, Any]]:
    infos = card.dataset_info
    chosen = [info for info in infos if info.get("config_name", "default") == (config_name or "default")]
    for info in chosen or (infos if len(infos) == 1 else ()):
        return {str(one["name"]): one for one in _mappings(info.get("features")) if "name" in one}
    return {}


def _card_names(feature: Mapping[str, Any]) -> list[str]:
    """`dtype: {class_label: {names: {'0': FAKE, '1': REAL}}}`, or a list of names."""
    kind = feature.get("dtype")
    label = kind.get("class_label") if isinstance(kind, Mapping) else None
    names = label.get("names") if isinstance(label, Mapping) else None
    if isinstance(names, Mapping):
        try:
            ordered = sorted((int(number), str(name)) for number, name in names.items())
        except ValueError as error:
            raise DataError(
                f"its card names classes by {', '.join(map(str, names))}: write numbers"
            ) from error
        if [number for number, _ in ordered] != list(range(len(ordered))):
            raise DataError(f"its card numbers classes {[n for n, _ in ordered]}: they must run from 0 on")
        return [name for _, name in ordered]
    return [str(name) for name in names] if isinstance(names, list) else []


def _mappings(value: Any) -> tuple[Mapping[str, Any], ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(one for one in listed if isinstance(one, Mapping))


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))
