"""What can be wrong with a training, seen on its curves, its counts and its figures.

Every rule is a function of a `Run` that returns its `Advice`, or None. The thresholds are rules of thumb.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ..config.values import select
from . import remedies
from .remedies import Overrides, number
from .training import Advice, Run

EPOCHS = 3  # a curve of fewer has no shape
FLAT, NEAR_CHANCE = 0.02, 0.05
SPIKE, SPIKE_VAL, SPIKE_RISE = 1.5, 2.0, 0.1
VAL_RISE, VAL_RISE_LEAST, VAL_RISE_SINCE, TRAIN_FALL = 0.10, 0.02, 2, 0.05
GAP, ERRORS = 0.10, 2.0
OVERFIT_EPOCHS = 4  # validation goes up and down while the rate warms up
HALFWAY = 0.5
GAIN, GAIN_LOSS, LAST_PART = 0.01, 0.02, 4
EARLY = 0.5
FEW_TRAIN, FEW_VAL, ENOUGH_VAL = 1000, 100, 200
IMBALANCE = 10
WAIT = 0.30
SHIFT, SHIFT_ERRORS = 0.10, 3.0  # the best epoch was chosen on validation, which flatters it
THRESHOLD, TUNED_GAIN = 0.2, 0.02


def not_finite(run: Run) -> Advice | None:
    """A loss that is no number, or a run that ended on one."""
    broken = [
        f"{name} was {values[name]} in epoch {epoch + 1}"
        for epoch, values in run.epochs.items()
        for name in ("train/loss", "train/loss_step", "val/loss")
        if name in values and not math.isfinite(values[name])
    ]
    if "the loss became" in run.ended_by or "no longer finite" in run.ended_by:
        broken.append(run.ended_by.rstrip("."))
    if not broken:
        return None
    return Advice(
        "not_finite",
        broken[0],
        "The numbers left their range, most often because steps were too large.",
        (
            *remedies.learning_rate(run.config, remedies.RATE_DOWN),
            *remedies.clipped(run.config),
            *remedies.full_precision(run.config),
        ),
    )


def flat_loss(run: Run) -> Advice | None:
    """A training loss that stays where it began, with an accuracy of guessing."""
    losses, accuracy = run.curve("train/loss"), run.curve("train/accuracy")
    if len(losses) < EPOCHS or not accuracy:
        return None
    values, best = list(losses.values()), max(accuracy.values())
    if max(values) - min(values) > FLAT * abs(values[0]) or best >= run.guessing + NEAR_CHANCE:
        return None
    return Advice(
        "flat_loss",
        f"train/loss stayed between {min(values):.4f} and {max(values):.4f} over {len(values)} epochs, "
        f"train/accuracy at most {best:.3f}",
        "Nothing is learnt: the learning rate is far off, too little may be trained, or labels and images do "
        "not belong together.",
        remedies.rate_search(run.config),
        _alone(
            ("debug=overfit",),
            remedies.learning_rate(run.config, remedies.RATE_UP),
            remedies.unfrozen(run.config),
        ),
    )


def spikes(run: Run) -> Advice | None:
    """A training loss that jumps up, or a validation loss that jumps up and back."""
    losses = run.curve("train/loss")
    start = number(run.config, "model.warm_start.epochs")
    if start is not None:  # from here on another loss is counted
        losses = {epoch: value for epoch, value in losses.items() if epoch >= start}
    seen = [*_jumps(losses, "train/loss", SPIKE, falls_back=False)]
    seen += _jumps(run.curve("val/loss"), "val/loss", SPIKE_VAL, falls_back=True)
    if not seen:
        return None
    return Advice(
        "spikes",
        " and ".join(seen[:2]),
        "Training is unstable: single steps undo what many have learnt.",
        remedies.learning_rate(run.config, remedies.RATE_DOWN),
        _alone(remedies.smaller_batch(run.config), remedies.clipped(run.config)),
    )


def _jumps(losses: Mapping[int, float], name: str, factor: float, *, falls_back: bool) -> Iterator[str]:
    """Where a loss jumps from one epoch to the next; falls_back: and loses half of it in the one after."""
    if len(losses) < EPOCHS:
        return
    epochs, values = list(losses), list(losses.values())
    for place in range(1, len(values)):
        before, here = values[place - 1], values[place]
        if here < factor * before or here - before < SPIKE_RISE:
            continue
        after = values[place + 1] if place + 1 < len(values) else math.inf
        if not falls_back or after <= here - (here - before) / 2:
            yield f"{name} jumped from {before:.3f} to {here:.3f} in epoch {epochs[place] + 1}"


def overfitting(run: Run) -> Advice | None:
    """Validation that gets worse while training gets better, or that stays far behind."""
    train, val = run.curve("train/loss"), run.curve("val/loss")
    both = sorted(set(train) & set(val))
    if len(both) < OVERFIT_EPOCHS:
        return None
    last, lowest = both[-1], min(both, key=lambda epoch: val[epoch])
    rise, fall = val[last] - val[lowest], train[lowest] - train[last]
    rises = (
        last - lowest >= VAL_RISE_SINCE
        and rise >= max(VAL_RISE * val[lowest], VAL_RISE_LEAST)
        and fall >= TRAIN_FALL * train[lowest]
    )
    seen = []
    if rises:
        seen.append(
            f"since epoch {lowest + 1}, val/loss rose from {val[lowest]:.3f} to {val[last]:.3f} while "
            f"train/loss fell from {train[lowest]:.3f} to {train[last]:.3f}"
        )
    seen += _gap(run, last)
    if not seen:
        return None
    return Advice(
        "overfitting",
        "; ".join(seen),
        "The network learns the training images themselves, more than what they have in common with others.",
        remedies.regularised(run.config),
        _alone(remedies.frozen(run.config), remedies.augmented(run.config)),
    )


def _gap(run: Run, epoch: int) -> Iterator[str]:
    """Where train/accuracy leaves validation behind by more than chance would."""
    name, images = run.scored(), run.images("val")
    train, val = run.epochs[epoch].get("train/accuracy"), run.epochs[epoch].get(name)
    if train is None or val is None:
        return
    error = math.sqrt(val * (1 - val) / images) if images and 0 <= val <= 1 else 0.0
    if train - val >= max(GAP, ERRORS * error):
        yield f"in epoch {epoch + 1}, train/accuracy is {train:.3f} and {name} {val:.3f}"


def underfitting(run: Run) -> Advice | None:
    """An ended run that has learnt neither its training images nor others."""
    train, val = run.curve("train/accuracy"), run.curve("val/balanced_accuracy")
    if len(train) < EPOCHS or not run.ended:
        return None
    last, best = list(train.values())[-1], max(val.values(), default=None)
    poor = run.guessing + HALFWAY * (1 - run.guessing)
    if last >= poor or (best is not None and best >= 0.5 + HALFWAY * 0.5):
        return None
    validated = "" if best is None else f", val/balanced_accuracy at most {best:.3f}"
    return Advice(
        "underfitting",
        f"train/accuracy ended at {last:.3f}{validated}; guessing gives {run.guessing:.2f}",
        "The network has not learnt the training images themselves.",
        (
            *remedies.learning_rate(run.config, remedies.RATE_UP),
            *(remedies.longer(run.config) if run.used_up else ()),
        ),
        _alone(remedies.unfrozen(run.config), remedies.larger(run.config), remedies.pretrained(run.config)),
    )


def still_improving(run: Run) -> Advice | None:
    """A run that was best at its end, and still gaining."""
    curve = run.monitored
    if len(curve) < EPOCHS or not run.used_up:
        return None
    values, monitor = list(curve.values()), run.config["train"]["monitor"]
    before = max(values[: -max(1, len(values) // LAST_PART)])
    needed = GAIN_LOSS * abs(before) if select(run.config, "train.mode") == "min" else GAIN
    if values[-1] < max(values) or values[-1] - before < needed:
        return None
    return Advice(
        "still_improving",
        f"{monitor} was best in the last of {len(values)} epochs, {abs(values[-1]):.4f} after "
        f"{abs(before):.4f}",
        "Training ended before it had come to its end.",
        remedies.longer(run.config),
    )


def stopped_early(run: Run) -> Advice | None:
    """A run that early stopping ended in its first half."""
    curve, patience = run.monitored, number(run.config, "callbacks.early_stopping.patience")
    if not curve or patience is None or run.wanted is None or run.length >= EARLY * run.wanted:
        return None
    if not run.ended:
        return None
    best = max(curve, key=lambda epoch: curve[epoch])
    if sum(epoch > best for epoch in curve) < max(1, patience):
        return None
    return Advice(
        "stopped_early",
        f"{run.config['train']['monitor']} was best in epoch {best + 1}, and training stopped after "
        f"{run.length} of {run.wanted} epochs (patience {int(patience)})",
        "It was stopped while the learning rate was still high, where figures go up and down; later epochs "
        "may well be better.",
        remedies.patient(run.config),
        (("callbacks.early_stopping=null",),),
    )


def little_data(run: Run) -> Advice | None:
    """Few training images."""
    images = run.images("train")
    if not images or images >= FEW_TRAIN:
        return None
    return Advice(
        "little_data",
        f"{images:,} training images",
        "So few images rarely cover what there is to tell apart: more of them help more than any setting.",
        remedies.more_images(run.config, "train") or remedies.pretrained(run.config),
        _alone(remedies.frozen(run.config), remedies.augmented(run.config)),
    )


def imbalance(run: Run) -> Advice | None:
    """One class far larger than the other, and nothing that makes up for it."""
    classes = {name: count for name, count in run.counts.get("train", {}).items() if count}
    if len(classes) != 2:
        return None
    (many, most), (few, least) = sorted(classes.items(), key=lambda item: -item[1])
    loss, sampler = remedies.balanced_loss(run.config), remedies.balanced_sampler(run.config)
    weighted = select(run.config, "model.loss.class_weights") is not None
    if most <= IMBALANCE * least or weighted or not sampler:
        return None
    return Advice(
        "imbalance",
        f"{most:,} {many} against {least:,} {few} training images, {most / least:.0f} to 1",
        "Calling everything by the larger class costs little, so the smaller one is hardly learnt.",
        loss or sampler,
        _alone(sampler) if loss else (),
    )


def data_wait(run: Run) -> Advice | None:
    """A device that waits for images."""
    waits = list(run.curve("speed/data_wait").values())
    steady = waits[1:] or waits  # the first epoch starts workers and warms caches up
    if not steady or sum(steady) / len(steady) < WAIT:
        return None
    cache, workers = remedies.decoded(run.config), remedies.more_workers(run.config, run.cores)
    return Advice(
        "data_wait",
        f"{100 * sum(steady) / len(steady):.0f} % of the training time was spent waiting for images",
        "The device is faster than what feeds it.",
        cache or workers,
        _alone(workers) if cache else (),
    )


def little_validation(run: Run) -> Advice | None:
    """Few validation images."""
    images = run.images("val")
    if not images or images >= FEW_VAL:
        return None
    width = 1.96 * math.sqrt(0.9 * 0.1 / images)
    more = remedies.more_validation(run.config, images, ENOUGH_VAL) if run.carved else ()
    return Advice(
        "little_validation",
        f"{images:,} validation images: an accuracy of 90 % is known to ± {100 * width:.0f} points",
        "The best epoch is chosen by chance as much as by merit.",
        remedies.more_images(run.config, "val") or more,
    )


def no_validation(run: Run) -> Advice | None:
    """No validation images at all."""
    if run.images("val") != 0 or not run.images("train"):
        return None
    share = number(run.config, "data.val_fraction")
    return Advice(
        "no_validation",
        "no validation images",
        "Nothing chooses the best epoch, stops in time or fits a threshold.",
        ("data.val_fraction=0.1",) if share == 0 else (),
    )


def shift(run: Run) -> Advice | None:
    """Test figures far below those of validation."""
    val, test = (run.metrics.get(f"{split}/balanced_accuracy", math.nan) for split in ("val", "test"))
    sizes = [run.images("val"), run.images("test")]
    pairs = [(value, size) for value, size in zip((val, test), sizes, strict=True) if size]
    error = math.sqrt(sum(max(0.0, value * (1 - value)) / size for value, size in pairs))
    if not val - test >= max(SHIFT, SHIFT_ERRORS * error):
        return None
    retrieval = run.config.get("task") == "retrieval"
    differ = "site, camera or season" if retrieval else "generator, source or processing"
    parts = "class" if retrieval else "generator"
    return Advice(
        "shift",
        f"val/balanced_accuracy is {val:.3f}, test/balanced_accuracy {test:.3f}",
        f"The test images differ from the training images, by {differ}, and validation does not show it: "
        f"look at the figures by {parts}.",
        remedies.augmented(run.config),
    )


def threshold(run: Run) -> Advice | None:
    """A fitted threshold far from even odds, which pays on test."""
    names = ("val/threshold", "test/accuracy_tuned", "test/accuracy")
    logit, tuned, plain = (run.metrics.get(name, math.nan) for name in names)
    probability = 0.5 * (1 + math.tanh(logit / 2))
    if not (abs(probability - 0.5) >= THRESHOLD and tuned - plain >= TUNED_GAIN):
        return None
    return Advice(
        "threshold",
        f"the threshold that is best on validation is at a probability of {probability:.2f}, and it takes "
        f"test/accuracy from {plain:.3f} to {tuned:.3f}",
        "The scores rank better than they decide: 0.5 is not where the classes part, so probabilities should "
        "not be taken at their word.",
        remedies.smoothed(run.config),
    )


def _alone(*choices: Overrides) -> tuple[Overrides, ...]:
    """The choices that there are."""
    return tuple(choice for choice in choices if choice)
