"""Blacking out patches of training images (SAFE, KDD 2025), so that a detector can't rest on one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import ConfigError


@dataclass(frozen=True)
class RandomMask:
    """With probability `p` a share of the patches turned black, the share uniform over `ratio`.

    patch: side in pixels. Patches lie on a grid from the top left; the number of black ones is the share of
        the image's pixels divided by a patch's, rounded down, and at most all that fit. Pixels beyond the
        last whole patch stay. Draws from torch's default generator, which the caller seeds for each sample.
    """

    p: float = 0.5
    ratio: Sequence[float] = (0.0, 0.75)
    patch: int = 16

    def __post_init__(self) -> None:
        low, high = self.ratio if len(self.ratio) == 2 else (0.0, 2.0)
        if not 0 <= self.p <= 1:
            raise ConfigError(f"p={self.p} is no probability: between 0 and 1")
        if not 0 <= low <= high <= 1:
            raise ConfigError(f"ratio={list(self.ratio)} must be two shares in order, for example [0.0,0.75]")
        if self.patch < 1:
            raise ConfigError(f"patch={self.patch} is no side of a patch: 1 pixel or more, for example 16")

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 [C, H, W] to the same."""
        if torch.rand(()).item() >= self.p:
            return image
        low, high = self.ratio
        share = low + (high - low) * torch.rand(()).item()
        rows, columns = image.shape[-2] // self.patch, image.shape[-1] // self.patch
        number = int(image.shape[-2] * image.shape[-1] * share / self.patch**2)
        chosen = torch.randperm(rows * columns)[:number]
        kept = torch.ones(rows * columns, dtype=image.dtype)
        kept[chosen] = 0
        grid = kept.view(rows, columns).repeat_interleave(self.patch, 0).repeat_interleave(self.patch, 1)
        mask = torch.ones(image.shape[-2:], dtype=image.dtype)
        mask[: grid.shape[0], : grid.shape[1]] = grid
        return image * mask
