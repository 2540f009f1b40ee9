"""The Predictions table: what inference wrote and everything after it reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import DataError
from .generators import DATA

DETECTION = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("generator", pa.string(), nullable=True),
        pa.field("logit", pa.float32(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("band", pa.string(), nullable=False),
    ]
)


def read_predictions(path: Path) -> pa.Table:
    """A detector's predictions from a parquet file, checked; columns as in `DETECTION`, others are left out.

    Raises DataError if the file is absent, is no parquet file or holds something else.
    """
    return check_predictions(read_parquet(path), str(path))


def read_parquet(path: Path) -> pa.Table:
    """A parquet file of predictions, whatever its columns; DataError if it is absent or no parquet file."""
    if not path.is_file():
        raise DataError(f"no predictions at {path}: run `tapetum evaluate RUN`, which writes them")
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} is not a readable parquet file ({error}); delete it and run `tapetum evaluate RUN`"
        ) from error


def check_predictions(table: pa.Table, source: str = "predictions") -> pa.Table:
    """The table with exactly the columns of `DETECTION`, in that order and with those types.

    `data`, which joined data sets have, is kept behind them. Only the spelling of a type may differ (large or
    dictionary-encoded strings, a generator column without a value). Raises DataError, naming `source`, with
    every problem found.
    """
    columns, problems = fitting_columns(table, DETECTION)
    if not problems:
        checked = pa.Table.from_arrays(columns, schema=DETECTION)
        problems = _value_problems(checked)
        if not problems and DATA in table.column_names:
            checked = checked.append_column(DATA, table[DATA].cast(pa.string()))
        if not problems:
            return checked
    found = ", ".join(table.column_names) or "none"
    raise DataError(
        f"{source} is not a table of a detector's predictions: {'; '.join(problems)}. "
        f"Columns there: {found}. Run `tapetum evaluate RUN` to write it anew."
    )


def fitting_columns(table: pa.Table, schema: pa.Schema) -> tuple[list[pa.ChunkedArray], list[str]]:
    """The columns of `schema` with its types, and what is wrong with those that are missing here."""
    problems: list[str] = []
    columns: list[pa.ChunkedArray] = []
    for field in schema:
        if field.name not in table.column_names:
            problems.append(f"column {field.name!r} is missing")
            continue
        column = table[field.name]
        if column.type != field.type and not _same_kind(column.type, field):
            problems.append(f"column {field.name!r} is {column.type}, expected {field.type}")
            continue
        column = column.cast(field.type)
        if not field.nullable and column.null_count:
            problems.append(f"column {field.name!r} has {column.null_count} empty cells")
        columns.append(column)
    return columns, problems


def _same_kind(found: pa.DataType, field: pa.Field) -> bool:
    if pa.types.is_null(found):
        return bool(field.nullable)
    if pa.types.is_dictionary(found):
        found = found.value_type
    return field.type == pa.string() and bool(pa.types.is_string(found) or pa.types.is_large_string(found))


def _value_problems(table: pa.Table) -> list[str]:
    problems: list[str] = []
    labels = set(pc.unique(table["label"]).to_pylist())
    if not labels <= {0, 1}:
        odd = ", ".join(str(value) for value in sorted(labels - {0, 1})[:5])
        problems.append(f"label is {odd} in places, expected 0 (real) or 1 (generated)")
    logit = table["logit"].to_numpy()
    broken = np.flatnonzero(~np.isfinite(logit))
    if len(broken):
        path = table["path"][int(broken[0])].as_py()
        problems.append(f"{len(broken)} logits are not finite, the first is {logit[broken[0]]} for {path}")
    probability = table["probability"].to_numpy()
    if not np.all((probability >= 0) & (probability <= 1)):
        problems.append("probability leaves [0, 1]")
    repeated = len(table) - pc.count_distinct(table["index"]).as_py()
    if repeated:
        problems.append(f"{repeated} rows repeat an index; every image counts once")
    if pc.any(pc.equal(table["generator"], "")).as_py():
        problems.append("generator is an empty string in places, expected a name or null")
    return problems
