"""What to try after a run: rules on its curves, its counts and its figures, each with what to type.

docs/what_to_try_next.md tells them to readers; its table is RULES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import remedies, retrieval_symptoms, symptoms
from .remedies import Overrides
from .training import Advice, Counts, Run, by_epoch

__all__ = ["RULES", "Advice", "Rule", "advise", "unjudged"]

_NO_EPOCH = "no epoch was finished"


@dataclass(frozen=True)
class Rule:
    """A row of the table in the docs, and the function that looks for it.

    unless: rules that say the same more exactly; where one of them spoke, this one is silent.
    """

    name: str
    condition: str
    suggestion: str
    look: Callable[[Run], Advice | None]
    unless: tuple[str, ...] = ()


def advise(
    history: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    counts: Counts,
    metrics: Mapping[str, float],
    *,
    carved: bool = False,
    cores: int | None = None,
    ended_by: str = "",
) -> list[Advice]:
    """Every rule of RULES that a training triggers, in their order; none where `unjudged` has a reason.

    history: the rows of metrics.csv; cells, columns and whole splits may be absent. config: the run's own,
    resolved. counts: split → class → images, as `Index.counts`. metrics: as in metrics.json. carved: whether
    the validation images were taken from train. cores: of the processor. ended_by: the error that ended an
    unfinished run.
    """
    reason = unjudged(history, config)
    if reason is not None and not (reason == _NO_EPOCH and ended_by):
        return []
    run = Run(by_epoch(history), config, counts, metrics, carved, cores, ended_by)
    found: dict[str, Advice] = {}
    told: set[Overrides] = set()
    for rule in RULES:
        advice = None if any(name in found for name in rule.unless) else rule.look(run)
        if advice is not None:
            instead = tuple(choice for choice in advice.instead if choice not in told)
            found[rule.name] = replace(advice, instead=instead)
            told |= {advice.overrides, *instead}
    return list(found.values())


def unjudged(history: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> str | None:
    """Why the curves of a run say nothing about what to try, None where they do."""
    if not config["model"]["fit"]:
        return "nothing was trained (model.fit=false)"
    trainer = config["trainer"]
    limit = trainer.get("limit_train_batches")
    whole = limit is None or (isinstance(limit, float) and limit == 1.0)  # 1 is one batch
    key = "overfit_batches" if trainer.get("overfit_batches") else "limit_train_batches"
    if not whole or key == "overfit_batches":
        return f"the run was kept to a part of the training images (trainer.{key}={trainer[key]})"
    if not any("train/loss" in values for values in by_epoch(history).values()):
        return _NO_EPOCH
    return None


RULES: tuple[Rule, ...] = (
    Rule(
        "not_finite",
        "a loss is NaN or infinite, or the run was ended by one",
        f"`optimizer.lr` × {remedies.RATE_DOWN:g}; `trainer.gradient_clip_val={remedies.CLIP}` where nothing "
        "clips; `trainer.precision=32-true` in place of float16",
        symptoms.not_finite,
    ),
    Rule(
        "flat_loss",
        f"`train/loss` varies by at most {100 * symptoms.FLAT:g} % of its first value over {symptoms.EPOCHS} "
        f"or more epochs, and `train/accuracy` stays below guessing + {symptoms.NEAR_CHANCE:g}",
        f"`callbacks=lr_finder`; or `debug=overfit`; or `optimizer.lr` × {remedies.RATE_UP:g}; or "
        "`model.net.freeze=false`",
        symptoms.flat_loss,
    ),
    Rule(
        "spikes",
        f"in {symptoms.EPOCHS} or more epochs, `train/loss` is {symptoms.SPIKE:g} times that of the epoch "
        f"before or more, or `val/loss` {symptoms.SPIKE_VAL:g} times or more and falls back by half in the "
        f"next; and {symptoms.SPIKE_RISE:g} or more above",
        f"`optimizer.lr` × {remedies.RATE_DOWN:g}; or `data.batch_size` halved, not below "
        f"{remedies.LEAST_BATCH}; or `trainer.gradient_clip_val={remedies.CLIP}` where nothing clips",
        symptoms.spikes,
        unless=("not_finite",),
    ),
    Rule(
        "overfitting",
        f"in {symptoms.OVERFIT_EPOCHS} or more epochs, `val/loss` ends {100 * symptoms.VAL_RISE:g} % and "
        f"{symptoms.VAL_RISE_LEAST:g} or more above its lowest, {symptoms.VAL_RISE_SINCE} or more epochs "
        f"later, while `train/loss` fell by {100 * symptoms.TRAIN_FALL:g} % or more; or the last "
        f"`train/accuracy` is above `val/accuracy` (`val/balanced_accuracy` under a sampler) by "
        f"{symptoms.GAP:g} and {symptoms.ERRORS:g} standard errors or more",
        f"`model.net.dropout` + {remedies.DROPOUT_STEP:g}, up to {remedies.MOST_DROPOUT:g}, and "
        f"`optimizer.weight_decay` × {remedies.DECAY_FACTOR:g}, up to {remedies.MOST_DECAY['decoupled']:g} "
        f"(AdamW) or {remedies.MOST_DECAY['other']:g}, from 0 to {remedies.FIRST_DECAY:g}; or "
        "`model.net.freeze=true`; or more augmentation",
        symptoms.overfitting,
    ),
    Rule(
        "underfitting",
        f"a run of {symptoms.EPOCHS} or more epochs has ended, its last `train/accuracy` is less than "
        f"{100 * symptoms.HALFWAY:g} % of the way from guessing to 1, and `val/balanced_accuracy` was always "
        f"below {0.5 + symptoms.HALFWAY * 0.5:g}",
        f"`optimizer.lr` × {remedies.RATE_UP:g}, up to {remedies.MOST_RATE['adaptive']:g} (Adam, AdamW) or "
        f"{remedies.MOST_RATE['other']:g}, and `trainer.max_epochs` × 2 where all were used; or "
        "`model.net.freeze=false`; or the next larger network; or `model.net.pretrained=true`",
        symptoms.underfitting,
        unless=("not_finite", "flat_loss"),
    ),
    Rule(
        "still_improving",
        f"`trainer.max_epochs` was reached, `train.monitor` is best in the last of {symptoms.EPOCHS} or more "
        f"epochs, and the last 1/{symptoms.LAST_PART} of them gained {symptoms.GAIN:g} or more "
        f"({100 * symptoms.GAIN_LOSS:g} % where lower is better)",
        "`trainer.max_epochs` × 2",
        symptoms.still_improving,
        unless=("underfitting",),
    ),
    Rule(
        "stopped_early",
        f"early stopping ended the run before {100 * symptoms.EARLY:g} % of `trainer.max_epochs`",
        "`callbacks.early_stopping.patience` × 2, at least 5; or `callbacks.early_stopping=null`",
        symptoms.stopped_early,
        unless=("not_finite", "overfitting"),
    ),
    Rule(
        "little_data",
        f"fewer than {symptoms.FEW_TRAIN:,} training images",
        "`data.limit=null` where a limit keeps images out, or more synthetic ones, else "
        "`model.net.pretrained=true`; or `model.net.freeze=true`; or more augmentation",
        symptoms.little_data,
    ),
    Rule(
        "imbalance",
        f"one class has more than {symptoms.IMBALANCE} times the training images of the other, and neither "
        "weights nor a sampler make up for it",
        "`model.loss.class_weights=balanced`; or `data.sampler=class_balanced`",
        symptoms.imbalance,
    ),
    Rule(
        "data_wait",
        f"`speed/data_wait` is {symptoms.WAIT:g} or more on average, the first of several epochs left out",
        "`data.cache=decoded`; or `data.num_workers` × 2, at least 2, up to the cores",
        symptoms.data_wait,
    ),
    Rule(
        "little_validation",
        f"fewer than {symptoms.FEW_VAL} validation images",
        "`data.limit=null` where a limit keeps images out; else, where they are taken from train, "
        f"`data.val_fraction` for {symptoms.ENOUGH_VAL} images, up to {remedies.MOST_VALIDATION:g}",
        symptoms.little_validation,
    ),
    Rule(
        "no_validation",
        "no validation images",
        "`data.val_fraction=0.1` where it is 0",
        symptoms.no_validation,
    ),
    Rule(
        "shift",
        f"`val/balanced_accuracy` is above `test/balanced_accuracy` by {symptoms.SHIFT:g} and "
        f"{symptoms.SHIFT_ERRORS:g} standard errors or more",
        "more augmentation",
        symptoms.shift,
    ),
    Rule(
        "threshold",
        f"the threshold fitted on validation is {symptoms.THRESHOLD:g} or more from a probability of 0.5 and "
        f"gains {symptoms.TUNED_GAIN:g} or more of `test/accuracy`",
        f"`model.loss.label_smoothing={remedies.SMOOTHING:g}` where there is none",
        symptoms.threshold,
    ),
    Rule(
        "collapse",
        "`val/embedding/collapsed` is 1 in the last epoch that has it",
        "`model.warm_start` with two epochs of a classification loss; or "
        "`tapetum.modules.metric_learning.SemiHardMiner` in place of another miner; or `optimizer.lr` × "
        f"{remedies.RATE_DOWN:g}; or `model.net.pretrained=true`",
        retrieval_symptoms.collapse,
    ),
    Rule(
        "nothing_to_learn",
        "in the last epoch that has it, `train/zero_triplet_batches` is "
        f"{100 * retrieval_symptoms.ZERO_SHARE:g} % of the batches or more",
        f"`model.miner=null`; or `model.memory` of {retrieval_symptoms.MEMORY_BATCHES} batches where it is "
        "0; or `data.batch_size` × 2",
        retrieval_symptoms.nothing_to_learn,
        unless=("collapse",),
    ),
    Rule(
        "other_rule",
        "on validation, another `model.decision.rule` has a balanced accuracy that is "
        f"{retrieval_symptoms.RULE_GAIN:g} and {retrieval_symptoms.ERRORS:g} standard errors or more above "
        "that of the run's, and loses less of plain accuracy",
        "that `model.decision.rule`",
        retrieval_symptoms.other_rule,
        unless=("collapse",),
    ),
)
