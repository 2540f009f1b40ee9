"""What follows from an acceptance: rules on its figures, each with what to do.

docs/infrared_retrieval.md tells them to readers; its table is RULES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..config.values import select
from ..metrics.retrieval import RULE_NAMES
from . import remedies
from .acceptance import Acceptance, Check
from .acceptance_limits import listed
from .remedies import LARGER, Overrides
from .retrieval import Judged

FEW_GALLERY = 10
RULE_GAIN = 0.02
IMBALANCE = 0.05
CAUSE = 0.1
FEW_MISSES = 5
_SHOWN = 5
_WARM_START = ("model.warm_start.epochs=2", "model.warm_start.weight=0.5")


@dataclass(frozen=True)
class Recommendation:
    """One thing to do.

    rule: its name in RULES. seen: the numbers that triggered it. means: a sentence or two. overrides: to type
    together, empty where nothing in a config helps. verb: which command takes them, a new training or the
    same acceptance again.
    """

    rule: str
    seen: str
    means: str
    overrides: Overrides = ()
    verb: Literal["train", "accept"] = "train"


@dataclass(frozen=True)
class Seen:
    """What the rules look at. known: the run's own figures, of which val may choose; empty where unknown."""

    found: Acceptance
    judged: Judged
    config: Mapping[str, Any]
    known: Mapping[str, float]

    def check(self, name: str) -> Check | None:
        """The line of the target table of that name."""
        return next((check for check in self.found.checks if check.name == name), None)

    @property
    def below(self) -> bool:
        """Whether an accuracy is asked for and missed."""
        check = self.check("accuracy")
        return check is not None and not check.reached


@dataclass(frozen=True)
class Rule:
    """A row of the table, and the function that looks for it."""

    name: str
    condition: str
    suggestion: str
    look: Callable[[Seen], Recommendation | None]


def recommend(
    found: Acceptance, judged: Judged, config: Mapping[str, Any], known: Mapping[str, float]
) -> list[Recommendation]:
    """Every rule of RULES that the figures trigger, in their order.

    config: the run's, resolved, with the data and the device that were judged. known: as in its metrics.json.
    """
    seen = Seen(found, judged, config, known)
    return [said for rule in RULES if (said := rule.look(seen)) is not None]


# --- the rules, in the order of RULES ---


def _collapse(seen: Seen) -> Recommendation | None:
    health = seen.found.health
    if health is None or not health.collapsed:
        return None
    overrides: Overrides = remedies.learning_rate(seen.config, remedies.RATE_DOWN)
    if select(seen.config, "model.miner") is not None or select(seen.config, "model.warm_start") is not None:
        start = remedies.number(seen.config, "model.warm_start.epochs")
        overrides = (f"model.warm_start.epochs={2 * int(start)}",) if start else _WARM_START
    return Recommendation(
        "collapse",
        f"the embeddings lie {health.spread:.2g} from their mean, mean cosine {health.mean_cosine:.4f}, "
        f"effective rank {health.effective_rank:.1f}",
        "Every image has almost the same vector, and what is still found is a matter of rounding. Hard "
        "triplets from scratch end so: let a classification term train first.",
        overrides,
    )


def _other_rule(seen: Seen) -> Recommendation | None:
    shares = {rule: share.value for rule, share in seen.found.by_rule.items()}
    chosen = seen.found.decision.rule
    best = max(shares, key=lambda rule: shares[rule])
    if not seen.below or shares[best] - shares[chosen] < RULE_GAIN:
        return None
    name = f"{best} {shares[best]:.3f}, {chosen} {shares[chosen]:.3f}"
    on_val = [seen.known.get(f"val/{RULE_NAMES[rule]}_accuracy") for rule in (best, chosen)]
    means = (
        "Another way to decide names more of the queries rightly. It was found on the queries it is judged "
        "by, so look at fresh ones before relying on it."
    )
    if on_val[0] is not None and on_val[1] is not None:
        if on_val[0] <= on_val[1]:
            return None  # what chooses says the opposite
        name += f"; on val {best} {on_val[0]:.3f}, {chosen} {on_val[1]:.3f}"
        means = "Another way to decide names more of the queries rightly, and val, which may choose, agrees."
    return Recommendation("other_rule", name, means, (f"model.decision.rule={best}",), "accept")


def _confused(seen: Seen) -> Recommendation | None:
    if not seen.below:
        return None
    pairs = [(count, line.name, said) for line in seen.found.by_class for said, count in line.taken_for[:1]]
    wrong = sum(count for line in seen.found.by_class for _, count in line.taken_for)
    count, name, said = max(pairs, default=(0, "", ""))
    if count < max(FEW_MISSES, CAUSE * wrong):
        return None
    return Recommendation(
        "confused",
        f"{count} of {wrong} misses are {name} taken for {said}",
        f"The largest single cause. What helps are more training images of {name} and {said}, a larger input "
        "(model.net.size or model.geometry.size), or one class out of two that nobody can tell apart.",
    )


def _weak_class(seen: Seen) -> Recommendation | None:
    weak = [line for line in seen.found.by_class if line.standing == "below" and line.gallery]
    if not weak or seen.found.target.accuracy is None:
        return None
    named = [f"{line.name} {line.accuracy.value:.2f} (at most {line.accuracy.high:.2f})" for line in weak]
    return Recommendation(
        "weak_class",
        f"below {seen.found.target.accuracy:g} with their whole interval: {listed(named)}",
        "More queries would not change that. Collect training images of these classes; or, where the others "
        "are enough, accept those alone (classes=[…]).",
    )


def _thin_gallery(seen: Seen) -> Recommendation | None:
    thin = [line for line in seen.found.by_class if 0 < line.gallery < FEW_GALLERY]
    if not thin:
        return None
    return Recommendation(
        "thin_gallery",
        f"fewer than {FEW_GALLERY} gallery images: " + listed([f"{one.name} {one.gallery}" for one in thin]),
        "A query is named by what lies near it, and here little can. Gallery images need no training: add "
        "some of these classes, of other sites and cameras.",
    )


def _undecided(seen: Seen) -> Recommendation | None:
    check = seen.check("accuracy")
    if check is None or check.standing != "undecided":
        return None
    more = "No number of queries would tell them apart: the accuracy is the target."
    if check.needed is not None:
        more = f"About {check.needed:,} queries in all would decide it, if the share stays what it is."
    return Recommendation(
        "undecided",
        f"{check.value:.3f} of {seen.found.queries:,} queries, interval {check.low:.3f} to {check.high:.3f}, "
        f"target {check.target:g}",
        f"Chance alone may have put the figure on its side of the target. {more}",
    )


def _unknown(seen: Seen) -> Recommendation | None:
    unknown = seen.found.unknown
    if not unknown:
        return None
    known = sorted(line.name for line in seen.found.by_class if line.name not in unknown)
    overrides = (
        (f"classes=[{','.join(known)}]",) if 0 < len(known) <= _SHOWN and seen.found.classes is None else ()
    )
    return Recommendation(
        "unknown_queries",
        f"{sum(unknown.values()):,} queries of {len(unknown):,} classes without a gallery image: "
        + listed([f"{name} {count}" for name, count in unknown.items()]),
        "They can't be named rightly. Add gallery images of these classes; or, if they are meant to be "
        "refused, judge the known classes here and the refusal by the open-set figures.",
        overrides,
        "accept",
    )


def _imbalance(seen: Seen) -> Recommendation | None:
    plain, balanced = seen.found.accuracy.value, seen.found.balanced_accuracy.value
    if plain - balanced < IMBALANCE:
        return None
    sampler = select(seen.config, "data.sampler")
    return Recommendation(
        "imbalance",
        f"accuracy {plain:.3f}, balanced {balanced:.3f}",
        "Rare classes are named worse than frequent ones. If each class counts, train with batches in which "
        "all are alike, and read the balanced accuracy.",
        () if sampler is not None else ("data.sampler=class_balanced",),
    )


def _slow(stage: str, means: str) -> Callable[[Seen], Recommendation | None]:
    """The rule for a stage that dominates while the target of seconds is missed."""

    def look(seen: Seen) -> Recommendation | None:
        check, latency = seen.check("seconds, p95"), seen.found.latency
        if check is None or check.reached or latency is None or latency.slowest.name != stage:
            return None
        slow = latency.slowest
        overrides: Overrides = ()
        verb: Literal["train", "accept"] = "accept"
        if stage == "prepare" and select(seen.config, "data.decoder") == "pillow":
            overrides = ("data.decoder=fast",)
        if stage == "embed" and str(select(seen.config, "trainer.precision")) == "32-true":
            overrides = ("trainer.precision=bf16-mixed",)
        elif stage == "embed":
            smaller = {larger: name for name, larger in LARGER.items()}
            network = smaller.get(str(select(seen.config, "model.net.name")))
            overrides, verb = ((f"model.net.name={network}",), "train") if network else ((), "accept")
        return Recommendation(
            f"slow_{stage}",
            f"{100 * slow.share:.0f} % of the time is {stage}: p50 {slow.p50:.3g} s, p95 {slow.p95:.3g} s of "
            f"{check.value:.3g} s, target {check.target:g} s",
            means,
            overrides,
            verb,
        )

    return look


_MEANS = {
    "load": "Reading the file takes longest. Store smaller or compressed files, on a local disk, or hand the "
    "pixels over in memory (tapetum.load(run).embed(arrays)).",
    "prepare": "Decoding and resizing take longest. Store images near the size that the network takes, in a "
    "format that decodes fast (JPEG, PNG without a high compression level).",
    "embed": "The network takes longest. Run it in bf16 where the hardware has it, on a GPU, or train a "
    "smaller one.",
    "search": "The gallery takes longest. Keep fewer images of each class in it (tapetum gallery RUN "
    "OUT.parquet DIR builds one of the images of a folder).",
}

RULES: tuple[Rule, ...] = (
    Rule(
        "collapse",
        "the embeddings lie closer to their mean than an untrained network's",
        "a classification term first (`model.warm_start`)",
        _collapse,
    ),
    Rule(
        "other_rule",
        f"the accuracy misses its target, another rule is better by {RULE_GAIN:g}, and val does not deny it",
        "`model.decision.rule=…`",
        _other_rule,
    ),
    Rule(
        "confused",
        f"the accuracy misses its target, and one class taken for one other makes {100 * CAUSE:g} % of the "
        f"misses and {FEW_MISSES} queries or more",
        "more training images of the two, or a larger input",
        _confused,
    ),
    Rule(
        "weak_class",
        "the whole interval of a class lies below the target",
        "more training images of it, or `classes=[…]` without it",
        _weak_class,
    ),
    Rule(
        "thin_gallery",
        f"a class that is asked for has fewer than {FEW_GALLERY} gallery images",
        "more gallery images of it",
        _thin_gallery,
    ),
    Rule(
        "undecided", "the interval of the accuracy holds the target", "more queries, and how many", _undecided
    ),
    Rule(
        "unknown_queries",
        "queries are of a class that the gallery lacks",
        "gallery images of it, or `classes=[…]`",
        _unknown,
    ),
    Rule(
        "imbalance",
        f"the balanced accuracy is lower by {IMBALANCE:g}",
        "`data.sampler=class_balanced`",
        _imbalance,
    ),
    *(
        Rule(
            f"slow_{stage}",
            f"p95 misses the target, and {stage} takes most of the time",
            means.split(". ", 1)[1],
            _slow(stage, means),
        )
        for stage, means in _MEANS.items()
    ),
)
