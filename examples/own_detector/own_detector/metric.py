"""Metrics: a whole split's logits and labels in, one number out."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def recall_at_false_alarms(logits: Tensor, labels: Tensor, *, rate: float = 0.05) -> Tensor:
    """The share of generated images that is found when at most a share `rate` of real ones is accused.

    logits: float32 [N]. labels: int64 [N], 0 real and 1 generated. NaN where a class is absent.
    """
    real, generated = logits[labels == 0], logits[labels == 1]
    if not len(real) or not len(generated):
        return torch.tensor(math.nan)
    allowed = math.floor(rate * len(real))
    threshold = real.sort(descending=True).values[allowed] if allowed < len(real) else -math.inf
    return (generated > threshold).float().mean()
