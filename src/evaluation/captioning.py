"""Captions and their references in, figures out: likelihood, and how near the words come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError
from ..metrics.captions import caption_metrics, caption_scores
from ..metrics.exact import matches
from ..metrics.intervals import bootstrap, wilson
from .predictions import fitting_columns, read_parquet

CAPTIONING = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("references", pa.list_(pa.string()), nullable=False),
        pa.field("nll", pa.float64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
    ]
)
"""Of the columns `nll` and `tokens` speak of all references of an image together."""
BASELINE = b"tapetum.most_frequent_caption"
"""Key of the table's metadata: the caption that is most often in train; absent without training data."""
SCORES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "exact_match")
Interval = tuple[float, float]
Values = npt.NDArray[np.float64]


def read_caption_predictions(path: Path) -> pa.Table:
    """Captions from a parquet file, checked as `check_caption_predictions` does.

    Raises DataError if the file is absent, is no parquet file or holds something else.
    """
    return check_caption_predictions(read_parquet(path), str(path))


def check_caption_predictions(table: pa.Table, source: str = "predictions") -> pa.Table:
    """The table with exactly the columns of `CAPTIONING`, and `data` where it has it; its metadata is kept.

    Raises DataError, naming `source`, with every problem found.
    """
    columns, problems = fitting_columns(table, CAPTIONING)
    if not problems:
        checked = pa.Table.from_arrays(columns, schema=CAPTIONING.with_metadata(table.schema.metadata))
        if "data" in table.column_names:
            checked = checked.append_column("data", table["data"].cast(pa.string()))
        problems = _value_problems(checked)
        if not problems:
            return checked
    found = ", ".join(table.column_names) or "none"
    raise DataError(
        f"{source} is not a table of captions: {'; '.join(problems)}. Columns there: {found}. Run "
        "`tapetum evaluate RUN` to write it anew."
    )


def figures(table: pa.Table) -> dict[str, float]:
    """`loss` a token and `perplexity`, `SCORES` in [0, 1] (cider as coco-caption has it), and `references`,
    their number an image.

    Under `most_frequent/` the same scores of the most frequent caption of the data's train split, given to
    every image: what has to be beaten. Nothing of an empty table.
    """
    if not len(table):
        return {}
    texts, references = table["text"].to_pylist(), table["references"].to_pylist()
    tokens = int(pc.sum(table["tokens"]).as_py())
    loss = float(pc.sum(table["nll"]).as_py()) / tokens if tokens else math.nan
    found = {"loss": loss, "perplexity": _exp(loss), **_scores(texts, references)}
    found["references"] = len(table["references"].combine_chunks().flatten()) / len(table)
    baseline = most_frequent(table)
    if baseline is not None:
        beside = _scores([baseline] * len(table), references)
        found |= {f"most_frequent/{name}": value for name, value in beside.items()}
    return found


def intervals(table: pa.Table, *, samples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """95 % confidence intervals (low, high): Wilson's for exact_match, the percentile bootstrap over images
    for loss, rouge_l and cider (whose document frequencies are taken as given).
    """
    if not len(table):
        return {}
    texts, references = table["text"].to_pylist(), table["references"].to_pylist()
    scores = caption_scores(texts, references)
    right = matches(texts, references)
    bounds = {name: bootstrap(_mean, (scores[name],), n=samples, seed=seed) for name in ("rouge_l", "cider")}
    nll, tokens = table["nll"].to_numpy(), table["tokens"].to_numpy()
    bounds["loss"] = bootstrap(_ratio, (nll, tokens), n=samples, seed=seed)
    bounds["exact_match"] = wilson(sum(right), len(right))
    return bounds


def most_frequent(table: pa.Table) -> str | None:
    """The most frequent caption of the data's train split, None where the table does not say."""
    known: Mapping[bytes, bytes] = table.schema.metadata or {}
    return known[BASELINE].decode() if BASELINE in known else None


def _scores(texts: list[str], references: list[list[str]]) -> dict[str, float]:
    right = matches(texts, references)
    return {**caption_metrics(texts, references), "exact_match": sum(right) / len(right)}


def _mean(values: Values) -> float:
    return float(values.mean())


def _ratio(nll: Values, tokens: npt.NDArray[np.int64]) -> float:
    return float(nll.sum() / tokens.sum()) if tokens.sum() else math.nan


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf  # the largest that a float holds


def _value_problems(table: pa.Table) -> list[str]:
    problems: list[str] = []
    repeated = len(table) - pc.count_distinct(table["index"]).as_py()
    if repeated:
        problems.append(f"{repeated} rows repeat an index; every image counts once")
    bare = pc.sum(pc.equal(pc.list_value_length(table["references"]), 0)).as_py() or 0
    if bare:
        problems.append(f"{bare} images have no reference")
    broken = np.flatnonzero(~np.isfinite(table["nll"].to_numpy()))
    if len(broken):
        path = table["path"][int(broken[0])].as_py()
        problems.append(f"{len(broken)} likelihoods are not finite, the first is that of {path}")
    return problems
