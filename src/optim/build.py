"""From a config's partials to an optimizer and a schedule."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from functools import partial
from typing import Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..errors import ConfigError
from .groups import backbone_parameters, parameter_groups
from .schedules import Horizon, plateau


def build_optimizer(
    optimizer: partial[Optimizer],
    module: nn.Module,
    *,
    backbone_lr: float | None = None,
    later: Collection[nn.Parameter] = (),
    later_lr_ratio: float = 1.0,
) -> Optimizer:
    """The optimizer over `module`'s trainable parameters, grouped as `parameter_groups` says.

    optimizer: a partial of any optimizer class, as partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.01);
        what it leaves open keeps the class's default. Classes without weight decay get none.
    backbone_lr: learning rate of what the network names in `backbone_parameters()`; None for the same rate.
    later, later_lr_ratio: parameters that are frozen now and will be trained, at what share of the rate.
    Raises TrainingError when nothing trains, ConfigError when the class refuses its arguments.
    """
    name = getattr(optimizer.func, "__name__", str(optimizer.func))
    arguments = inspect.signature(optimizer).parameters
    if "lr" not in arguments or arguments["lr"].default is inspect.Parameter.empty:
        raise ConfigError(f"the optimizer {name} needs a learning rate: optimizer.lr=1e-4")
    decays = "weight_decay" in arguments
    groups = parameter_groups(
        module,
        lr=float(arguments["lr"].default),
        weight_decay=float(arguments["weight_decay"].default) if decays else 0.0,
        backbone=backbone_parameters(module),
        backbone_lr=backbone_lr,
        later=later,
        later_lr_ratio=later_lr_ratio,
    )
    if not decays:
        for group in groups:
            del group["weight_decay"]
    try:
        return optimizer(groups)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the optimizer {name} refused its arguments: {error}") from error


def build_scheduler(
    scheduler: partial[LRScheduler] | partial[ReduceLROnPlateau],
    optimizer: Optimizer,
    *,
    horizon: Horizon,
    mode: Literal["min", "max"],
) -> LRScheduler | ReduceLROnPlateau:
    """The schedule of `optimizer`, given what it asks for.

    A schedule with an argument `horizon` (all of `optim.schedules` but `plateau`) gets it; plateau gets
    `mode`, the direction in which the monitored value improves. Any other torch scheduler gets the optimizer
    alone.
    Step a ReduceLROnPlateau once an epoch with the monitored value, everything else once an optimizer step.
    """
    if scheduler.func in (plateau, ReduceLROnPlateau):
        return scheduler(optimizer, mode=mode)
    if "horizon" in inspect.signature(scheduler).parameters:
        return scheduler(optimizer, horizon=horizon)
    return scheduler(optimizer)
