"""What happens to images on their way through the world: recompression, blur, noise, scaling.

All take and return uint8 [C, H, W] with C of 1 or 3; the random ones draw from torch's default generator,
which the caller seeds for each sample (`images.augment`). A value out of range raises ConfigError.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
import torch
from PIL import Image

from ..errors import ConfigError, DataError
from .decode import Backend
from .geometry import scale

JpegCodec = Literal["pillow", "simplejpeg"]
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]


def jpeg(
    image: torch.Tensor,
    quality: int,
    *,
    codec: JpegCodec = "pillow",
    subsampling: Subsampling = "4:2:0",
) -> torch.Tensor:
    """Compressed to JPEG of quality 1..100 and decoded again.

    codec: `pillow` encodes with libjpeg's accurate DCT (OpenCV does too), `simplejpeg` with TurboJPEG's fast
        DCT below quality 96: other coefficients from the same quantisation tables. Grey images have no
        subsampling.
    """
    _check_range("quality", quality, 1, 100)
    _check_choice("codec", codec, ("pillow", "simplejpeg"))
    _check_choice("subsampling", subsampling, ("4:4:4", "4:2:2", "4:2:0"))
    pixels = _to_numpy(image)
    grey = pixels.shape[2] == 1
    if codec == "pillow":
        return _through_pillow(pixels, "JPEG", quality=quality, subsampling=subsampling)
    colors = "GRAY" if grey else "RGB"
    data = simplejpeg.encode_jpeg(pixels, quality, colors, "Gray" if grey else subsampling.replace(":", ""))
    return _to_torch(simplejpeg.decode_jpeg(data, colors))


def webp(image: torch.Tensor, quality: int) -> torch.Tensor:
    """Compressed to lossy WebP of quality 0..100 and decoded again; grey travels as RGB."""
    _check_range("quality", quality, 0, 100)
    return _through_pillow(_to_numpy(image), "WEBP", quality=quality)


def gaussian_blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Each channel blurred with a Gaussian of `sigma` pixels, cut at 4 sigma, borders mirrored.

    Equals scipy.ndimage.gaussian_filter with its defaults on float pixels, then rounded. (CNNDetection lets
    scipy write into uint8, which rounds down after each axis and so darkens a blurred image by about one
    level.)
    """
    _check_range("sigma", sigma, 0, 1000)
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return image
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (kernel / kernel.sum()).tolist()
    blurred = image.float()
    for axis in (1, 2):  # sums of shifted copies: faster than conv2d and scipy on one core
        length = blurred.shape[axis]
        padded = blurred.index_select(axis, _mirrored(length, radius))
        blurred = padded.narrow(axis, 0, length) * weights[0]
        for shift, weight in enumerate(weights[1:], start=1):
            blurred.add_(padded.narrow(axis, shift, length), alpha=weight)
    return _to_levels(blurred)


def gaussian_noise(image: torch.Tensor, std: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Independent Gaussian noise of `std` levels (of 255) on every value; None: torch's default generator."""
    _check_range("std", std, 0, 255)
    return _to_levels(image + std * torch.randn(image.shape, generator=generator))


def resize_factor(image: torch.Tensor, factor: float, *, backend: Backend = "fast") -> torch.Tensor:
    """Scaled to `factor` times its height and width (at least 1 pixel), bilinear and antialiased."""
    if not factor > 0:
        raise ConfigError(f"factor={factor} must be above 0: 0.5 halves both sides")
    height, width = image.shape[-2:]
    return scale(image, (max(1, round(height * factor)), max(1, round(width * factor))), backend=backend)


@dataclass(frozen=True)
class RandomGaussianBlur:
    """With probability `p` a Gaussian blur, its sigma uniform over `sigma` (CNNDetection: 0 to 3 pixels)."""

    p: float
    sigma: Sequence[float] = (0.0, 3.0)

    def __post_init__(self) -> None:
        _check_range("p", self.p, 0, 1)
        _check_interval("sigma", self.sigma, 0, 1000)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 [C, H, W] to the same."""
        if torch.rand(()).item() >= self.p:
            return image
        low, high = self.sigma
        return gaussian_blur(image, low + (high - low) * torch.rand(()).item())


@dataclass(frozen=True)
class RandomJpeg:
    """With probability `p` a JPEG compression, its quality uniform over all integers from first to last.

    CNNDetection writes 30,100 and means 30, 31, …, 100; copies of it have sampled the two ends only.
    """

    p: float
    quality: Sequence[int] = (30, 100)
    codec: JpegCodec = "pillow"

    def __post_init__(self) -> None:
        _check_range("p", self.p, 0, 1)
        _check_interval("quality", self.quality, 1, 100)
        _check_choice("codec", self.codec, ("pillow", "simplejpeg"))

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 [C, H, W] to the same."""
        if torch.rand(()).item() >= self.p:
            return image
        first, last = self.quality
        return jpeg(image, int(torch.randint(first, last + 1, ())), codec=self.codec)


# --- helpers ---


def _mirrored(length: int, radius: int) -> torch.Tensor:
    """Indices -radius … length + radius - 1 folded as c b a | a b c | c b a, however small the image."""
    index = torch.arange(-radius, length + radius) % (2 * length)
    return torch.where(index < length, index, 2 * length - 1 - index)


def _to_levels(values: torch.Tensor) -> torch.Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)


def _through_pillow(pixels: np.ndarray, name: str, **options: int | str) -> torch.Tensor:
    grey = pixels.shape[2] == 1
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if grey else pixels).save(buffer, name, **options)
    with Image.open(buffer) as decoded:
        array = np.array(decoded.convert("L" if grey else "RGB"))
    return _to_torch(array[:, :, None] if grey else array)


def _to_numpy(image: torch.Tensor) -> np.ndarray:
    """CHW to contiguous HWC, for the codecs."""
    if image.dtype != torch.uint8:
        kind = str(image.dtype).removeprefix("torch.")
        raise DataError(
            f"JPEG and WebP hold uint8 images, and this one is {kind}, as data.radiometry makes them: type "
            "augment=thermal, or another augment without compression"
        )
    pixels: np.ndarray = image.permute(1, 2, 0).contiguous().numpy()
    return pixels


def _to_torch(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name}={value} is out of range: use {low} to {high}")


def _check_interval(name: str, ends: Sequence[float], low: float, high: float) -> None:
    if len(ends) != 2 or not low <= ends[0] <= ends[1] <= high:
        raise ConfigError(f"{name}={list(ends)} is no interval within {low} to {high}: give [first, last]")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"unknown value {name}={value}: {', '.join(known)}")
