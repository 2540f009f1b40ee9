"""Embeddings of queries and of a gallery in, figures out: who finds what, how surely, and in which health."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ..errors import ConfigError, DataError, did_you_mean
from ..metrics import retrieval as metrics
from ..metrics.embedding_health import embedding_health
from ..metrics.intervals import bootstrap, wilson
from ..metrics.open_set import open_set_figures
from ..metrics.retrieval import RANKINGS, RECALL_AT, RULE_NAMES, RULES, Answers, Rule
from .generators import metric_name
from .retrieval_predictions import BESIDE, check_retrieval_predictions, embeddings

Exclude = Literal["camera", "sequence"]
Interval = tuple[float, float]
Values = npt.NDArray[np.float64]

MOST_CLASSES = 100
"""Up to so many classes have figures of their own under `class/…`; a class table always has all of them."""


@dataclass(frozen=True)
class Judged:
    """One split's queries, the gallery they searched, and what it answered.

    queries, gallery: tables as `check_retrieval_predictions` gives them. answers: row n is query n, and its
    rows are positions in `gallery`. classes: label → name, ascending, of both. rule, k: how it was decided.
    exclude: what of a query's own class was left out for it.
    """

    queries: pa.Table
    gallery: pa.Table
    answers: Answers
    classes: Mapping[int, str]
    rule: Rule
    k: int
    exclude: Exclude | None = None

    @property
    def groups(self) -> tuple[Tensor, Tensor] | None:
        """(int64 [Q], int64 [N]) codes of what `exclude` goes by, None without it."""
        return None if self.exclude is None else _groups(self.queries, self.gallery, self.exclude)


def judge(
    predictions: pa.Table,
    gallery: pa.Table | None = None,
    *,
    rule: Rule = "knn",
    k: int = 10,
    exclude: Exclude | None = None,
) -> Judged:
    """Search the gallery for every query.

    predictions: a table of embeddings whose rows of the role query ask. gallery: the table whose rows of the
    role gallery are searched; None where they are in `predictions`. rule: how a query's class is decided
    (`metrics.retrieval.answer`), by the `k` nearest rows for `knn`. exclude: leave out, for each query, the
    rows of its own class from its own camera or sequence; null is not known and leaves nothing out.
    Raises DataError for an empty role, an image that is on both sides, embeddings of two sizes, a class with
    two names, and `exclude` without a single value of that column; ConfigError for a `rule`, `k` or `exclude`
    that is none.
    """
    if rule not in RULES:
        raise ConfigError(f"rule={rule}{did_you_mean(str(rule), RULES)}: the rules are {', '.join(RULES)}")
    if exclude not in (None, *get_args(Exclude)):
        raise ConfigError(f"exclude={exclude}: rows are left out by camera, by sequence, or not (null)")
    if k < 1:
        raise ConfigError(f"k={k}: at least one neighbour votes")
    queries, searched = _sides(predictions, gallery)
    check_disjoint(queries, searched)
    classes = _classes(queries, searched)
    sizes = [side["embedding"].type.list_size for side in (queries, searched)]
    if sizes[0] != sizes[1]:
        raise DataError(
            f"queries of {sizes[0]} and a gallery of {sizes[1]} dimensions: they are not of one model; "
            "embed both with the same run"
        )
    answers = metrics.answer(
        torch.from_numpy(embeddings(queries)),
        _labels(queries),
        torch.from_numpy(embeddings(searched)),
        _labels(searched),
        k=k,
        groups=None if exclude is None else _groups(queries, searched, exclude),
    )
    return Judged(queries, searched, answers, classes, rule, k, exclude)


def judge_splits(predictions: Mapping[str, pa.Table], decision: Mapping[str, Any]) -> dict[str, Judged]:
    """Every split but `gallery`, which is searched by those without gallery rows of their own.

    predictions: part → table, as a run writes them. decision: `rule`, `k` and `exclude` as in
    `model.decision`; what it leaves out is as in `judge`, and so is what raises.
    """
    found = {}
    for split, table in predictions.items():
        if split != "gallery":
            own = pc.any(pc.equal(table["role"], "gallery")).as_py()
            found[split] = judge(table, None if own else predictions.get("gallery"), **decision)
    return found


def evaluate(
    predictions: pa.Table,
    gallery: pa.Table | None = None,
    *,
    rule: Rule = "knn",
    k: int = 10,
    exclude: Exclude | None = None,
) -> dict[str, float]:
    """The `figures` of what `judge` finds, flat and without the split's name in front."""
    return figures(judge(predictions, gallery, rule=rule, k=k, exclude=exclude))


def figures(judged: Judged) -> dict[str, float]:
    """Every figure; NaN where undefined.

    Those of `metrics.retrieval.figures`, over the queries whose class the gallery has; `accuracy` and
    `balanced_accuracy` of the rule that was chosen; `class/<name>/…` where at most 100 classes are asked for;
    `open_set/…` where there are unknown queries; `embedding/…`, the health of the queries' embeddings, where
    there are two. Raises DataError where two classes would share a metric's name.
    """
    answers = judged.answers
    found = metrics.figures(answers, _metric_names(judged))
    chosen = RULE_NAMES[judged.rule]
    for name in ("accuracy", "balanced_accuracy"):
        found[name] = found[f"{chosen}_{name}"]
    found |= open_set_figures(answers.similarity[:, 0], answers.hits(judged.rule), answers.known)
    if len(judged.queries) > 1:
        found |= embedding_health(torch.from_numpy(embeddings(judged.queries)), answers.labels).figures()
    return found


def intervals(judged: Judged, *, samples: int | None = None, seed: int = 0) -> dict[str, Interval]:
    """95 % confidence intervals (low, high) of the figures that are shares or means over queries.

    Wilson's for the accuracies, those of each class too, and recall_at_k; the percentile bootstrap over
    queries for map, map_at_r, r_precision, minp and the balanced accuracies, `samples` resamples from `seed`
    (None: 1000, above 20,000 queries fewer, never below 200). The gallery is taken as given. Nothing has an
    interval where no query is known.
    """
    answers = judged.answers
    known = answers.known.numpy()
    count = int(known.sum())
    if not count:
        return {}
    first = answers.first.numpy()[known]
    bounds = {f"recall_at_{k}": wilson(int((first <= k).sum()), count) for k in RECALL_AT}
    draws = samples or min(1000, max(200, 20_000_000 // count))
    for name, field in RANKINGS.items():
        values = getattr(answers, field).numpy()[known]
        bounds[name] = bootstrap(_mean, (values,), n=draws, seed=seed)
    _, member = np.unique(answers.labels.numpy()[known], return_inverse=True)
    names = _metric_names(judged) or {}
    labels = answers.labels.numpy()[known]
    for rule, name in RULE_NAMES.items():
        hit = answers.hits(rule).numpy()[known]
        bounds[f"{name}_accuracy"] = wilson(int(hit.sum()), count)
        bounds[f"{name}_balanced_accuracy"] = bootstrap(_balanced, (hit, member), n=draws, seed=seed)
        for label in np.unique(labels).tolist() if names else ():
            own = hit[labels == label]
            bounds[f"class/{names[label]}/{name}_accuracy"] = wilson(int(own.sum()), len(own))
    for name in ("accuracy", "balanced_accuracy"):
        bounds[name] = bounds[f"{RULE_NAMES[judged.rule]}_{name}"]
    return bounds


def check_disjoint(queries: pa.Table, gallery: pa.Table) -> None:
    """Raise DataError, naming rows, where a query is in the gallery too: it would find itself.

    The same image is the same path (in the same root and data set, where the tables have these columns) and,
    where crops of files are embedded, the same box; a whole file holds each of its crops.
    """
    place = [name for name in BESIDE if name != "box" and name in queries.column_names]
    place = [name for name in place if name in gallery.column_names]
    seen: dict[tuple[object, ...], set[object]] = {}
    for key, box in zip(_keys(gallery, place), _boxes(gallery), strict=True):
        seen.setdefault(key, set()).add(box)
    both = [
        row
        for row, (key, box) in enumerate(zip(_keys(queries, place), _boxes(queries), strict=True))
        if key in seen and (box is None or box in seen[key] or None in seen[key])
    ]
    if both:
        paths = queries["path"].take(pa.array(both[:3])).to_pylist()
        raise DataError(
            f"{len(both)} of {len(queries)} queries are in the gallery too, so each would find itself: "
            f"{', '.join(paths)}{', …' if len(both) > 3 else ''} (query rows {both[:3]}). Give every image "
            "one role, or remove it from one of the two sides"
        )


def _sides(predictions: pa.Table, gallery: pa.Table | None) -> tuple[pa.Table, pa.Table]:
    """(queries, gallery), both checked and not empty."""
    predictions = check_retrieval_predictions(predictions)
    asking = predictions.filter(pc.equal(predictions["role"], "query"))
    searched = predictions.filter(pc.equal(predictions["role"], "gallery"))
    if gallery is not None:
        if len(searched):
            raise DataError(
                f"{len(searched)} of {len(predictions)} predictions have the role gallery, but a gallery is "
                "given beside them: give one of the two"
            )
        gallery = check_retrieval_predictions(gallery, "the gallery")
        searched = gallery.filter(pc.equal(gallery["role"], "gallery"))
    for role, side in (("query", asking), ("gallery", searched)):
        if not len(side):
            raise DataError(f"no row has the role {role}: a search needs queries and a gallery")
    return asking, searched


def _classes(queries: pa.Table, gallery: pa.Table) -> dict[int, str]:
    """Label → name, ascending; the number in words where there is no name."""
    both = pa.concat_tables([side.select(["label", "class"]) for side in (queries, gallery)])
    names: dict[int, set[str]] = {}
    for pair in both.group_by(["label", "class"]).aggregate([]).sort_by("label").to_pylist():
        names.setdefault(pair["label"], set()).update(() if pair["class"] is None else (pair["class"],))
    found: dict[int, str] = {}
    owner: dict[str, int] = {}
    for label, called in names.items():
        if len(called) > 1:
            raise DataError(
                f"label {label} is called {', '.join(sorted(called))}: queries and gallery must be of one "
                "index"
            )
        found[label] = called.pop() if called else str(label)
        other = owner.setdefault(found[label], label)
        if other != label:
            raise DataError(
                f"labels {other} and {label} are both called {found[label]!r}: they are two classes"
            )
    return found


def _metric_names(judged: Judged) -> dict[int, str] | None:
    """Label → name in a metric's name, or None where there are too many classes."""
    asked = torch.unique(judged.answers.labels[judged.answers.known]).tolist()
    if len(asked) > MOST_CLASSES:
        return None
    names = {label: metric_name(judged.classes[label]) for label in asked}
    owner: dict[str, str] = {}
    for label, name in names.items():
        other = owner.setdefault(name, judged.classes[label])
        if not name or other != judged.classes[label]:
            raise DataError(
                f"the classes {other!r} and {judged.classes[label]!r} are both {name!r} in metrics; rename "
                "one of them in the data (allowed: letters, digits, `_`, `.`, `-`, space)"
            )
    return names


def _labels(side: pa.Table) -> Tensor:
    return torch.from_numpy(side["label"].to_numpy().copy())


def _groups(queries: pa.Table, gallery: pa.Table, column: Exclude) -> tuple[Tensor, Tensor]:
    """(int64 [Q], int64 [N]) codes of the names in a column, -1 for null."""
    names = pc.unique(pa.concat_arrays([side[column].combine_chunks() for side in (queries, gallery)]))
    names = names.drop_null()
    if not len(names):
        raise DataError(
            f"exclude={column}, but no image has a {column}: leave exclude out, or name the {column}s"
        )
    of_queries, of_gallery = (
        torch.from_numpy(pc.fill_null(pc.index_in(side[column], names), -1).to_numpy().astype(np.int64))
        for side in (queries, gallery)
    )
    return of_queries, of_gallery


def _keys(table: pa.Table, place: list[str]) -> list[tuple[object, ...]]:
    return list(zip(*(table[name].to_pylist() for name in ("path", *place)), strict=True))


def _boxes(table: pa.Table) -> list[tuple[float, ...] | None]:
    if "box" not in table.column_names:
        return [None] * len(table)
    return [None if box is None else tuple(box) for box in table["box"].to_pylist()]


def _mean(values: Values) -> float:
    return float(values.mean())


def _balanced(hit: npt.NDArray[np.bool_], member: npt.NDArray[np.int64]) -> float:
    """Mean accuracy of the classes that are there."""
    counts = np.bincount(member)
    right = np.bincount(member, weights=hit)
    return float((right[counts > 0] / counts[counts > 0]).mean()) if len(hit) else math.nan
