"""Moving training images by a few pixels, whatever their size, without black borders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchvision.transforms.v2 import functional as F

from ..errors import ConfigError


@dataclass(frozen=True)
class RandomShift:
    """An image moved by up to `pixels` along both axes; what comes in from beyond the border is mirrored.

    torchvision's RandomCrop with this padding draws the same, but has to be told a size. Draws from torch's
    default generator, which the caller seeds for each sample.
    """

    pixels: int = 2

    def __post_init__(self) -> None:
        if self.pixels < 1:
            raise ConfigError(f"pixels={self.pixels} moves nothing: 1 or more, for example 2")

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 [C, H, W] to the same."""
        height, width = image.shape[-2:]
        top, left = (int(torch.randint(0, 2 * self.pixels + 1, size=())) for _ in range(2))
        moved: torch.Tensor = F.pad(image, [self.pixels] * 4, padding_mode="reflect")
        return moved[..., top : top + height, left : left + width]
