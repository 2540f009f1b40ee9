"""Does a run do what was asked of it? Its queries, gallery and times in, a verdict and its reasons out.

The queries are never in the gallery (`retrieval.judge` refuses that), and a query whose class the gallery
lacks is a miss here: nobody who asks for an accuracy means that of the easier questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ..errors import ConfigError, did_you_mean
from ..metrics.embedding_health import EmbeddingHealth, embedding_health
from ..metrics.intervals import bootstrap, wilson
from ..metrics.latency import Latency, Seconds
from ..metrics.latency import latency as latency_of
from ..metrics.retrieval import RULES, Rule
from ..modules.decision import Decision, Target
from .retrieval import Judged, figures
from .retrieval_predictions import embeddings

Standing = Literal["above", "below", "undecided"]
"""Where the whole interval of a figure lies, seen from its target."""
_MOST_NEEDED = 10_000_000  # more queries than this are as good as no answer


@dataclass(frozen=True)
class Share:
    """A share of `count` queries with its 95 % interval; NaN where there are none."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Check:
    """A figure held against its target.

    decides: whether the verdict depends on it. reached: value at or above the target, of seconds at or below
    it. low, high: 95 % interval; standing: where all of it lies. needed: queries in all, of which as large a
    share would put the whole interval on one side, None where no number would, or where it is decided.
    """

    name: str
    target: float
    value: float
    low: float
    high: float
    decides: bool
    reached: bool
    standing: Standing
    needed: int | None


@dataclass(frozen=True)
class ClassLine:
    """One class of the queries: images that are searched, queries, and the share that is named rightly.

    reached: against the target, None without one. taken_for: (class, queries), the most frequent first.
    """

    name: str
    gallery: int
    accuracy: Share
    reached: bool | None
    standing: Standing | None
    taken_for: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Memory:
    """Bytes: estimated before the weights were read, and the highest use afterwards.

    weights, activations: of one batch; None where the network can't be run without pixels, `unknown` says
    why. gallery: its vectors. measured: of the CUDA device, or of the whole process, libraries included.
    before: of the same before the weights were read.
    """

    weights: int | None
    activations: int | None
    batch: int
    gallery: int
    measured: int
    before: int
    of: Literal["device", "process"]
    unknown: str = ""

    @property
    def estimated(self) -> int | None:
        """All that is known before the weights are read."""
        known = self.weights is not None and self.activations is not None
        return self.weights + self.activations + self.gallery if known else None  # type: ignore[operator]


@dataclass(frozen=True)
class Acceptance:
    """The verdict and all that it rests on.

    reasons: a sentence each, of what decided. accuracy, balanced_accuracy: by the rule that was chosen, over
    all queries. known: the accuracy over those whose class the gallery has. by_rule: what each rule would
    give. guessing: the accuracy of always naming the most frequent class. unknown: queries by class that the
    gallery lacks. health: of all embeddings, None for a single one. figures: flat, as in metrics.json.
    classes: what the queries were restricted to, None where they were not.
    """

    passed: bool
    reasons: tuple[str, ...]
    target: Target
    decision: Decision
    classes: tuple[str, ...] | None
    queries: int
    gallery: int
    checks: tuple[Check, ...]
    accuracy: Share
    balanced_accuracy: Share
    known: Share
    guessing: float
    by_rule: Mapping[Rule, Share]
    by_class: tuple[ClassLine, ...]
    unknown: Mapping[str, int]
    latency: Latency | None
    memory: Memory | None
    health: EmbeddingHealth | None
    figures: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, the verdict first; NaN where undefined."""
        found = asdict(self)
        if self.memory is not None:
            found["memory"]["estimated"] = self.memory.estimated
        return found


def accept(
    judged: Judged,
    target: Target,
    decision: Decision,
    *,
    seconds: Mapping[str, Seconds] | None = None,
    memory: Memory | None = None,
    classes: Sequence[str] | None = None,
) -> Acceptance:
    """Hold what the gallery answered, and how fast, against a target.

    judged: by the rule of `decision`. seconds: stage of STAGES → float64 [n] of the same n images. classes:
    what the queries were restricted to (`of_classes`), for the record.
    Passed is: the accuracy reaches target.accuracy, the 95th percentile of the time target.seconds, as far as
    these are asked for, and the embeddings have not collapsed to one point. Raises ConfigError for a target
    that asks for nothing, or for seconds that were not measured.
    """
    if target.accuracy is None and target.seconds is None:
        raise ConfigError(
            "nothing is asked for: type target_accuracy=0.95, target_seconds=2.0, or both (or train with "
            "model.target.accuracy=0.95)"
        )
    if target.seconds is not None and seconds is None:
        raise ConfigError(f"target_seconds={target.seconds}, but no image was timed")
    answers = judged.answers
    labels, known = answers.labels.numpy(), answers.known.numpy()
    hits = {rule: answers.hits(rule).numpy() for rule in RULES}
    hit = hits[judged.rule]
    accuracy = _share(hit)
    latency = None if seconds is None else latency_of(seconds)
    every = np.concatenate([embeddings(judged.queries), embeddings(judged.gallery)])
    every_label = torch.cat([answers.labels, torch.from_numpy(judged.gallery["label"].to_numpy().copy())])
    health = embedding_health(torch.from_numpy(every), every_label) if len(every) > 1 else None
    balanced = _balanced(hit, labels)
    checks = _checks(target, accuracy, balanced, latency)
    lacking = labels[~known]
    found = Acceptance(
        passed=all(check.reached for check in checks if check.decides)
        and not (health is not None and health.collapsed),
        reasons=(),
        target=target,
        decision=decision,
        classes=None if classes is None else tuple(classes),
        queries=len(labels),
        gallery=len(judged.gallery),
        checks=checks,
        accuracy=accuracy,
        balanced_accuracy=balanced,
        known=_share(hit[known]),
        guessing=float(np.unique(labels, return_counts=True)[1].max() / len(labels)),
        by_rule={rule: _share(hits[rule]) for rule in RULES},
        by_class=_by_class(judged, hit, target.accuracy),
        unknown={judged.classes[label]: int((lacking == label).sum()) for label in np.unique(lacking)},
        latency=latency,
        memory=memory,
        health=health,
        figures=figures(judged),
    )
    return replace(found, reasons=_reasons(found))


def of_classes(predictions: pa.Table, classes: Sequence[str]) -> pa.Table:
    """The predictions without the queries of other classes; the gallery stays whole.

    A gallery that lost its other classes would leave nothing to be confused with. Raises as `check_classes`.
    """
    asking = pc.equal(predictions["role"], "query")
    names = predictions["class"].cast(pa.string())
    check_classes(classes, pc.unique(names.filter(asking)).drop_null().to_pylist())
    wanted = pc.is_in(names, value_set=pa.array(list(classes), pa.string()))
    return predictions.filter(pc.or_(pc.invert(asking), wanted))


def check_classes(classes: Sequence[str], asked: Sequence[str]) -> None:
    """Raise ConfigError for a class that no query is of, naming the nearest that there is."""
    there = sorted(asked)
    shown = ", ".join(there[:12]) + (f" and {len(there) - 12} more" if len(there) > 12 else "")
    problems = [
        f"classes: no query is of class {name}{did_you_mean(name, there) or ';'} there are {shown}"
        for name in classes
        if name not in there
    ]
    if not classes:
        problems = [f"classes=[] leaves no query; leave it out, or name some of {shown}"]
    if problems:
        raise ConfigError(problems)


def needed_queries(share: float, target: float) -> int | None:
    """How many queries put the whole Wilson interval of `share` on one side of `target`.

    Wilson's interval holds the target as long as |share - target| <= z sqrt(target (1 - target) / n). None
    where the two are so near that more than ten million queries would be needed.
    """
    z = NormalDist().inv_cdf(0.975)
    if share == target:
        return None
    count = z * z * target * (1 - target) / (share - target) ** 2
    return max(1, math.floor(count) + 1) if count < _MOST_NEEDED else None


def _share(hit: npt.NDArray[np.bool_]) -> Share:
    right, count = int(hit.sum()), len(hit)
    return Share(right / count if count else math.nan, *wilson(right, count), count)


def _balanced(hit: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64]) -> Share:
    member = np.unique(labels, return_inverse=True)[1]
    draws = min(1000, max(200, 20_000_000 // len(hit)))
    low, high = bootstrap(_class_mean, (hit, member), n=draws)
    return Share(_class_mean(hit, member), low, high, len(hit))


def _class_mean(hit: npt.NDArray[np.bool_], member: npt.NDArray[np.int64]) -> float:
    counts = np.bincount(member)
    return float((np.bincount(member, weights=hit)[counts > 0] / counts[counts > 0]).mean())


def _standing(low: float, high: float, target: float) -> Standing:
    return "above" if low >= target else "below" if high < target else "undecided"


def _checks(target: Target, accuracy: Share, balanced: Share, latency: Latency | None) -> tuple[Check, ...]:
    found = []
    if target.accuracy is not None:
        for name, share in (("accuracy", accuracy), ("balanced accuracy", balanced)):
            standing = _standing(share.low, share.high, target.accuracy)
            decides = name == "accuracy"
            open_ = decides and standing == "undecided"
            found.append(
                Check(
                    name,
                    target.accuracy,
                    share.value,
                    share.low,
                    share.high,
                    decides=decides,
                    reached=share.value >= target.accuracy,
                    standing=standing,
                    needed=needed_queries(share.value, target.accuracy) if open_ else None,
                )
            )
    if target.seconds is not None and latency is not None:
        low, high = latency.p95_low, latency.p95_high
        for name, value, bounds in (
            ("seconds, p95", latency.total.p95, (low, high)),
            ("seconds, p50", latency.total.p50, (math.nan, math.nan)),
        ):
            decides = name.endswith("p95")
            standing = _standing(*bounds, target.seconds) if decides else _side(value, target.seconds)
            reached = value <= target.seconds
            found.append(
                Check(
                    name,
                    target.seconds,
                    value,
                    *bounds,
                    decides=decides,
                    reached=reached,
                    standing=standing,
                    needed=None,
                )
            )
    return tuple(found)


def _side(value: float, target: float) -> Standing:
    return "above" if value >= target else "below"


def _by_class(judged: Judged, hit: npt.NDArray[np.bool_], target: float | None) -> tuple[ClassLine, ...]:
    """The classes that are asked for, lowest accuracy first."""
    labels = judged.answers.labels.numpy()
    said = judged.answers.predicted[judged.rule].numpy()
    searched = judged.gallery["label"].to_numpy()
    lines = []
    for label in np.unique(labels).tolist():
        mine = labels == label
        share = _share(hit[mine])
        wrong, counts = np.unique(said[mine & ~hit], return_counts=True)
        pairs = sorted(zip(counts.tolist(), wrong.tolist(), strict=True), key=lambda one: (-one[0], one[1]))
        lines.append(
            ClassLine(
                judged.classes[label],
                int((searched == label).sum()),
                share,
                None if target is None else share.value >= target,
                None if target is None else _standing(share.low, share.high, target),
                tuple((judged.classes.get(other, "no answer"), count) for count, other in pairs),
            )
        )
    return tuple(sorted(lines, key=lambda line: (line.accuracy.value, line.name)))


def _reasons(found: Acceptance) -> tuple[str, ...]:
    said = []
    for check in found.checks:
        if not check.decides:
            continue
        bounds = f"95 % interval {check.low:.3f} to {check.high:.3f}"
        if check.name == "accuracy":
            verb = "reaches" if check.reached else "misses"
            line = f"the accuracy {check.value:.3f} {verb} the target {check.target:g} ({bounds}: "
            sure = {"above": "all of it above", "below": "all of it below"}.get(check.standing)
            if sure is None:
                more = "no number of queries would decide it"
                if check.needed is not None:
                    more = (
                        f"about {check.needed:,} queries in all would decide it, there are {found.queries:,}"
                    )
                sure = f"the target lies inside, {more}"
            said.append(f"{line}{sure})")
            closed = found.known.value
            if found.unknown and not check.reached and closed >= check.target:
                said.append(
                    f"of the queries whose class the gallery has, {closed:.3f} are named rightly: the other "
                    f"{sum(found.unknown.values()):,} can't be"
                )
        else:
            verb = "is within" if check.reached else "exceeds"
            said.append(
                f"95 of 100 images take at most {1000 * check.value:,.3g} ms from the file to the class, "
                f"which {verb} the target {check.target:g} s"
            )
    if found.health is not None and found.health.collapsed:
        said.append(found.health.reason)
    return tuple(said)
