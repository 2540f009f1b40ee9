"""A loss: logits and targets in, one number out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Focal(nn.Module):
    """Binary focal loss (Lin et al., ICCV 2017, equation 5): easy images count less.

    gamma: 0 is cross-entropy; with 2, an image that is right at p = 0.9 counts a hundredth.
    alpha: weight of generated images in [0, 1], that of real ones is 1 - alpha; None for equal weights.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = None) -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits float [B], targets float [B] of 0 (real) and 1 (generated) -> scalar."""
        cross_entropy = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
        loss = (1 - (-cross_entropy).exp()) ** self.gamma * cross_entropy
        if self.alpha is not None:
            loss = loss * (self.alpha * targets + (1 - self.alpha) * (1 - targets))
        return loss.mean()
