"""What varies from one thermal camera to the next: gain and offset, fixed-pattern noise, dead pixels.

All take [C, H, W], uint8 or float32 in [0, 1], and return the same dtype; amounts are shares of the range, so
0.05 is 5 % of it whatever the dtype. Channels are copies of one, and are changed alike. They draw from
torch's default generator, which the caller seeds for each sample; a value out of range raises ConfigError.
Flips, rotation, blur and polarity inversion are torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import ConfigError


@dataclass(frozen=True)
class RandomGainOffset:
    """With probability `p` v * gain + offset, saturated at both ends as a sensor is.

    gain: factors in order, drawn evenly on a logarithmic scale, so that half and double are alike. offset:
    shares of the range in order, drawn evenly.
    """

    p: float = 0.5
    gain: Sequence[float] = (0.8, 1.25)
    offset: Sequence[float] = (-0.1, 0.1)

    def __post_init__(self) -> None:
        _check_share("p", self.p)
        if len(self.gain) != 2 or not 0 < self.gain[0] <= self.gain[1] < float("inf"):
            raise ConfigError(f"gain={list(self.gain)} must be two factors in order, for example [0.8,1.25]")
        if len(self.offset) != 2 or not -1 <= self.offset[0] <= self.offset[1] <= 1:
            raise ConfigError(
                f"offset={list(self.offset)} must be two shares of the range in order, for example [-0.1,0.1]"
            )

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """[C, H, W] to the same."""
        if torch.rand(()).item() >= self.p:
            return image
        first, last = (math.log(factor) for factor in self.gain)
        gain = math.exp(first + (last - first) * torch.rand(()).item())
        low, high = self.offset
        offset = low + (high - low) * torch.rand(()).item()
        return _as_given(_shares(image) * gain + offset, image)


@dataclass(frozen=True)
class RandomFixedPattern:
    """With probability `p` the stripes of an uncooled sensor: an offset of its own for each row and column.

    row, column: largest standard deviation of the offsets, as a share of the range; that of an image is drawn
    evenly from 0 to it.
    """

    p: float = 0.5
    row: float = 0.02
    column: float = 0.02

    def __post_init__(self) -> None:
        for name, value in (("p", self.p), ("row", self.row), ("column", self.column)):
            _check_share(name, value)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """[C, H, W] to the same."""
        if torch.rand(()).item() >= self.p:
            return image
        height, width = image.shape[-2:]
        rows = torch.randn(height, 1) * (self.row * torch.rand(()).item())
        columns = torch.randn(1, width) * (self.column * torch.rand(()).item())
        return _as_given(_shares(image) + rows + columns, image)


@dataclass(frozen=True)
class RandomDeadPixels:
    """With probability `p` pixels that no longer answer, black or white with even chances.

    share: the largest part of the pixels; that of an image is drawn evenly from 0 to it, and the number of
    dead pixels is rounded to the nearest.
    """

    p: float = 0.5
    share: float = 0.002

    def __post_init__(self) -> None:
        _check_share("p", self.p)
        _check_share("share", self.share)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """[C, H, W] to the same."""
        if torch.rand(()).item() >= self.p:
            return image
        size = image.shape[-2] * image.shape[-1]
        dead = torch.randperm(size)[: round(size * self.share * torch.rand(()).item())]
        white = 255 if image.dtype == torch.uint8 else 1
        values = torch.randint(0, 2, (len(dead),)).to(image.dtype) * white
        changed = image.flatten(1).clone()
        changed[:, dead] = values
        return changed.view(image.shape)


# --- helpers ---


def _shares(image: torch.Tensor) -> torch.Tensor:
    """float32 in [0, 1]."""
    return image.to(torch.float32) / 255 if image.dtype == torch.uint8 else image


def _as_given(shares: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Saturated, and in the dtype of `image`."""
    kept = shares.clamp(0, 1)
    return (kept * 255).round_().to(torch.uint8) if image.dtype == torch.uint8 else kept


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}={value} is out of range: use 0 to 1")
