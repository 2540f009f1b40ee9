"""The Predictions table of retrieval: an embedding an image, in the role it has in the search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError
from ..metrics.neighbours import LENGTH_TOLERANCE
from .predictions import fitting_columns, read_parquet

RETRIEVAL = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("class", pa.string(), nullable=True),
        pa.field("role", pa.string(), nullable=False),
        pa.field("camera", pa.string(), nullable=True),
        pa.field("sequence", pa.string(), nullable=True),
        pa.field("modality", pa.string(), nullable=True),
    ]
)
"""Every column but the last, `embedding`: fixed_size_list<float32>[D], of length 1."""
BESIDE = ("box", "root", "data")
"""Columns that are kept where they are there: what of a file was looked at, and which file of that name."""
ROLES = ("gallery", "query")


def read_retrieval_predictions(path: Path) -> pa.Table:
    """Embeddings from a parquet file, checked as `check_retrieval_predictions` does.

    Raises DataError if the file is absent, is no parquet file or holds something else.
    """
    return check_retrieval_predictions(read_parquet(path), str(path))


def check_retrieval_predictions(table: pa.Table, source: str = "predictions") -> pa.Table:
    """The table with the columns of `RETRIEVAL`, `embedding`, and those of `BESIDE` that it has.

    Only the spelling of a type may differ (large or dictionary-encoded strings, an empty column without a
    type). Raises DataError, naming `source`, with every problem found.
    """
    columns, problems = fitting_columns(table, RETRIEVAL)
    problems += _embedding_problems(table)
    if not problems:
        checked = pa.Table.from_arrays(columns, schema=RETRIEVAL)
        for name in ("embedding", *BESIDE):
            if name in table.column_names:
                checked = checked.append_column(name, table[name])
        problems = _value_problems(checked)
        if not problems:
            return checked
    found = ", ".join(table.column_names) or "none"
    raise DataError(
        f"{source} is not a table of embeddings: {'; '.join(problems)}. Columns there: {found}. Run "
        "`tapetum evaluate RUN` to write it anew."
    )


def embeddings(table: pa.Table) -> npt.NDArray[np.float32]:
    """float32 [N, D], a copy."""
    column = table["embedding"].combine_chunks()
    flat: npt.NDArray[np.float32] = column.flatten().to_numpy()
    return flat.reshape(len(table), column.type.list_size).copy()


def _embedding_problems(table: pa.Table) -> list[str]:
    if "embedding" not in table.column_names:
        return ["column 'embedding' is missing"]
    column = table["embedding"]
    if not pa.types.is_fixed_size_list(column.type) or column.type.value_type != pa.float32():
        return [f"column 'embedding' is {column.type}, expected fixed_size_list<float32>[D]"]
    if column.type.list_size == 0:
        return ["column 'embedding' has no dimension"]
    empty = column.null_count + column.combine_chunks().flatten().null_count
    return [f"column 'embedding' has {empty} empty cells"] if empty else []


def _value_problems(table: pa.Table) -> list[str]:
    problems: list[str] = []
    odd = sorted(set(pc.unique(table["role"]).to_pylist()) - set(ROLES))
    if odd:
        problems.append(f"role is {odd[0]!r} in places, expected 'gallery' or 'query'")
    repeated = len(table) - pc.count_distinct(table["index"]).as_py()
    if repeated:
        problems.append(f"{repeated} rows repeat an index; every image counts once")
    negative = pc.sum(pc.less(table["label"], 0)).as_py()
    if negative:
        problems.append(f"{negative} labels are negative")
    lengths = np.linalg.norm(embeddings(table), axis=1)
    for what, wrong in (
        ("not finite", ~np.isfinite(lengths)),
        ("not L2-normalised", np.abs(lengths - 1) > LENGTH_TOLERANCE),
    ):
        rows = np.flatnonzero(wrong)
        if len(rows):
            path = table["path"][int(rows[0])].as_py()
            length = lengths[rows[0]]
            problems.append(
                f"{len(rows)} embeddings are {what}, the first is of {path} (length {length:.4g})"
            )
            break
    return problems
