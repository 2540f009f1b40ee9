"""What the figures of an acceptance cannot say, and why."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from .acceptance import Acceptance
from .retrieval import Judged

FEW_QUERIES = 30
FEW_TIMED = 60
_SHOWN = 5


def limits(found: Acceptance, judged: Judged) -> list[str]:
    """What these figures cannot say, a sentence each."""
    said = []
    few = [
        f"{line.name} ({line.accuracy.count})" for line in found.by_class if line.accuracy.count < FEW_QUERIES
    ]
    if few:
        said.append(
            f"{_classes(len(few))} fewer than {FEW_QUERIES} queries, so that the accuracy of one may be off "
            f"by ten points and more: {listed(few)}."
        )
    if len(found.by_class) == 1:
        said.append("All queries are of one class: what is mistaken for it is not seen.")
    unknown = sum(found.unknown.values())
    if unknown:
        said.append(
            f"{unknown:,} of {found.queries:,} queries are of classes that the gallery lacks "
            f"({listed(list(found.unknown))}). They count as misses; of the others {found.known.value:.3f} "
            "are named rightly."
        )
    if found.classes is not None:
        said.append(
            f"Only queries of {listed(list(found.classes), 12)} were judged (classes=…). The gallery was "
            "searched whole, so that all its classes can be mistaken for one of them."
        )
    said += _of_the_gallery(found, judged)
    for column in ("camera", "sequence"):
        both = _shared(judged, column)
        if both and found.decision.exclude != column:
            said.append(
                f"{both:,} queries share their {column} with gallery images of their own class, which are "
                f"easier to find than others; model.decision.exclude={column} leaves them out."
            )
    sequences = judged.queries["sequence"].drop_null()
    distinct = pc.count_distinct(sequences).as_py()
    if distinct and distinct < len(sequences):
        said.append(
            f"The {len(sequences):,} queries come from {distinct:,} sequences. Images of one sequence are "
            "alike, so that the intervals, which take them for independent, are too narrow."
        )
    if found.latency is not None and found.latency.images < FEW_TIMED:
        said.append(
            f"{found.latency.images} images were timed: their 95th percentile rests on the slowest "
            f"{max(1, round(found.latency.images / 20))}."
        )
    if found.balanced_accuracy.value < found.guessing <= found.accuracy.value:
        said.append(
            f"Always naming the most frequent class would be right for {found.guessing:.3f} of the queries: "
            "read the accuracy beside the balanced one."
        )
    return said


def _of_the_gallery(found: Acceptance, judged: Judged) -> list[str]:
    said = []
    counts = _gallery_counts(judged)
    single = [name for name, count in counts.items() if count == 1]
    if single:
        said.append(
            f"{_classes(len(single))} one gallery image only: {listed(single)}. What is found is luck."
        )
    k = found.decision.k
    if found.decision.rule == "knn":
        if found.gallery < k:
            said.append(
                f"The gallery has {found.gallery} images and k is {k}: every query gets the same votes, and "
                "the most frequent class wins always."
            )
        else:
            few = [name for name, count in counts.items() if count <= k // 2]
            if few:
                said.append(
                    f"{_classes(len(few))} at most {k // 2} gallery images and can hardly win a vote of {k}: "
                    f"{listed(few)}."
                )
    asked = {line.name for line in found.by_class}
    silent = [name for name in counts if name not in asked]
    if silent and found.classes is None:
        said.append(
            f"{_classes(len(silent))} gallery images and no query: {listed(silent)}. Nothing is said of them."
        )
    return said


def listed(names: list[str], most: int = _SHOWN) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _gallery_counts(judged: Judged) -> dict[str, int]:
    labels, counts = np.unique(judged.gallery["label"].to_numpy(), return_counts=True)
    return {
        judged.classes[label]: count for label, count in zip(labels.tolist(), counts.tolist(), strict=True)
    }


def _shared(judged: Judged, column: str) -> int:
    """Queries for which the gallery has an image of the same class and the same camera or sequence."""
    sides = [
        zip(side["label"].to_pylist(), side[column].to_pylist(), strict=True)
        for side in (judged.gallery, judged.queries)
    ]
    searched = {pair for pair in sides[0] if pair[1] is not None}
    return sum(pair in searched for pair in sides[1])


def _classes(count: int) -> str:
    return "1 class has" if count == 1 else f"{count:,} classes have"
