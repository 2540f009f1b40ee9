"""The Predictions table: one row an image, everything that evaluation and reports will ever see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..indexes.messages import IMAGE
from ..indexes.roles import GALLERY, resolved
from ..indexes.table import Index
from ..metrics.answers import chosen
from ..metrics.thresholds import Thresholds
from .answer import Answered

DETECTION_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("path", pa.string()),
        ("split", pa.string()),
        ("label", pa.int64()),
        ("generator", pa.string()),
        ("logit", pa.float32()),
        ("probability", pa.float32()),
        ("verdict", pa.string()),
        ("band", pa.string()),
    ]
)


def detection_predictions(
    index: Index, rows: NDArray[np.int64], logits: NDArray[np.float32], thresholds: Thresholds
) -> pa.Table:
    """Predictions of Index rows int64 [n] with logits float32 [n]; a row that comes twice is kept once.

    Where several data sets were joined, the column `data` stands behind those of DETECTION_SCHEMA.
    """
    rows, first = np.unique(rows, return_index=True)
    logits = logits[first].astype(np.float32)
    probability = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    taken = index.table.take(pa.array(rows))
    generator = (
        taken.column("generator").cast(pa.string())
        if "generator" in taken.column_names
        else pa.nulls(len(rows), pa.string())
    )
    table = pa.table(
        {
            "index": rows,
            "path": taken.column("path").cast(pa.string()),
            "split": taken.column("split").cast(pa.string()),
            "label": pc.cast(taken.column("label"), pa.int64()),
            "generator": generator,
            "logit": logits,
            "probability": probability.astype(np.float32),
            "verdict": thresholds.verdict(probability),
            "band": thresholds.band(probability),
        },
        schema=DETECTION_SCHEMA,
    )
    if "data" in taken.column_names:
        table = table.append_column("data", taken.column("data").cast(pa.string()))
    return table


def retrieval_predictions(index: Index, rows: NDArray[np.int64], embeddings: NDArray[np.float32]) -> pa.Table:
    """Predictions of Index rows int64 [n] with embeddings float32 [n, D]; a row that comes twice stays once.

    `role` is the one that `indexes.roles` gives, never null; `box` is there where the Index has one, `root`
    where it has several, and `data` where several data sets were joined.
    """
    rows, first = np.unique(rows, return_index=True)
    vectors = np.ascontiguousarray(embeddings[first], np.float32)
    taken = index.table.take(pa.array(rows))
    names = np.where(resolved(index)[rows] == GALLERY, "gallery", "query")

    def text(name: str) -> pa.Array | pa.ChunkedArray:
        known = name in taken.column_names
        return taken.column(name).cast(pa.string()) if known else pa.nulls(len(rows), pa.string())

    columns = {
        "index": pa.array(rows),
        "path": text("path"),
        "split": text("split"),
        "label": pc.cast(taken.column("label"), pa.int64()),
        "class": text("class"),
        "role": pa.array(names.tolist(), pa.string()),
        "camera": text("camera"),
        "sequence": text("sequence"),
        "modality": text("modality"),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
    }
    if len(index.roots) > 1:  # the same relative path may be another file
        columns["root"] = taken.column("root")
    if "box" in taken.column_names:
        columns["box"] = taken.column("box")
    if "data" in taken.column_names:
        columns["data"] = text("data")
    return pa.table(columns)


def caption_predictions(
    index: Index,
    rows: NDArray[np.int64],
    texts: Sequence[str],
    nll: NDArray[np.float64],
    tokens: NDArray[np.int64],
) -> pa.Table:
    """Predictions of Index rows int64 [n] with a caption each; a row that comes twice is kept once.

    nll, tokens: of all of a row's references together. `data` is there where several data sets were joined.
    """
    rows, first = np.unique(rows, return_index=True)
    taken = index.table.take(pa.array(rows))
    columns = {
        "index": pa.array(rows),
        "path": taken.column("path").cast(pa.string()),
        "split": taken.column("split").cast(pa.string()),
        "text": pa.array([texts[row] for row in first], pa.string()),
        "references": taken.column("captions"),
        "nll": pa.array(nll[first], pa.float64()),
        "tokens": pa.array(tokens[first], pa.int64()),
    }
    if "data" in taken.column_names:
        columns["data"] = taken.column("data").cast(pa.string())
    return pa.table(columns)


def answer_predictions(
    index: Index, found: Answered, thresholds: Thresholds, answers: Sequence[str]
) -> pa.Table:
    """Predictions of images that were asked whether they are real: the columns of a detector's, and `text`,
    `valid` (whether that is one of the answers), `log_likelihoods` (of both) and `nll`, `tokens` of the right
    one. A row that comes twice is kept once.
    """
    assert found.log_likelihoods is not None, "answers were judged"
    scores = found.log_likelihoods.astype(np.float32)
    table = detection_predictions(index, found.rows, scores[:, 1] - scores[:, 0], thresholds)
    _, first = np.unique(found.rows, return_index=True)
    texts = [found.texts[row] for row in first]
    columns = {
        "text": pa.array(texts, pa.string()),
        "valid": pa.array([chosen(text, answers) is not None for text in texts], pa.bool_()),
        "log_likelihoods": pa.array(scores[first].tolist(), pa.list_(pa.float32())),
        "nll": pa.array(found.nll[first], pa.float64()),
        "tokens": pa.array(found.tokens[first], pa.int64()),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def conversation_predictions(index: Index, found: Answered) -> pa.Table:
    """Predictions of conversations: `question` (the last one), the right `answer`, `text`, and `nll` and
    `tokens` of the right one. A row that comes twice is kept once.
    """
    rows, first = np.unique(found.rows, return_index=True)
    taken = index.table.take(pa.array(rows))
    columns = {
        "index": pa.array(rows),
        "path": taken.column("path").cast(pa.string()),
        "split": taken.column("split").cast(pa.string()),
        "question": pa.array([_asked(one) for one in taken.column("messages").to_pylist()], pa.string()),
        "answer": pa.array([found.answers[row] for row in first], pa.string()),
        "text": pa.array([found.texts[row] for row in first], pa.string()),
        "nll": pa.array(found.nll[first], pa.float64()),
        "tokens": pa.array(found.tokens[first], pa.int64()),
    }
    if "data" in taken.column_names:
        columns["data"] = taken.column("data").cast(pa.string())
    return pa.table(columns)


def _asked(messages: Sequence[Mapping[str, str]]) -> str:
    """The last question, without the marks of its images."""
    asked = [one["content"] for one in messages if one["role"] == "user"]
    return asked[-1].replace(IMAGE, " ").strip() if asked else ""


def write_predictions(table: pa.Table, path: Path) -> None:
    """Parquet, written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    pq.write_table(table, unfinished)
    unfinished.replace(path)
