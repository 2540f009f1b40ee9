"""Pixels to the range a network was trained on; the first layer of every network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn


class Statistics(NamedTuple):
    """Mean and standard deviation a channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Statistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


LARGE_IMAGE = 2**16
"""Values (pixels times channels) from which an image is normalised by itself on a CPU."""


class Normalize(nn.Module):
    """(pixels - mean) / std a channel, with mean and std in [0, 1]: `Normalize(*IMAGENET)`.

    Takes [B, C, H, W] as uint8 in 0..255 and returns the dtype of the module (float32 unless it was cast), or
    as float in [0, 1] and returns that dtype. The division by 255 is folded into the constants: a multiply
    and an add. The buffers are not part of the state dict. Raises ValueError for other dtypes and channel
    counts.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise ValueError(f"mean={mean} and std={std} must have one value a channel, std above 0")
        self.mean, self.std = tuple(mean), tuple(std)
        inverse = torch.tensor([1 / value for value in std], dtype=torch.float64)
        shift = -torch.tensor(mean, dtype=torch.float64) * inverse
        self.register_buffer("scale", inverse.float().view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] uint8 or float to normalised float [B, C, H, W]."""
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(f"images of shape {tuple(images.shape)}: expected [B, {len(self.mean)}, H, W]")
        if images.dtype == torch.uint8:
            scale, shift = (self.scale / 255).float(), self.shift.float()
            if _one_by_one(images):
                pixels = torch.empty(images.shape, dtype=torch.float32)
                for image, out in zip(images, pixels, strict=True):
                    torch.mul(image, scale, out=out).add_(shift)
            else:
                pixels = images.float().mul_(scale).add_(shift)
            return pixels.to(self.scale.dtype)
        if not images.is_floating_point():
            raise ValueError(f"images of dtype {images.dtype}: expected uint8 in 0..255 or float in [0, 1]")
        return (images * self.scale + self.shift).to(images.dtype)

    def extra_repr(self) -> str:
        """Mean and std, for print(network)."""
        return f"mean={self.mean}, std={self.std}"


def _one_by_one(images: torch.Tensor) -> bool:
    """Whether the images are large enough that one fills a processor's cache: a batch passes through it three
    times as a whole, and once image by image (1.2 times the whole loader, see benchmarks/loader.py).
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return images.device.type == "cpu" and not traced and len(images) > 1 and images[0].numel() >= LARGE_IMAGE
