"""Learning-rate schedules with a linear warm-up, stepped once per optimizer step.

Each is a closed form of the step, so that a resumed run continues on the same curve, and every parameter
group keeps its own peak. Step k (from 0) of a warm-up of w steps runs at (k + 1) / (w + 1) of the peak; step
w is the first at it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from ..errors import ConfigError


@dataclass(frozen=True)
class Horizon:
    """How long a training will be, in optimizer steps: in all, and in one epoch."""

    total_steps: int
    steps_per_epoch: int

    def __post_init__(self) -> None:
        if self.total_steps < 1 or self.steps_per_epoch < 1:
            raise ConfigError(
                f"a schedule needs to know its length, but the training has {self.total_steps} steps, "
                f"{self.steps_per_epoch} an epoch: set trainer.max_epochs=10 (or trainer.max_steps)"
            )


def cosine(
    optimizer: Optimizer,
    *,
    horizon: Horizon,
    warmup_epochs: float = 1,
    warmup_steps: int | None = None,
    min_lr: float = 1e-6,
) -> LambdaLR:
    """Warm-up, then half a cosine that ends every group at `min_lr` after the last step (SGDR, ICLR 2017)."""
    return _decay(
        optimizer, horizon, warmup_epochs, warmup_steps, min_lr, lambda t: (1 + math.cos(math.pi * t)) / 2
    )


def linear(
    optimizer: Optimizer,
    *,
    horizon: Horizon,
    warmup_epochs: float = 1,
    warmup_steps: int | None = None,
    min_lr: float = 1e-6,
) -> LambdaLR:
    """Warm-up, then a straight line that brings every group to `min_lr` after the last step."""
    return _decay(optimizer, horizon, warmup_epochs, warmup_steps, min_lr, lambda t: 1 - t)


def constant(
    optimizer: Optimizer, *, horizon: Horizon, warmup_epochs: float = 1, warmup_steps: int | None = None
) -> LambdaLR:
    """Warm-up, then every group at its peak."""
    warmup = _warmup_steps(horizon, warmup_epochs, warmup_steps)
    return LambdaLR(optimizer, lambda k: _rise(k, warmup))


def step(
    optimizer: Optimizer,
    *,
    horizon: Horizon,
    every_epochs: int,
    gamma: float = 0.1,
    warmup_epochs: float = 1,
    warmup_steps: int | None = None,
) -> LambdaLR:
    """Warm-up, and a factor of `gamma` at the end of every `every_epochs` epochs, counted from the first."""
    if every_epochs < 1:
        raise ConfigError(f"scheduler.every_epochs={every_epochs} must be at least 1")
    warmup = _warmup_steps(horizon, warmup_epochs, warmup_steps)
    period = every_epochs * horizon.steps_per_epoch
    return LambdaLR(optimizer, lambda k: _rise(k, warmup) * gamma ** (k // period))


def plateau(
    optimizer: Optimizer,
    *,
    factor: float = 0.1,
    patience: int = 2,
    min_lr: float = 1e-6,
    mode: Literal["min", "max"] = "min",
) -> ReduceLROnPlateau:
    """A factor of `factor` whenever the monitored value has not improved for more than `patience` epochs.

    Stepped once per epoch with the monitored value; `mode` says in which direction it improves. No warm-up.
    """
    _check_floor(optimizer, min_lr)
    return ReduceLROnPlateau(optimizer, mode=mode, factor=factor, patience=patience, min_lr=min_lr)


def _decay(
    optimizer: Optimizer,
    horizon: Horizon,
    warmup_epochs: float,
    warmup_steps: int | None,
    min_lr: float,
    shape: Callable[[float], float],
) -> LambdaLR:
    """Warm-up, then peak to min_lr along `shape`, which falls from 1 to 0 on [0, 1]."""
    warmup = _warmup_steps(horizon, warmup_epochs, warmup_steps)
    _check_floor(optimizer, min_lr)

    def factor_for(peak: float) -> Callable[[int], float]:
        floor = min_lr / peak if peak else 0.0

        def factor(k: int) -> float:
            if k < warmup:
                return _rise(k, warmup)
            if k >= horizon.total_steps:
                return floor
            return floor + (1 - floor) * shape((k - warmup) / (horizon.total_steps - warmup))

        return factor

    return LambdaLR(optimizer, [factor_for(_peak(group)) for group in optimizer.param_groups])


def _rise(k: int, warmup: int) -> float:
    return min(1.0, (k + 1) / (warmup + 1))


def _warmup_steps(horizon: Horizon, warmup_epochs: float, warmup_steps: int | None) -> int:
    if warmup_steps is not None:
        steps, asked = warmup_steps, f"scheduler.warmup_steps={warmup_steps}"
    else:
        steps, asked = (
            round(warmup_epochs * horizon.steps_per_epoch),
            f"scheduler.warmup_epochs={warmup_epochs:g}",
        )
    if steps < 0:
        raise ConfigError(f"{asked} must not be negative: 0 starts at the full learning rate")
    if steps > horizon.total_steps:
        raise ConfigError(
            f"{asked} makes a warm-up of {steps} steps, longer than the training of {horizon.total_steps}: "
            f"train longer (trainer.max_epochs), or set scheduler.warmup_steps={horizon.total_steps // 10}"
        )
    return steps


def _check_floor(optimizer: Optimizer, min_lr: float) -> None:
    for index, group in enumerate(optimizer.param_groups):
        if min_lr > _peak(group) > 0:
            name = group.get("name", index)
            raise ConfigError(
                f"scheduler.min_lr={min_lr:g} is above the learning rate {_peak(group):g} of the parameter "
                f"group {name}, which would rise instead of fall: set scheduler.min_lr=0"
            )


def _peak(group: dict[str, object]) -> float:
    # LambdaLR multiplies `initial_lr`, which a resumed optimizer carries while its `lr` has moved on.
    return float(group.get("initial_lr", group["lr"]))  # type: ignore[arg-type]
