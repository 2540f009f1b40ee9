"""A gallery in one file: embeddings of images whose class is known, and what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ..errors import CheckpointError, ConfigError, DataError
from ..metrics.neighbours import LENGTH_TOLERANCE, nearest
from ..metrics.retrieval import answer
from ..modules.decision import Decision
from .embedder import vectors_of, vectors_to_arrow
from .output import check_place, writing

FORMAT = 1
IMAGES = pa.schema(
    [
        ("path", pa.string()),
        ("class", pa.dictionary(pa.int32(), pa.string())),
        ("label", pa.int64()),
    ]
)
"""path: where the image lay when the gallery was built. label: the position of its class among the names that
the gallery was built with."""

_ABOUT = b"tapetum_gallery"
_KEYS = ("format", "run", "checkpoint", "sha256", "dimension", "radiometry", "geometry", "decision", "index")


@dataclass(frozen=True)
class Gallery:
    """What queries are compared with.

    images: a row of IMAGES each. embeddings: float32 [N, D] of length 1, in the same order. about: plain
    values, what made them: `run` and `checkpoint` (its name below the run's checkpoints) with its `sha256`,
    `dimension`, `radiometry` (the node of the config), `modalities`, `geometry` (fields of the InputSpec),
    `decision` (rule, k, exclude), `precision`, `decoder`, `data` and the `index`'s fingerprint, null where
    files were named one by one, the version of `tapetum` and the time.
    """

    images: pa.Table = field(repr=False)
    embeddings: NDArray[np.float32] = field(repr=False)
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def decision(self) -> Decision:
        """How a query is named by what it finds."""
        return Decision.of(self.about["decision"])

    def search(
        self, embeddings: NDArray[np.float32], k: int = 5
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(similarity float32 [Q, k], rows int64 [Q, k]) of the `k` most similar images, exact, falling.

        embeddings: float32 [Q, D] of length 1, as `embed` gives them. Of equally similar images the earlier
        row stands first. Raises ConfigError for more neighbours than there are images, DataError for vectors
        of another dimension or length.
        """
        self.check_k(k)
        similarity, rows = nearest(self._queries(embeddings), torch.from_numpy(self.embeddings), k)
        return similarity.numpy(), rows.numpy()

    def check_k(self, k: int) -> None:
        """ConfigError unless so many neighbours can be asked for."""
        if not 1 <= k <= len(self):
            raise ConfigError(f"k={k}: the gallery holds {len(self):,} images, so k is 1 to {len(self)}")

    def classify(self, embeddings: NDArray[np.float32]) -> list[str]:
        """The class that `decision` gives each of float32 [Q, D]; Q may be 0.

        All images count: a camera or sequence to leave out (`decision.exclude`) is known of a data set's
        queries only. Of fewer images than `decision.k`, all vote.
        """
        queries = self._queries(embeddings)
        if not len(queries):
            return []
        gallery = torch.from_numpy(self.embeddings)
        names = self.images["class"].cast(pa.string())
        numbers = names.combine_chunks().dictionary_encode()
        labels = torch.from_numpy(numbers.indices.to_numpy().astype(np.int64))
        nobody = torch.zeros(len(queries), dtype=torch.int64)  # whose queries they are decides nothing
        rule, k = self.decision.rule, min(self.decision.k, len(self))
        if rule == "centroid":
            found = answer(queries, nobody, gallery, labels).predicted[rule]
        else:
            # The k nearest alone have a say, so that the whole gallery need not be ranked.
            rows = nearest(queries, gallery, 1 if rule == "nearest" else k)[1].sort(dim=1).values
            votes = [
                answer(query[None], nobody[:1], gallery[near], labels[near], k=k).predicted[rule]
                for query, near in zip(queries, rows, strict=True)
            ]
            found = torch.cat(votes)
        vocabulary = numbers.dictionary.to_pylist()
        return [vocabulary[label] for label in found.tolist()]

    def _queries(self, embeddings: NDArray[np.float32]) -> torch.Tensor:
        dimension = self.embeddings.shape[1]
        if embeddings.ndim != 2 or embeddings.shape[1] != dimension:
            raise DataError(
                f"queries of shape {list(embeddings.shape)}, and the gallery has vectors of {dimension} "
                "numbers: embed them with the run that made the gallery"
            )
        return torch.from_numpy(np.ascontiguousarray(embeddings, np.float32))


def write_gallery(gallery: Gallery, path: str | Path) -> None:
    """One parquet file, whole or not at all; see `check_gallery`. Raises DataError where it can't be read
    back as it is."""
    path = check_gallery(path)
    _check(gallery, path)
    columns = [gallery.images.column(name).cast(IMAGES.field(name).type) for name in IMAGES.names]
    about = json.dumps({**gallery.about, "format": FORMAT}, ensure_ascii=False)
    kind = pa.list_(pa.float32(), gallery.embeddings.shape[1])
    schema = pa.schema([*IMAGES, pa.field("embedding", kind)], metadata={_ABOUT: about.encode()})
    table = pa.Table.from_arrays([*columns, vectors_to_arrow(gallery.embeddings)], schema=schema)
    with writing(path, schema) as write:
        write(table.unify_dictionaries())


def read_gallery(path: str | Path) -> Gallery:
    """The gallery that `write_gallery` wrote; DataError where the file is no such gallery or is damaged."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such gallery; make one with tapetum gallery RUN {path}")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no gallery, or damaged: {_first_line(error)}. {_AGAIN}") from error
    about = _about(table.schema, path)
    if table.schema.names != [*IMAGES.names, "embedding"]:
        raise DataError(f"{path} is damaged: it has the columns {', '.join(table.schema.names)}. {_AGAIN}")
    *kinds, kind = table.schema.types
    if kinds != IMAGES.types or not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
        raise DataError(
            f"{path} is damaged: its columns are {', '.join(map(str, table.schema.types))}. {_AGAIN}"
        )
    nulls = [name for name in table.column_names if table.column(name).null_count]
    if nulls:
        raise DataError(f"{path} is damaged: images without {', '.join(nulls)}. {_AGAIN}")
    vectors = vectors_of(table.column("embedding"))
    gallery = Gallery(table.select(IMAGES.names).combine_chunks(), vectors, about)
    _check(gallery, path)
    return gallery


def check_gallery(path: str | Path) -> Path:
    """The path, if a gallery can be written there: over another gallery, an empty file or nothing.

    Raises ConfigError for an ending that is not .parquet, DataError for any other file and a place where
    nothing can be written.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a file in it, such as {path / 'gallery.parquet'}")
    if path.suffix != ".parquet":
        raise ConfigError(f"{path}: a gallery is a .parquet file, such as {path.with_suffix('.parquet')}")
    if path.exists() and path.stat().st_size:
        try:
            ours = _ABOUT in (pq.read_schema(path).metadata or {})
        except (pa.ArrowException, OSError):
            ours = False
        if not ours:
            raise DataError(f"{path} exists and is no gallery: choose another name, or remove it")
    check_place(path)
    return path


def check_weights(about: Mapping[str, Any], file: Path) -> None:
    """CheckpointError unless a checkpoint holds the weights that a gallery was made with."""
    if sha256(file) != about["sha256"]:
        raise CheckpointError(
            f"the gallery was made with other weights than {file} holds now, and their embeddings can't be "
            f"compared: build it again with tapetum gallery {file.parent.parent} GALLERY.parquet, or name "
            "the run that made it with run=DIR"
        )


def sha256(file: Path) -> str:
    """Of a file's bytes."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


_AGAIN = "Build it again: tapetum gallery RUN GALLERY.parquet"


def _about(schema: pa.Schema, path: Path) -> dict[str, Any]:
    written = (schema.metadata or {}).get(_ABOUT)
    if written is None:
        raise DataError(
            f"{path} is a table, but no gallery: make one with tapetum gallery RUN {path.stem}.parquet"
        )
    try:
        about = json.loads(written)
    except ValueError as error:
        raise DataError(
            f"{path} is damaged, what it says of itself can't be read: {error}. {_AGAIN}"
        ) from error
    lacking = [key for key in _KEYS if key not in about] if isinstance(about, dict) else list(_KEYS)
    if not lacking and about["format"] != FORMAT:
        raise DataError(f"{path} has gallery format {about['format']}, this version reads {FORMAT}. {_AGAIN}")
    if lacking:
        raise DataError(f"{path} is damaged: it does not say its {', '.join(lacking)}. {_AGAIN}")
    found: dict[str, Any] = about
    return found


def _check(gallery: Gallery, path: Path) -> None:
    """DataError for what can't be searched."""
    vectors = gallery.embeddings
    if not len(vectors):
        raise DataError(f"{path}: a gallery without images finds nothing. {_AGAIN}")
    if vectors.shape[1] != gallery.about["dimension"]:
        raise DataError(
            f"{path}: embeddings of {vectors.shape[1]} numbers, where it says {gallery.about['dimension']}. "
            f"{_AGAIN}"
        )
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= LENGTH_TOLERANCE))
    if len(wrong):
        raise DataError(
            f"{path}: {len(wrong)} of its {len(vectors)} embeddings have no length of 1, the first is row "
            f"{wrong[0]} with {lengths[wrong[0]]:g}. {_AGAIN}"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
