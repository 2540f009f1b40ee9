"""What there is to know of a training when it is over, and what is said about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.values import select
from .remedies import Overrides, number

Counts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Advice:
    """One thing to try.

    rule: its name in RULES. seen: the numbers that triggered it. means: one sentence. overrides: to type
    together, empty where nothing in the config helps. instead: other things to try, each of them alone.
    """

    rule: str
    seen: str
    means: str
    overrides: Overrides
    instead: tuple[Overrides, ...] = ()


@dataclass(frozen=True)
class Run:
    """What the rules look at: `advise`'s arguments, the history by epochs."""

    epochs: Mapping[int, Mapping[str, float]]
    config: Mapping[str, Any]
    counts: Counts
    metrics: Mapping[str, float]
    carved: bool
    cores: int | None
    ended_by: str

    def curve(self, name: str) -> dict[int, float]:
        """Epoch → finite value, of the epochs that have one."""
        found = {epoch: values[name] for epoch, values in self.epochs.items() if name in values}
        return {epoch: value for epoch, value in found.items() if math.isfinite(value)}

    def images(self, split: str) -> int | None:
        """How many a split has, None where nobody counted."""
        if not self.counts:
            return None
        return sum(self.counts.get(split, {}).values())

    @property
    def monitored(self) -> dict[int, float]:
        """The figure that chooses, turned so that higher is better."""
        sign = 1 if select(self.config, "train.mode") == "max" else -1
        return {epoch: sign * value for epoch, value in self.curve(self.config["train"]["monitor"]).items()}

    @property
    def length(self) -> int:
        """Epochs from the start to the last one whose figures there are."""
        return max(self.curve("train/loss"), default=-1) + 1

    @property
    def wanted(self) -> int | None:
        """trainer.max_epochs, None without such an end."""
        epochs = number(self.config, "trainer.max_epochs")
        return None if epochs is None or epochs < 1 else int(epochs)

    @property
    def used_up(self) -> bool:
        """Whether it ran for all the epochs that it was given."""
        return self.wanted is not None and self.length >= self.wanted

    @property
    def ended(self) -> bool:
        """Whether more of it can't come: the final figures are there, or all epochs are."""
        return bool(self.metrics) or self.used_up

    @property
    def guessing(self) -> float:
        """Training accuracy of always naming the larger class; 0.5 where sampler or weights even them."""
        classes = [count for count in self.counts.get("train", {}).values() if count]
        evened = select(self.config, "data.sampler") or select(self.config, "model.loss.class_weights")
        return 0.5 if evened or len(classes) < 2 else max(classes) / sum(classes)

    def scored(self) -> str:
        """The validation figure to hold against train/accuracy: under a sampler, train is balanced."""
        return "val/balanced_accuracy" if select(self.config, "data.sampler") else "val/accuracy"


def by_epoch(history: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Epoch, from 0 and in order, → the last value of every name in it; empty cells are left out."""
    epochs: dict[int, dict[str, float]] = {}
    for row in history:
        if isinstance(row.get("epoch"), (int, float)) and not math.isnan(row["epoch"]):
            values = {name: float(cell) for name, cell in row.items() if isinstance(cell, (int, float))}
            epochs.setdefault(int(row["epoch"]), {}).update(values)
    return dict(sorted(epochs.items()))
