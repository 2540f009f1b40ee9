"""A network: image to logit."""

from __future__ import annotations

import torch
from tapetum.images.geometry import InputSpec
from tapetum.images.normalize import Normalize
from torch import Tensor, nn


class HighPass(nn.Module):
    """What is left of an image when its blurred copy is taken away, through three convolutions.

    size: side in pixels of the square that the network sees. width: channels of the first convolution.
    classes: 1 for one logit (positive means generated), k > 1 for k-way attribution with class 0 = real.
    """

    def __init__(self, *, size: int = 64, width: int = 16, classes: int = 1) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(size, size), resize="squash")
        self.normalize = Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        self.blur = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1, stride=2),
            nn.ReLU(),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B], or [B, classes] when k-way."""
        pixels = self.normalize(images)
        features = self.layers(pixels - self.blur(pixels)).mean(dim=(2, 3))
        logits: Tensor = self.head(features).float()
        return torch.squeeze(logits, 1) if logits.shape[1] == 1 else logits
