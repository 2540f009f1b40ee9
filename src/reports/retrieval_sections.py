"""What stands in the sections of a retrieval run's report, as plain values for the template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .format import Interval, interval, number, percent, percent_interval
from .sections import LoadImage, no_curve, thumbnail

if TYPE_CHECKING:
    from ..evaluation.retrieval import Judged
    from ..metrics.retrieval import Rule

SHOWN = 8
NEIGHBOURS = 5
CONFUSIONS = 10
FEW_QUERIES = 30
NARROW_SPREAD = 0.35
"""Below it embeddings are no wider spread than those of ResNets that were never trained (0.085 to 0.34, see
`metrics.embedding_health`); training leaves 0.4 to 0.9."""
RULE_WORDS: Mapping[Rule, str] = {
    "nearest": "nearest image",
    "knn": "{k} nearest",
    "centroid": "class centroid",
}


@dataclass(frozen=True)
class RuleRow:
    """One way to name a query: shares of the known queries in [0, 1] with their bounds."""

    name: str
    means: str
    accuracy: float
    interval: Interval | None
    balanced: float
    balanced_interval: Interval | None
    chosen: bool


@dataclass(frozen=True)
class ClassRow:
    """One class; accuracy by the rule that was chosen and MAP@R, None without a known query."""

    name: str
    gallery: int
    queries: int
    unknown: int
    accuracy: float | None
    bounds: Interval | None
    others: tuple[float | None, ...]
    map_at_r: float | None


@dataclass(frozen=True)
class Shown:
    """A picture of the retrieval gallery; `uri` is empty where it could not be shown, `reason` says why.

    similarity: None for the query itself. right: whether it is of the query's class.
    """

    uri: str
    reason: str
    small: bool
    path: str
    name: str
    similarity: float | None
    right: bool


@dataclass(frozen=True)
class Search:
    """A query, what it was named, and its nearest gallery images."""

    query: Shown
    predicted: str
    hit: bool
    neighbours: list[Shown]


@dataclass(frozen=True)
class Searches:
    """The searches shown, and how many queries were named wrongly, rightly, and can't be named at all."""

    misses: list[Search]
    hits: list[Search]
    missed: int
    found: int
    unknown: int


@dataclass(frozen=True)
class Health:
    """Whether embeddings still tell images apart: a word, a sentence, and (name, figure, what it means)."""

    word: str
    sentence: str
    collapsed: bool
    figures: list[tuple[str, str, str]]


def called(judged: Judged, rule: Rule | None = None) -> str:
    """A rule in words, `10 nearest`; the one that was chosen by default."""
    return RULE_WORDS[rule or judged.rule].format(k=judged.k)


def tiles(
    split: str, judged: Judged, metrics: Mapping[str, float], intervals: Mapping[str, Interval], state: Health
) -> list[tuple[str, str, str]]:
    """(name, figure, what stands below it) of the headline."""
    name, share = majority(judged)
    most = f"naming all {name}: {percent(share)}" if name else "no query is known"
    found = [_tile(f"{split} accuracy, {called(judged)}", f"{split}/accuracy", metrics, intervals, most)]
    classes = int(np.unique(judged.answers.labels[judged.answers.known].numpy()).size)
    guessing = f"guessing: {percent(1 / classes)}" if classes else "no query is known"
    found.append(_tile("balanced over classes", f"{split}/balanced_accuracy", metrics, intervals, guessing))
    found.append(_tile("Recall@1", f"{split}/recall_at_1", metrics, intervals, "the nearest image is right"))
    value = number(metrics[f"{split}/map_at_r"], 3)
    bounds = interval(intervals.get(f"{split}/map_at_r"), 3)
    found.append(("MAP@R", value, _two(bounds, "1: all of a class come first")))
    found.append(("embeddings", state.word, f"spread {state.figures[0][1]}" if state.figures else ""))
    return found


def majority(judged: Judged) -> tuple[str, float]:
    """(the gallery's largest class, its share of the known queries): what naming all so would reach."""
    labels, counts = np.unique(judged.gallery["label"].to_numpy(), return_counts=True)
    most = int(labels[counts.argmax()])
    known = judged.answers.labels[judged.answers.known]
    return (judged.classes[most], float((known == most).double().mean())) if len(known) else ("", math.nan)


def rules(
    split: str, judged: Judged, metrics: Mapping[str, float], intervals: Mapping[str, Interval]
) -> list[RuleRow]:
    """The three rules side by side, in their own order."""
    from ..metrics.retrieval import RULE_NAMES

    means: Mapping[Rule, str] = {
        "nearest": "the class of the most similar gallery image",
        "knn": f"the most frequent class among the {judged.k} most similar gallery images",
        "centroid": "the class whose mean gallery embedding is most similar",
    }
    found = []
    for rule, short in RULE_NAMES.items():
        accuracy, balanced = f"{split}/{short}_accuracy", f"{split}/{short}_balanced_accuracy"
        found.append(
            RuleRow(
                called(judged, rule),
                means[rule],
                metrics[accuracy],
                intervals.get(accuracy),
                metrics[balanced],
                intervals.get(balanced),
                rule == judged.rule,
            )
        )
    return found


def rule_sentence(rows: Sequence[RuleRow]) -> str:
    """What choosing another rule would have changed, in balanced accuracy; empty where nothing is defined."""
    known = [row for row in rows if not math.isnan(row.balanced)]
    chosen = next((row for row in known if row.chosen), None)
    if chosen is None:
        return ""
    best = max(known, key=lambda row: row.balanced)
    gap = 100 * (best.balanced - min(row.balanced for row in known))
    said = f"One and the same embedding: the rule alone moves balanced accuracy by {gap:.1f} points. "
    if best.chosen:
        return said + f"The rule of this run, {chosen.name}, is the best of the three here."
    lost = 100 * (best.balanced - chosen.balanced)
    return said + (
        f"The rule of this run, {chosen.name}, is {lost:.1f} points below {best.name}; a rule is chosen on "
        "val, never on test."
    )


def class_rows(judged: Judged) -> tuple[list[ClassRow], list[str]]:
    """(rows, worst first and those without a known query last; the names of the two rules not chosen)."""
    from ..evaluation.retrieval_tables import class_table
    from ..metrics.retrieval import RULE_NAMES

    others = [rule for rule in RULE_NAMES if rule != judged.rule]
    rows = [
        ClassRow(
            line["class"],
            line["gallery"],
            line["queries"],
            line["unknown"],
            line[f"{RULE_NAMES[judged.rule]}_accuracy"],
            None if line["low"] is None else (line["low"], line["high"]),
            tuple(line[f"{RULE_NAMES[rule]}_accuracy"] for rule in others),
            line["map_at_r"],
        )
        for line in class_table(judged).to_pylist()
        if line["queries"] or line["gallery"]
    ]
    rows.sort(key=lambda row: (row.accuracy is None, row.accuracy or 0.0, -row.queries, row.name))
    return rows, [called(judged, rule) for rule in others]


def confusions(judged: Judged) -> list[tuple[str, str, int, float]]:
    """(true class, named as, queries, share of the true class) of the ten most frequent repeated mistakes."""
    from ..evaluation.retrieval_tables import confusion

    found = confusion(judged)
    counts = found.counts[:, :-1].copy()
    np.fill_diagonal(counts, 0)
    totals = found.counts.sum(axis=1)
    order = np.argsort(-counts, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [np.unravel_index(place, counts.shape) for place in order]
    often = [(true, said, int(counts[true, said])) for true, said in pairs if counts[true, said] > 1]
    return [
        (found.names[true], found.names[said], count, count / int(totals[true]))
        for true, said, count in often
    ]


def health(judged: Judged) -> Health:
    """Of the queries' embeddings; a word for less than two."""
    import torch

    from ..evaluation.retrieval_predictions import embeddings
    from ..metrics.embedding_health import embedding_health

    if len(judged.queries) < 2:
        return Health("unknown", "Fewer than two queries: nothing is compared.", False, [])
    found = embedding_health(torch.from_numpy(embeddings(judged.queries)), judged.answers.labels)
    dimensions = judged.queries["embedding"].type.list_size
    if found.collapsed:
        word = "collapsed"
        sentence = (
            f"{found.reason[:1].upper()}{found.reason[1:]}. Accuracies may still look like something, since "
            "the nearest of almost equal vectors are those of the nearest pixels; what was learnt can't be "
            "trusted."
        )
    elif found.spread < NARROW_SPREAD:
        word = "narrow"
        sentence = (
            f"The embeddings have not collapsed, but they lie in a narrow cone (spread {found.spread:.2g}, "
            "at most 1), no wider than those of a network that was never trained: small differences decide."
        )
    else:
        word = "healthy"
        sentence = (
            "The embeddings are spread out and have not collapsed; two images of one class are "
            f"{_distance(found.intra)} apart on average, two of different classes {_distance(found.inter)}."
        )
    figures = [
        ("spread", f"{found.spread:.3f}", "distance from their mean; 0: all are equal, 1: all around"),
        ("mean cosine", f"{found.mean_cosine:.3f}", "of two queries; 1: all are equal"),
        ("effective rank", f"{found.effective_rank:.1f}", f"directions in use, of {dimensions}"),
        ("within a class", number(found.intra, 3), "mean cosine distance of two queries of one class"),
        ("between classes", number(found.inter, 3), "and of two of different classes: should be larger"),
        ("constant dimensions", percent(found.constant_dimensions), "that say nothing of any query"),
    ]
    return Health(word, sentence, found.collapsed, figures)


def unknown(split: str, judged: Judged) -> list[str]:
    """What is to be said of queries that the gallery does not know; nothing where it knows all."""
    known = judged.answers.known.numpy()
    lost = int((~known).sum())
    if not lost:
        return []
    labels = np.unique(judged.answers.labels.numpy()[~known])
    names = [judged.classes[int(label)] for label in labels]
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    hits = int(judged.answers.hits(judged.rule).sum())
    whole = hits / len(known)
    why = " or only images that are left out for them" if judged.exclude else ""
    return [
        f"{lost:,} of {len(known):,} {split} queries are of a class that the gallery does not have{why} "
        f"({listed}). They can only be named wrongly and are in none of the figures but the open-set ones; "
        f"of all {len(known):,} queries, {percent(whole)} are named rightly."
    ]


def limits(split: str, judged: Judged) -> list[str]:
    """What the figures of a split can't say."""
    said = unknown(split, judged)
    _, counts = np.unique(judged.answers.labels[judged.answers.known].numpy(), return_counts=True)
    few = int((counts < FEW_QUERIES).sum())
    if few:
        said.append(
            f"{few} of {len(counts)} classes have fewer than {FEW_QUERIES} {split} queries: their figures, "
            "and with them the balanced ones, are known roughly only; look at the intervals."
        )
    for column in ("camera", "sequence"):
        both = [side[column].null_count < len(side) for side in (judged.queries, judged.gallery)]
        if all(both) and judged.exclude != column:
            said.append(
                f"Gallery images of the same {column} as the query were searched: those are easy to find, "
                f"and in use there may be none. model.decision.exclude={column} leaves them out."
            )
    return said


def open_set(
    split: str, judged: Judged, metrics: Mapping[str, float]
) -> list[tuple[str, float, float, float]]:
    """(rate, threshold, unknown queries accepted, known ones accepted and named rightly), a line a rate."""
    if judged.answers.known.all():
        return []
    from ..metrics.open_set import FALSE_POSITIVE_RATES

    lines = []
    for rate in FALSE_POSITIVE_RATES:
        names = (f"{split}/open_set/{name}_at_{rate:g}" for name in ("threshold", "fpr", "tpr"))
        threshold, fpr, tpr = (metrics[name] for name in names)
        lines.append((percent(rate), threshold, fpr, tpr))
    return lines


def searches(judged: Judged, load_image: LoadImage | None) -> Searches:
    """The most confidently wrong answers, and right ones of different classes, with the nearest images."""
    misses, hits = chosen_queries(judged)
    known = judged.answers.known.numpy()
    right = int(judged.answers.hits(judged.rule).sum())
    return Searches(
        [_search(judged, row, load_image) for row in misses],
        [_search(judged, row, load_image) for row in hits],
        int(known.sum()) - right,
        right,
        int((~known).sum()),
    )


def chosen_queries(judged: Judged, count: int = SHOWN) -> tuple[list[int], list[int]]:
    """(misses, hits): positions among the queries.

    Misses: known queries that were named wrongly, by the similarity of the nearest image that has the wrong
    name (of the nearest image, where none of those kept has it), falling. Hits: one of each class, the one
    of median similarity, then a second one, of the classes with most queries first.
    """
    answers = judged.answers
    hit, known = answers.hits(judged.rule).numpy(), answers.known.numpy()
    rows, similarity = answers.rows.numpy(), answers.similarity.numpy()
    said = answers.predicted[judged.rule].numpy()
    named = np.where(rows < 0, -1, judged.gallery["label"].to_numpy()[np.maximum(rows, 0)])
    agrees = named == said[:, None]
    place = np.where(agrees.any(axis=1), agrees.argmax(axis=1), 0)
    sure = similarity[np.arange(len(similarity)), place]
    missed = np.flatnonzero(known & ~hit)
    misses = missed[np.lexsort((missed, -sure[missed]))][:count].tolist()
    labels = answers.labels.numpy()
    by_class: list[list[int]] = []
    for label in np.unique(labels[hit]):
        mine = np.flatnonzero(hit & (labels == label))
        mine = mine[np.lexsort((mine, similarity[mine, 0]))]
        # from the middle outwards: typical ones first
        by_class.append(
            mine[np.argsort(np.abs(np.arange(len(mine)) - len(mine) // 2), kind="stable")].tolist()
        )
    by_class.sort(key=len, reverse=True)
    rounds = (one[turn] for turn in range(count) for one in by_class if turn < len(one))
    return misses, [row for row, _ in zip(rounds, range(count), strict=False)]


def absences(split: str | None, trained: bool, queries: int) -> dict[str, str]:
    """Why a picture may be missing, by its name."""
    none = f"The {split} split has no query."
    unknown_only = f"The gallery knows none of the {queries:,} {split} queries." if queries else none
    return {
        "training_curve": no_curve(trained),
        "confusion": none,
        "cmc": unknown_only,
        "rejection": none,
        "similarities": none,
        "projection": f"Too few {split} queries for a plane: {queries}.",
    }


def _search(judged: Judged, row: int, load_image: LoadImage | None) -> Search:
    answers = judged.answers
    label = int(answers.labels[row])
    said = int(answers.predicted[judged.rule][row])
    query = _shown(judged.queries, row, judged, load_image, None, True)
    near = [
        (int(place), float(similarity))
        for place, similarity in zip(answers.rows[row][:NEIGHBOURS], answers.similarity[row], strict=False)
        if place >= 0
    ]
    neighbours = []
    for place, similarity in near:
        right = judged.gallery["label"][place].as_py() == label
        neighbours.append(_shown(judged.gallery, place, judged, load_image, similarity, right))
    return Search(query, judged.classes.get(said, "no answer"), said == label, neighbours)


def _shown(
    table: Any, row: int, judged: Judged, load_image: LoadImage | None, similarity: float | None, right: bool
) -> Shown:
    path = table["path"][row].as_py()
    box = table["box"][row].as_py() if "box" in table.column_names else None
    uri, reason, small = thumbnail(path, load_image, box)
    name = judged.classes[table["label"][row].as_py()]
    return Shown(uri, reason, small, path, name, similarity, right)


def _tile(
    name: str, key: str, metrics: Mapping[str, float], intervals: Mapping[str, Interval], more: str
) -> tuple[str, str, str]:
    return name, percent(metrics[key]), _two(percent_interval(intervals.get(key)), more)


def _two(bounds: str, more: str) -> str:
    return f"95 % interval {bounds}; {more}" if bounds else more


def _distance(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f}"
