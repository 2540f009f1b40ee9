"""What a report shows of a search, line by line: classes, confusions, and every query with its neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ..metrics import retrieval as metrics
from ..metrics.intervals import wilson
from ..metrics.neighbours import junk_keys, nearest
from ..metrics.retrieval import RULE_NAMES
from .retrieval import Judged
from .retrieval_predictions import embeddings


@dataclass(frozen=True)
class Confusion:
    """counts: int64 [C, C + 1], row the true class, column the predicted one, the last for no answer.

    names: of the C classes, by ascending label. Every query is counted, those that the gallery lacks too.
    """

    names: list[str]
    counts: npt.NDArray[np.int64]


def confusion(judged: Judged) -> Confusion:
    """Who is taken for whom by the rule that was chosen."""
    counts = metrics.confusion(judged.answers, judged.rule, list(judged.classes))
    return Confusion(list(judged.classes.values()), counts.numpy())


def class_table(judged: Judged) -> pa.Table:
    """One row for each class of queries or gallery, by ascending label.

    label, class, gallery (rows that are searched), queries, unknown (those without a row to be found),
    nn_accuracy, knn_accuracy, centroid_accuracy and map_at_r over the known queries (null where there are
    none), low and high: the 95 % interval (Wilson) of the accuracy by the rule that was chosen.
    """
    answers = judged.answers
    asked, known = answers.labels.numpy(), answers.known.numpy()
    searched = judged.gallery["label"].to_numpy()
    lines = []
    for label, name in judged.classes.items():
        mine = asked == label
        own = mine & known
        count = int(own.sum())
        line: dict[str, object] = {
            "label": label,
            "class": name,
            "gallery": int((searched == label).sum()),
            "queries": int(mine.sum()),
            "unknown": int(mine.sum()) - count,
        }
        right = {rule: int(answers.hits(rule).numpy()[own].sum()) for rule in RULE_NAMES}
        for rule, short in RULE_NAMES.items():
            line[f"{short}_accuracy"] = right[rule] / count if count else None
        line["map_at_r"] = float(answers.map_at_r.numpy()[own].mean()) if count else None
        line["low"], line["high"] = wilson(right[judged.rule], count) if count else (None, None)
        lines.append(line)
    return pa.Table.from_pylist(lines, schema=_CLASSES)


def outcomes(judged: Judged) -> pa.Table:
    """One row a query, in the order of `judged.queries`.

    index, path, class; predicted (the class by the rule that was chosen, null where no gallery row was left);
    known and hit; first, the rank of the first right row, and average_precision, null for an unknown query;
    neighbours, positions in `judged.gallery` of the nearest rows, and similarities, both falling.
    """
    answers, classes = judged.answers, judged.classes
    known = answers.known.numpy()
    said = answers.predicted[judged.rule].tolist()
    rows, similarity = answers.rows.numpy(), answers.similarity.numpy()
    found = rows >= 0
    ends = np.concatenate([[0], found.sum(axis=1).cumsum()]).astype(np.int32)
    return pa.table(
        {
            "index": judged.queries["index"],
            "path": judged.queries["path"],
            "class": pa.array([classes[label] for label in answers.labels.tolist()], pa.string()),
            "predicted": pa.array([classes.get(label) for label in said], pa.string()),
            "known": pa.array(known),
            "hit": pa.array(answers.hits(judged.rule).numpy()),
            "first": pa.array(answers.first.numpy(), mask=~known),
            "average_precision": pa.array(answers.average_precision.numpy(), mask=~known),
            "neighbours": pa.ListArray.from_arrays(ends, rows[found]),
            "similarities": pa.ListArray.from_arrays(ends, similarity[found]),
        }
    )


def separation(judged: Judged) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(right, wrong): for each query the similarity of the nearest row of its class, and of any other.

    float32 [Q], NaN where the gallery has no such row (or none that is not left out). Similar embeddings of
    different classes show here even where every answer is right.
    """
    labels = judged.answers.labels
    queries, gallery = (torch.from_numpy(embeddings(side)) for side in (judged.queries, judged.gallery))
    searched = torch.from_numpy(judged.gallery["label"].to_numpy().copy())
    wrong, _ = nearest(queries, gallery, 1, exclude=(labels, searched))
    junk = None if judged.groups is None else junk_keys((labels, searched), judged.groups)
    right = torch.full((len(labels),), -math.inf)
    for label in torch.unique(labels[judged.answers.known]).tolist():
        mine, rows = labels == label, searched == label
        left_out = None if junk is None else (junk[0][mine], junk[1][rows])
        right[mine] = nearest(queries[mine], gallery[rows], 1, exclude=left_out)[0][:, 0]
    right, wrong = (side.masked_fill(side == -math.inf, math.nan) for side in (right, wrong[:, 0]))
    return right.numpy(), wrong.numpy()


_CLASSES = pa.schema(
    [
        ("label", pa.int64()),
        ("class", pa.string()),
        ("gallery", pa.int64()),
        ("queries", pa.int64()),
        ("unknown", pa.int64()),
        *((f"{short}_accuracy", pa.float64()) for short in RULE_NAMES.values()),
        ("map_at_r", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)
