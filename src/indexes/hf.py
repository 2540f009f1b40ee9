"""A data set of the Hugging Face hub: parquet shards with images in them, or image files; labels by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import ConfigError, DataError, did_you_mean
from ..images.parquet_images import KEPT_BYTES, image_columns
from . import hf_imagefolder
from .hf_features import Card, class_names, image_column_of, label_column, label_values, read_card
from .hf_files import shards
from .hf_repo import fetched, revision_of, visible
from .table import MEMBER, Listing, to_table
from .walk import MissingFolder

COLUMNS: tuple[str, ...] = ("path", "split", "label", "generator")

_BYTES = "bytes"


def index(
    root: Path,
    *,
    positive: Sequence[str],
    repo: str | None = None,
    revision: str | None = None,
    config_name: str | None = None,
    splits: Mapping[str, str] | None = None,
    image: str | None = None,
    label: str | None = None,
    generator: str | None = None,
) -> Listing:
    """A row for each row of the parquet shards (`train-00000-of-00002.parquet::17`), or for each image file.

    positive: the class names that are generated; all others are real. Names as the data set has them, never
        its numbers, on which copies of one set disagree.
    repo: an id on the hub. It lies in `root/<repo>` and is fetched there if it is not: at `revision` (a
        branch, tag or commit; None: main). None: root is the data set.
    config_name: which configuration, where there are several.
    splits: the data set's own split names → train, val or test; others are left out. None: by usual names.
    image, label: columns, where they are not clear. generator: a column with what made the image; without,
        the generator of a generated image is its class name. Real rows have none.

    Raises DataError for what is missing or wrong, with the file; ConfigError for arguments that can't be.
    """
    names = _names(positive)
    notes: Counter[str] = Counter()
    folder, prefix = root, ""
    if repo is not None:
        folder, prefix = fetched(root, repo, revision), f"{repo}/"
    elif revision is not None:
        raise ConfigError("data.index.revision needs data.index.repo=ORG/NAME: a local folder is what it is")
    if not folder.is_dir():
        raise MissingFolder(folder)
    card = read_card(folder)
    files = _parquet_files(folder)
    if files:
        paths, chosen, labels, generators, found = _parquet_rows(
            folder, files, card, config_name, splits, image, label, generator
        )
    else:
        if image is not None:
            raise ConfigError(f"data.index.image={image}: {folder} holds image files, which have no columns")
        _check_other_forms(folder)
        paths, chosen, labels, generators, found = hf_imagefolder.rows(folder, splits, label, generator)
    notes.update(found)
    fetched_at = revision_of(folder)
    if fetched_at:
        notes[f"images of {repo or folder.name} at revision {fetched_at}"] = len(labels)
    label_numbers, generator_names = _judged(labels, generators, names, folder, notes)
    table = to_table(
        {
            "path": pc.binary_join_element_wise(prefix, paths, "") if prefix else paths,
            "split": chosen,
            "label": label_numbers,
            "generator": generator_names,
        }
    )
    return Listing(table, watched=(folder, *(folder / file for file in files)), notes=notes)


Rows = tuple[pa.Array, list[Any], pa.Array, pa.Array | None, dict[str, int]]
"""Paths, splits, class names, generators, and what was left aside."""


def _parquet_rows(
    folder: Path,
    files: Sequence[str],
    card: Card,
    config_name: str | None,
    splits: Mapping[str, str] | None,
    image: str | None,
    label: str | None,
    generator: str | None,
) -> Rows:
    found, notes, config_name = shards(files, card, config_name, splits)
    counted = Counter(notes)
    paths: list[pa.Array] = []
    chosen: list[Any] = []
    labels: list[pa.Array] = []
    generators: list[pa.Array] = []
    columns: tuple[str, str] | None = None
    for shard in found:
        file = folder / shard.path
        try:
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            classes = class_names(schema, card, config_name)
            image_name = image_column_of(schema, image or (columns[0] if columns else None))
            label_name = label_column(schema, classes, label or (columns[1] if columns else None))
            columns = columns or (image_name, label_name)
            if generator is not None and generator not in schema.names:
                raise DataError(
                    f"it has no column {generator} (data.index.generator={generator})"
                    f"{did_you_mean(generator, schema.names)} It has {', '.join(schema.names)}"
                )
            wanted = [label_name, *([generator] if generator is not None else [])]
            table = parquet.read(columns=wanted, use_threads=False)
            labels.append(label_values(table.column(label_name), classes.get(label_name), label_name))
            if generator is not None:
                made_by = classes.get(generator)
                generators.append(label_values(table.column(generator), made_by, generator))
            _check_images(parquet, image_name, counted)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} is not a whole parquet file ({error}): fetch it again") from error
        rows = pa.array(np.arange(table.num_rows)).cast(pa.string())
        column = "" if _found_alone(schema) == image_name else f"{image_name}:"
        paths.append(pc.binary_join_element_wise(f"{shard.path}{MEMBER}{column}", rows, ""))
        chosen += [shard.split] * table.num_rows
        if not table.num_rows:
            counted[f"parquet files without a row: {shard.path}"] += 1
    megabytes = counted.pop(_BYTES, 0) // 2**20
    if megabytes > KEPT_BYTES // 2**20:
        counted["MB of images, more than is kept in memory: shuffled reading is slow, see docs/data.md"] = (
            megabytes
        )
    if not chosen:
        raise DataError(f"the parquet files of {folder} hold no row: {', '.join(one.path for one in found)}")
    return (
        pa.concat_arrays(paths),
        chosen,
        pa.concat_arrays(labels),
        pa.concat_arrays(generators) if generators else None,
        dict(counted),
    )


def _check_images(parquet: pq.ParquetFile, column: str, notes: Counter[str]) -> None:
    """Count rows without bytes and all bytes, as far as the file tells without reading them."""
    metadata = parquet.metadata
    leaf = [
        number
        for number in range(metadata.num_columns)
        if metadata.schema.column(number).path in (column, f"{column}.bytes")
    ]
    missing, size = 0, 0
    for number in range(metadata.num_row_groups):
        for place in leaf:
            chunk = metadata.row_group(number).column(place)
            size += chunk.total_uncompressed_size
            if chunk.statistics is not None and chunk.statistics.has_null_count:
                missing += chunk.statistics.null_count
    if missing and missing == metadata.num_rows:
        raise DataError(
            f"its column {column} holds no bytes, only the paths of files elsewhere: embed the images "
            "(datasets: Dataset.to_parquet), or list the files with data=manifest"
        )
    if missing:
        notes["rows without image bytes (kept; reading them is an error)"] += missing
    notes[_BYTES] += size


def _judged(
    labels: pa.Array, generators: pa.Array | None, positive: Sequence[str], folder: Path, notes: Counter[str]
) -> tuple[pa.Array, pa.Array]:
    """0 or 1 by the class name, null where it has none; and the generator of the generated."""
    there = sorted(pc.unique(labels).drop_null().to_pylist())
    for name in positive:
        if name not in there:
            same = [one for one in there if one.casefold() == name.casefold()]
            near = f": did you mean {same[0]}?" if same else did_you_mean(name, there) or ":"
            raise DataError(
                f"data.index.positive names {name!r}, which no image of {folder} has"
                f"{near} it has {', '.join(there)}"
            )
    real = [name for name in there if name not in positive]
    generated = pc.is_in(labels, pa.array(list(positive), pa.string()))
    numbers = pc.if_else(pc.is_valid(labels), pc.cast(generated, pa.int64()), pa.scalar(None, pa.int64()))
    for kind, classes in (("real", real), ("generated", positive)):
        if classes:
            count = pc.sum(pc.is_in(labels, pa.array(list(classes), pa.string()))).as_py()
            notes[f"images that are {kind} by their class: {', '.join(classes)}"] = count
    return numbers, pc.if_else(
        generated, labels if generators is None else generators, pa.scalar(None, pa.string())
    )


def _names(positive: Sequence[Any]) -> list[str]:
    if isinstance(positive, str) or not positive:
        raise ConfigError(f"data.index.positive={positive!r}: must be a list of class names, such as [FAKE]")
    numbers = [name for name in positive if not isinstance(name, str | bool)]
    if numbers:
        raise ConfigError(
            f"data.index.positive={list(positive)}: must be class names, not numbers, on which copies of one "
            "data set disagree: write [FAKE], or whatever the data set calls it"
        )
    return [str(name).lower() if isinstance(name, bool) else name for name in positive]


def _found_alone(schema: pa.Schema) -> str | None:
    """The column that `read_bytes` takes by itself."""
    found = image_columns(schema)
    return "image" if "image" in found else found[0] if len(found) == 1 else None


def _parquet_files(folder: Path) -> list[str]:
    return sorted(visible(folder, folder.rglob("*.parquet")))


def _check_other_forms(folder: Path) -> None:
    arrow = visible(folder, folder.rglob("*.arrow"))
    if arrow:
        raise DataError(
            f"{folder} holds {arrow[0]}, the form of save_to_disk: write parquet instead, in Python "
            "datasets.load_from_disk(FOLDER)['train'].to_parquet('train-00000-of-00001.parquet')"
        )
