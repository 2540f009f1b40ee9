"""What can be wrong with a retrieval training: all images in one place, nothing to learn, the wrong rule.

As in `symptoms`, every rule is a function of a `Run` that returns its `Advice`, or None.
"""

from __future__ import annotations

import math

from ..config.values import select
from . import remedies
from .remedies import Config, Overrides, number
from .training import Advice, Run

ZERO_SHARE = 0.5
RULE_GAIN, ERRORS = 0.05, 2.0
RULES = {"nearest": "nn", "knn": "knn", "centroid": "centroid"}
MEMORY_BATCHES = 8
_SEMI_HARD = "tapetum.modules.metric_learning.SemiHardMiner"
_TRIPLETS = "pytorch_metric_learning.losses.TripletMarginLoss"


def collapse(run: Run) -> Advice | None:
    """Embeddings that are almost one point when the training ends."""
    collapsed, spread = (run.curve(f"val/embedding/{name}") for name in ("collapsed", "spread"))
    last = max(collapsed, default=None)
    if last is None or not collapsed[last]:
        return None
    width = f" (val/embedding/spread {spread[last]:.3f}, of at most 1)" if last in spread else ""
    return Advice(
        "collapse",
        f"in epoch {last + 1}, all embeddings are almost the same{width}",
        "The network tells no two images apart, and every other figure of this run is an accident of the "
        "pixels. Hard negatives do this to a network that knows nothing yet.",
        _warm_started(run.config),
        _alone(
            _semi_hard(run.config),
            remedies.learning_rate(run.config, remedies.RATE_DOWN),
            remedies.pretrained(run.config),
        ),
    )


def nothing_to_learn(run: Run) -> Advice | None:
    """Batches without a single triplet that the loss would change."""
    zero = run.curve("train/zero_triplet_batches")
    last = max(zero, default=None)
    steps = run.curve("step")
    if last is None or last not in steps:
        return None
    before = max((value for epoch, value in steps.items() if epoch < last), default=0.0)
    batches = (steps[last] - before) * (number(run.config, "trainer.accumulate_grad_batches") or 1)
    if batches < 1 or zero[last] < ZERO_SHARE * batches:
        return None
    return Advice(
        "nothing_to_learn",
        f"in epoch {last + 1}, {zero[last]:.0f} of {batches:.0f} batches had a loss of 0",
        "In most batches all classes are already as far apart as the margin asks, so most steps change "
        "nothing.",
        _all_triplets(run.config),
        _alone(_remembered(run.config), _larger_batch(run.config)),
    )


def other_rule(run: Run) -> Advice | None:
    """A way to name queries that is far better than the one that was chosen, on validation."""
    chosen = select(run.config, "model.decision.rule")
    if chosen not in RULES:
        return None
    balanced, plain = (
        {rule: run.metrics.get(f"val/{short}_{name}", math.nan) for rule, short in RULES.items()}
        for name in ("balanced_accuracy", "accuracy")
    )
    known = {rule: value for rule, value in balanced.items() if math.isfinite(value)}
    if chosen not in known:
        return None
    best = max(known, key=lambda rule: known[rule])
    gain, cost = known[best] - known[chosen], plain[chosen] - plain[best]
    queries = run.images("val")
    error = math.sqrt(known[best] * (1 - known[best]) / queries) if queries else 0.0
    if gain < max(RULE_GAIN, ERRORS * error) or not cost < gain:
        return None
    why = "a class of several looks has no one centre, but near neighbours"
    if best == "centroid":
        why = "among neighbours large classes outvote small ones, while every class has one centroid"
    elif chosen != "centroid":
        why = "how many neighbours are asked decides whether small classes can win"
    return Advice(
        "other_rule",
        f"val/{RULES[best]}_balanced_accuracy is {known[best]:.3f}, val/{RULES[chosen]}_balanced_accuracy, "
        f"the rule of this run, {known[chosen]:.3f}; plain accuracy goes from {plain[chosen]:.3f} to "
        f"{plain[best]:.3f}",
        f"The embeddings are the same, only the rule differs: {why}. This needs no new training: tapetum "
        "accept takes model.decision.rule, too.",
        (f"model.decision.rule={best}",),
    )


def _warm_started(config: Config) -> Overrides:
    """A classification term alone for two epochs, where there is none."""
    if not _retrieval(config) or select(config, "model.warm_start.epochs"):
        return ()
    return ("model.warm_start.epochs=2",)


def _semi_hard(config: Config) -> Overrides:
    """Easier triplets, where a miner without arguments, which another would inherit, picks others."""
    miner = select(config, "model.miner") if _retrieval(config) else None
    if not isinstance(miner, dict) or set(miner) != {"_target_"} or miner["_target_"] == _SEMI_HARD:
        return ()
    return (f"model.miner._target_={_SEMI_HARD}",)


def _all_triplets(config: Config) -> Overrides:
    return ("model.miner=null",) if select(config, "model.miner") is not None else ()


def _remembered(config: Config) -> Overrides:
    """Embeddings of past batches to compare with, where triplets are compared and nothing is remembered."""
    size = number(config, "data.batch_size")
    if select(config, "model.loss._target_") != _TRIPLETS or select(config, "model.memory") != 0 or not size:
        return ()
    return (f"model.memory={MEMORY_BATCHES * int(size)}",)


def _larger_batch(config: Config) -> Overrides:
    size = number(config, "data.batch_size")
    return (f"data.batch_size={2 * int(size)}",) if _retrieval(config) and size else ()


def _retrieval(config: Config) -> bool:
    return config.get("task") == "retrieval"


def _alone(*choices: Overrides) -> tuple[Overrides, ...]:
    """The choices that there are."""
    return tuple(choice for choice in choices if choice)
