"""Answers in, figures out: of judged images a detector's, of conversations how right the answers are.

A table of judged images has the columns of a detector's predictions, and serves wherever these do; one of
conversations has those of `CONVERSATIONS`.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError
from ..metrics.answers import answer_metrics, answer_scores, normalized
from ..metrics.intervals import bootstrap, wilson
from .generators import subsets
from .predictions import DETECTION, check_predictions, fitting_columns, read_parquet

JUDGED = pa.schema(
    [
        *DETECTION,
        pa.field("text", pa.string(), nullable=False),
        pa.field("valid", pa.bool_(), nullable=False),
        pa.field("log_likelihoods", pa.list_(pa.float32()), nullable=False),
        pa.field("nll", pa.float64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
    ]
)
"""log_likelihoods: of the answer of a real image and of a generated one. nll and tokens: of the right one."""
CONVERSATIONS = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("nll", pa.float64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
    ]
)
BASELINE = b"tapetum.answer_prior"
"""Key of a table's metadata: each question of train and its most frequent answer, as JSON; `` for others."""
SCORES = ("exact_match", "token_f1", "rouge_l")
Interval = tuple[float, float]


def is_judged(table: pa.Table) -> bool:
    """Whether images were asked whether they are real, and have labels."""
    return "label" in table.column_names


def read_answers(path: Path) -> pa.Table:
    """Answers from a parquet file, checked; its metadata is kept.

    Raises DataError if the file is absent, is no parquet file or holds something else.
    """
    table = read_parquet(path)
    schema = JUDGED if is_judged(table) else CONVERSATIONS
    columns, problems = fitting_columns(table, schema)
    if problems:
        raise DataError(
            f"{path} is not a table of answers: {'; '.join(problems)}. Columns there: "
            f"{', '.join(table.column_names) or 'none'}. Run `tapetum evaluate RUN` to write it anew."
        )
    checked = pa.Table.from_arrays(columns, schema=schema.with_metadata(table.schema.metadata))
    if "data" in table.column_names:
        checked = checked.append_column("data", table["data"].cast(pa.string()))
    if is_judged(table):
        check_predictions(checked, str(path))
    broken = np.flatnonzero(~np.isfinite(checked["nll"].to_numpy()))
    if len(broken):
        raise DataError(f"{path}: the likelihood of {checked['path'][int(broken[0])]} is not finite")
    return checked


def of_likelihood(table: pa.Table) -> dict[str, float]:
    """`loss`, the right answers' negative log-likelihood a token, and `perplexity`; nothing of none."""
    tokens = int(pc.sum(table["tokens"]).as_py() or 0)
    if not tokens:
        return {}
    loss = float(pc.sum(table["nll"]).as_py()) / tokens
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def of_generated(table: pa.Table, answers: Sequence[str]) -> dict[str, float]:
    """Of answers that were written to judged images, over all and under `generator/NAME/`.

    `generated_accuracy`, `generated_precision`, `generated_recall`, `generated_f1` of class generated, where
    an answer that is neither is wrong whatever the image; `invalid`, the share of such answers, and
    `generated_accuracy_valid` without them (NaN where there are no others).
    """
    if not len(table):
        return {}
    said = np.array([_number(text, answers) for text in table["text"].to_pylist()])
    labels = table["label"].to_numpy()
    found = _written(said, labels)
    for subset in subsets(table):
        own = _written(said[subset.rows], labels[subset.rows])
        prefix = f"generator/{subset.metric_name}/"
        found |= {prefix + name: own[name] for name in ("generated_accuracy", "invalid")}
    return found


def of_conversations(table: pa.Table) -> dict[str, float]:
    """`SCORES` in [0, 1] of the answers that were written, and `of_likelihood`; nothing of an empty table.

    Under `most_frequent/` the scores of the most frequent answer in train, and under
    `most_frequent_of_question/` those of the most frequent one to the same question: what has to be beaten.
    """
    if not len(table):
        return {}
    texts, answers = table["text"].to_pylist(), table["answer"].to_pylist()
    questions = table["question"].to_pylist()
    found = {**of_likelihood(table), **answer_metrics(texts, answers)}
    prior = answer_prior(table)
    if prior:
        one = [prior[""]] * len(table)
        found |= {f"most_frequent/{name}": value for name, value in answer_metrics(one, answers).items()}
        each = [prior.get(question, prior[""]) for question in questions]
        found |= {
            f"most_frequent_of_question/{name}": value
            for name, value in answer_metrics(each, answers).items()
        }
    return found


def by_question(table: pa.Table, most: int = 20) -> dict[str, tuple[int, float]]:
    """Question → (how often it was asked, its exact match), the most frequent ones first."""
    right = answer_scores(table["text"].to_pylist(), table["answer"].to_pylist())["exact_match"]
    grouped: dict[str, list[float]] = defaultdict(list)
    for question, one in zip(table["question"].to_pylist(), right, strict=True):
        grouped[question].append(one)
    ordered = sorted(grouped.items(), key=lambda item: (-len(item[1]), item[0]))
    return {question: (len(values), sum(values) / len(values)) for question, values in ordered[:most]}


def intervals(table: pa.Table, *, samples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """95 % confidence intervals of conversations: Wilson's for exact_match, the bootstrap for the others."""
    if not len(table):
        return {}
    scores = answer_scores(table["text"].to_pylist(), table["answer"].to_pylist())
    bounds = {"exact_match": wilson(int(sum(scores["exact_match"])), len(table))}
    for name in ("token_f1", "rouge_l"):
        bounds[name] = bootstrap(_mean, (np.array(scores[name]),), n=samples, seed=seed)
    return bounds


def answer_prior(table: pa.Table) -> dict[str, str]:
    """Question → its most frequent answer in train, under `` that of all; empty where none is known."""
    known: Mapping[bytes, bytes] = table.schema.metadata or {}
    found: dict[str, str] = json.loads(known[BASELINE]) if BASELINE in known else {}
    return found


def prior_of(pairs: Sequence[tuple[str, str]], most: int = 1000) -> dict[str, str]:
    """The most frequent answer of (question, answer) pairs, under `` that of all; of the `most` frequent
    questions.
    """
    if not pairs:
        return {}
    grouped: dict[str, Counter[str]] = defaultdict(Counter)
    for question, answer in pairs:
        grouped[question][answer] += 1
        grouped[""][answer] += 1
    frequent = sorted(grouped, key=lambda one: (-sum(grouped[one].values()), one))[: most + 1]
    return {question: grouped[question].most_common(1)[0][0] for question in frequent}


def _number(text: str, answers: Sequence[str]) -> int:
    """0, 1, or -1 for neither."""
    said = normalized(text)
    return next((number for number, one in enumerate(answers) if said and normalized(one) == said), -1)


def _written(said: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    hit, valid = said == labels, said >= 0
    generated = labels == 1
    true = int((hit & generated).sum())
    precision = _share(true, int((said == 1).sum()))
    recall = _share(true, int(generated.sum()))
    both = precision + recall
    return {
        "generated_accuracy": float(hit.mean()),
        "generated_accuracy_valid": _share(int(hit.sum()), int(valid.sum())),
        "generated_precision": precision,
        "generated_recall": recall,
        "generated_f1": 2 * precision * recall / both if both else (math.nan if math.isnan(both) else 0.0),
        "invalid": float((~valid).mean()),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean())
