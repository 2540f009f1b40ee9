"""An exponential moving average of the weights that is useful from the first epoch on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from ..errors import ConfigError


class EMA(WeightAveraging):
    """After optimizer step t the average moves by 1 − min(decay, (1 + t) / (10 + t)) towards the weights.

    With a constant decay, as Lightning's EMAWeightAveraging has it, the random weights of the start make up
    a third of the average after 1,000 steps at 0.999; a decay that rises forgets them at once (the schedule
    of TensorFlow's ExponentialMovingAverage). The average is what is validated, kept and tested; buffers
    (the statistics of batch normalisation) are averaged too. Raises ConfigError for a decay outside [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ConfigError(
                f"callbacks.ema.decay={decay} must lie in [0, 1): 0.999 averages about 1,000 steps"
            )
        super().__init__(use_buffers=True, multi_avg_fn=self._average)
        self.decay = decay
        self._towards = 1.0

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Lightning's hook, called once behind each optimizer step."""
        if step_idx is None:
            return False
        self._towards = 1.0 - min(self.decay, (1 + step_idx) / (10 + step_idx))
        return True

    @torch.no_grad()
    def _average(self, averages: Sequence[Tensor], current: Sequence[Tensor], _: Any) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), list(current), self._towards)
            return
        for average, now in zip(averages, current, strict=True):  # counters of batch normalisation
            average.copy_(now)
