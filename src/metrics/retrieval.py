"""Figures of retrieval: rankings, three ways to decide, and what to do with queries that the gallery lacks.

All rankings are exact. A query whose label no gallery row has (or only rows that are left out for it) is
*unknown*: it is counted in `unknown_queries`, and every other closed-set figure is over the known queries
alone; `coverage` is their share. What becomes of the unknown ones is the question of `open_set`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .neighbours import (
    TILE,
    Keys,
    check_vectors,
    junk_keys,
    leave_out,
    pack,
    query_blocks,
    similarities,
    unpack,
    up,
)

Rule = Literal["nearest", "knn", "centroid"]
RULES: tuple[Rule, ...] = get_args(Rule)
RULE_NAMES: Mapping[Rule, str] = {"nearest": "nn", "knn": "knn", "centroid": "centroid"}
"""How a rule is called in a metric's name: `nn_accuracy`, `knn_accuracy`, `centroid_accuracy`."""
RECALL_AT = (1, 5, 10)
RANKINGS: Mapping[str, str] = {
    "map": "average_precision",
    "map_at_r": "map_at_r",
    "r_precision": "r_precision",
    "minp": "inp",
}
"""A figure's name, and the field of `Answers` that it is the mean of."""
SORTED_BYTES = 64 * 2**20
_BYTES_A_PAIR = 28  # similarity, key, sorted key and the order of the sort
_SUMMED = 4096  # rows that are converted to double precision at once


@dataclass(frozen=True)
class Answers:
    """What the gallery says to each query; tensors of first dimension Q, on the CPU.

    labels: int64 [Q]. known: bool [Q], whether the gallery holds a row to be found. similarity float32 [Q, K]
    and rows int64 [Q, K]: the nearest rows, K = max(k, 10), -inf and -1 where there are no more. first: int64
    [Q], rank of the first right row from 1, 0 for an unknown query. average_precision, map_at_r, r_precision
    and inp: float64 [Q], NaN for an unknown query. predicted: the label that each rule gives, int64 [Q], for
    unknown queries too, -1 where no gallery row is left. gallery: its number of rows.
    """

    labels: Tensor
    known: Tensor
    similarity: Tensor
    rows: Tensor
    first: Tensor
    average_precision: Tensor
    map_at_r: Tensor
    r_precision: Tensor
    inp: Tensor
    predicted: Mapping[Rule, Tensor]
    gallery: int

    def hits(self, rule: Rule) -> Tensor:
        """bool [Q]: whether the rule names the query's label; never true of an unknown query."""
        return (self.predicted[rule] == self.labels) & self.known


def retrieval_metrics(
    queries: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    *,
    k: int = 10,
    groups: Keys | None = None,
    classes: Mapping[int, str] | None = None,
) -> dict[str, float]:
    """The figures of `answer`, by name (`figures`)."""
    answers = answer(queries, query_labels, gallery, gallery_labels, k=k, groups=groups)
    return figures(answers, classes)


@torch.no_grad()
def answer(
    queries: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    *,
    k: int = 10,
    groups: Keys | None = None,
    chunk_bytes: int = SORTED_BYTES,
) -> Answers:
    """Rank the whole gallery for every query, and decide by each rule.

    queries [Q, D], gallery [N, D]: unit vectors on one device, computed in float32. Labels: int64, from 0.
    groups: (int64 [Q], int64 [N]) camera or sequence; gallery rows of the query's own label *and* group are
    junk and left out for it, a negative group is unknown and leaves nothing out.

    average_precision: mean over the right rows of the precision at each; inp: number of right rows over the
    rank of the last one (Ye et al., AGW, TPAMI 2021); r_precision and map_at_r: over the first R ranks, R the
    number of right rows (Musgrave et al., ECCV 2020, section 3.2). A row as similar as another stands behind
    it if its number is higher.

    nearest: the label of the most similar row. knn: the most frequent among the first `k`, of equally
    frequent ones the one whose nearest row is more similar. centroid: the label whose L2-normalised mean of
    gallery rows is most similar; for a query that leaves rows out, they are not in the mean either.

    Memory is a few times `chunk_bytes`, or 16 rows as long as the gallery if those take more. Raises as
    `neighbours.nearest` does, and ValueError for labels that do not fit.
    """
    check_vectors(queries, gallery)
    _check_labels(query_labels, len(queries), "query")
    _check_labels(gallery_labels, len(gallery), "gallery")
    if k < 1:
        raise ValueError(f"k={k}: at least one neighbour votes")
    query_labels, gallery_labels = (side.to(queries.device) for side in (query_labels, gallery_labels))
    junk = None
    if groups is not None:
        groups = groups[0].to(queries.device), groups[1].to(queries.device)
        junk = junk_keys((query_labels, gallery_labels), groups)
    kept = max(k, *RECALL_AT)
    height = max(TILE, chunk_bytes // (_BYTES_A_PAIR * len(gallery)))
    parts = [
        _ranked(block, query_labels[rows], gallery, gallery_labels, junk and (junk[0][rows], junk[1]), kept)
        for rows, block in query_blocks(queries, height)
    ]
    similarity, rows, first, ap, at_r, precision, inp = (
        torch.cat([part[number] for part in parts]) for number in range(7)
    )
    named = torch.where(rows < 0, -1, gallery_labels.cpu()[rows.clamp(min=0)])
    predicted: dict[Rule, Tensor] = {
        "nearest": named[:, 0],
        "knn": _vote(named[:, :k]),
        "centroid": _by_centroid(queries, query_labels, gallery, gallery_labels, junk).cpu(),
    }
    labels = query_labels.cpu()
    return Answers(
        labels, first > 0, similarity, rows, first, ap, at_r, precision, inp, predicted, len(gallery)
    )


def figures(answers: Answers, classes: Mapping[int, str] | None = None) -> dict[str, float]:
    """Flat figures over the known queries; NaN where there are none.

    recall_at_1, _5, _10 (share of queries with a right row among the first k, the CMC at k), map, map_at_r,
    r_precision, minp; for each rule `<rule>_accuracy` and `<rule>_balanced_accuracy`, the mean over the
    classes that the known queries have; unknown_queries, and coverage, the known share.
    classes: label → name; with them `class/<name>/{nn,knn,centroid}_accuracy` and `class/<name>/map_at_r` of
    each class that known queries have.
    """
    known = answers.known
    first = answers.first[known]
    found = {f"recall_at_{k}": _mean(first <= k) for k in RECALL_AT}
    for name, field in RANKINGS.items():
        found[name] = _mean(getattr(answers, field)[known])
    hits = {RULE_NAMES[rule]: answers.hits(rule)[known] for rule in RULES}
    present, member = torch.unique(answers.labels[known], return_inverse=True)
    for name, hit in hits.items():
        found[f"{name}_accuracy"] = _mean(hit)
        found[f"{name}_balanced_accuracy"] = _mean(_class_means(hit, member, len(present)))
    found["unknown_queries"] = float((~known).sum())
    found["coverage"] = _mean(known)
    if classes is not None:
        values = {f"{name}_accuracy": hit for name, hit in hits.items()}
        values["map_at_r"] = answers.map_at_r[known]
        for figure, value in values.items():
            for label, mean in zip(present, _class_means(value, member, len(present)), strict=True):
                found[f"class/{classes[int(label)]}/{figure}"] = float(mean)
    return found


def cmc(answers: Answers) -> Tensor:
    """The cumulative match characteristic, float64 [N]: the share of known queries with a right row by rank
    1 … N.
    """
    first = answers.first[answers.known]
    counted = torch.bincount(first, minlength=answers.gallery + 1)[1:]
    return counted.cumsum(0).double() / (len(first) or math.nan)


def confusion(answers: Answers, rule: Rule, labels: Sequence[int]) -> Tensor:
    """int64 [C, C + 1] counts over all queries: row the true label, column the predicted one, as `labels`.

    The last column counts queries for which no gallery row was left. A query whose own label the gallery
    lacks has a row as well: what it is taken for. Raises ValueError for a label that is not among `labels`.
    """
    place = {label: number for number, label in enumerate(labels)} | {-1: len(labels)}
    pairs = zip(answers.labels.tolist(), answers.predicted[rule].tolist(), strict=True)
    counts = torch.zeros(len(labels), len(labels) + 1, dtype=torch.int64)
    for true, said in pairs:
        if true not in place or said not in place:
            raise ValueError(f"a query of label {true} taken for {said}: labels are {list(labels)}")
        counts[place[true], place[said]] += 1
    return counts


def _ranked(
    block: Tensor, labels: Tensor, gallery: Tensor, gallery_labels: Tensor, junk: Keys | None, kept: int
) -> tuple[Tensor, ...]:
    """(similarity, rows, first, average precision, map_at_r, r_precision, inp) of a few queries, on the CPU.

    Whether a row is right is the lowest bit of its key, so that sorting the keys says where the right rows
    stand.
    """
    count, size = len(labels), len(gallery)
    scores = torch.empty(len(block), up(size, TILE), dtype=torch.float32, device=block.device)
    similarities(block, gallery, out=scores)
    leave_out(scores, junk, 0)
    scores = scores[:count, :size]
    right = (labels[:, None] == gallery_labels) & (scores > -math.inf)
    keys = pack(scores, 2 * torch.arange(size, device=block.device) + (~right).long())
    keys = keys.sort(dim=1, descending=True).values
    similarity, doubled = unpack(keys[:, :kept])
    rows = torch.where(doubled < 0, -1, doubled >> 1)
    if kept > size:
        similarity = torch.nn.functional.pad(similarity, (0, kept - size), value=-math.inf)
        rows = torch.nn.functional.pad(rows, (0, kept - size), value=-1)
    query, rank = ((keys & 1) == 1).nonzero(as_tuple=True)
    return similarity.cpu(), rows.cpu(), *_from_ranks(query.cpu(), rank.cpu() + 1, count)


def _from_ranks(query: Tensor, rank: Tensor, count: int) -> tuple[Tensor, ...]:
    """(first int64, average precision, map_at_r, r_precision, inp float64), each [count].

    query, rank: int64 [P], one entry for every right row: whose it is (ascending), where it stands, from 1.
    """
    right = torch.bincount(query, minlength=count)
    before = right.cumsum(0) - right
    number = torch.arange(1, len(query) + 1) - before[query]  # the how manieth right row of its query
    precision = number.double() / rank
    early = rank <= right[query]

    def mean(values: Tensor) -> Tensor:
        """The sum over the right rows of each query by their number, NaN where there are none."""
        return torch.zeros(count, dtype=torch.float64).index_add_(0, query, values) / right

    first, last = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    first[query[number == 1]] = rank[number == 1]
    last[query] = rank  # ascending within a query: the last one stays
    return first, mean(precision), mean(precision * early), mean(early.double()), right / last.double()


def _vote(named: Tensor) -> Tensor:
    """The most frequent label of each row of int64 [Q, k], of equals the first; -1 is no vote."""
    votes = torch.stack([(named == column[:, None]).sum(dim=1) for column in named.T], dim=1)
    votes[named < 0] = 0
    length = named.shape[1]
    order = votes * length - torch.arange(length)  # no two are equal, so the greatest is the first
    return named.gather(1, order.argmax(dim=1, keepdim=True)).flatten()


def _by_centroid(
    queries: Tensor, query_labels: Tensor, gallery: Tensor, gallery_labels: Tensor, junk: Keys | None
) -> Tensor:
    """int64 [Q]: the label of the most similar centroid, the lower of equal ones; -1 where none is left."""
    labels, member = torch.unique(gallery_labels, return_inverse=True)
    sums = _sums(gallery, member, len(labels))
    query_keys, gallery_keys = junk or (
        torch.full_like(query_labels, -1),
        torch.full_like(gallery_labels, -1),
    )
    # Per key that leaves rows out, one more centroid: its label's without those rows, for its queries alone.
    # All are compared in one product: of equal vectors none may win by the rounding of its own sum.
    keys = torch.unique(query_keys[(query_keys >= 0) & torch.isin(query_keys, gallery_keys)])
    dropped = torch.isin(gallery_keys, keys)
    key_of = torch.searchsorted(keys, gallery_keys[dropped])
    owner = torch.empty_like(keys).index_copy_(0, key_of, member[dropped])
    rows_left = torch.bincount(member)[owner] - torch.bincount(key_of, minlength=len(keys))
    others = sums[owner] - _sums(gallery[dropped], key_of, len(keys))
    centroids = torch.nn.functional.normalize(torch.cat([sums, others])).float()
    place = torch.cat([torch.arange(len(labels), device=labels.device), owner])  # of a column's label
    column_key = torch.cat([torch.full_like(labels, -1), keys])
    usable = torch.cat([torch.ones_like(labels, dtype=torch.bool), rows_left > 0])
    width = up(len(place), TILE)
    best = []
    for rows, block in query_blocks(queries, max(1, SORTED_BYTES // (_BYTES_A_PAIR * width))):
        scores = torch.empty(len(block), width, dtype=torch.float32, device=block.device)
        similarities(block, centroids, out=scores)
        scores, key = scores[: rows.stop - rows.start, : len(place)], query_keys[rows, None]
        loses = torch.isin(key, keys)
        plain = ~loses | (labels[place] != query_labels[rows, None])
        fits = torch.where(column_key < 0, plain, key == column_key) & usable
        _, found = unpack(pack(scores.masked_fill(~fits, -math.inf), place).amax(dim=1))
        best.append(torch.where(found < 0, -1, labels[found.clamp(min=0)]))
    return torch.cat(best)


def _sums(vectors: Tensor, member: Tensor, count: int) -> Tensor:
    """The sum of each group's vectors, [count, D], in float64 where the device has it."""
    kind = torch.float32 if vectors.device.type == "mps" else torch.float64
    sums = torch.zeros(count, vectors.shape[1], dtype=kind, device=vectors.device)
    for some, groups in zip(torch.split(vectors, _SUMMED), torch.split(member, _SUMMED), strict=True):
        sums.index_add_(0, groups, some.to(kind))
    return sums


def _class_means(values: Tensor, member: Tensor, count: int) -> Tensor:
    """float64 [count]: the mean of the values of each class."""
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, member, values.double())
    return sums / torch.bincount(member, minlength=count)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _check_labels(labels: Tensor, rows: int, side: str) -> None:
    if labels.dtype != torch.int64 or labels.shape != (rows,):
        raise ValueError(f"{side} labels must be int64 [{rows}], not {labels.dtype} {list(labels.shape)}")
    if bool((labels < 0).any()):
        raise ValueError(f"{side} labels must not be negative, row {int((labels < 0).nonzero()[0])} is")
