"""Metrics that a user adds under `model.metrics`, computed as the built-in ones are: over a whole split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import ConfigError

OwnMetric = Metric | Callable[[Tensor, Tensor], Any]


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, OwnMetric]:
    """The metrics by name, those set to null left out; ConfigError for what can't be called."""
    found: dict[str, OwnMetric] = {name: metric for name, metric in metrics.items() if metric is not None}
    for name, metric in found.items():
        if not callable(metric):
            raise ConfigError(
                f"model.metrics.{name} is {metric!r} and no metric: give a class of torchmetrics or of "
                f"yours, or a function of logits and labels with model.metrics.{name}._partial_=true"
            )
        if isinstance(metric, Metric):
            for part in metric.modules():
                if isinstance(part, Metric):  # what it gets has been gathered from all processes already
                    part.distributed_available_fn = _alone
    return found


def own_metrics(metrics: Mapping[str, OwnMetric], logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The figure of each metric on logits float [N] and labels int64 [N], 0 real and 1 generated.

    A torchmetrics.Metric gets the probabilities of generated, float64 [N] (of logits it would guess from
    their range what they are), and the labels; anything else is called with logits float32 [N] and labels.
    All are on the CPU. Raises ConfigError for a result that is not one number.
    """
    logits, labels = logits.detach().float().cpu(), labels.cpu()
    figures = {}
    for name, metric in metrics.items():
        if isinstance(metric, Metric):
            metric.reset()
            metric.update(torch.sigmoid(logits.double()), labels)
            value = metric.compute()
            metric.reset()  # nothing of a split stays behind, neither in memory nor in the next figure
        else:
            value = metric(logits, labels)
        figures[name] = _number(name, value)
    return figures


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = f" of shape {list(value.shape)}" if isinstance(value, Tensor) else ""
        raise ConfigError(
            f"model.metrics.{name} returned a {type(value).__name__}{shape}: a metric returns one number"
        ) from error


def _alone() -> bool:
    return False
