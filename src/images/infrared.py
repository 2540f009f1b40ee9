"""Infrared images: levels as the camera stored them, and the one explicit step that makes them pixels.

A thermal camera writes 14 bits into 16; an ordinary image reader makes 8 of them by clipping, and a frame
goes white without a word. Here levels stay levels until a radiometric map, which the config names, says what
is black and what is white. All maps take uint8 or uint16 [1, H, W] and return float32 [1, H, W] in [0, 1]; a
constant image, of which nothing can be stretched, becomes 0 under those that stretch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import ConfigError, DataError, ImageError
from .decode import DEFAULT_LIMITS, Limits, decode_stored
from .sources import read_bytes

Radiometry = Callable[[Tensor], Tensor]

TINT = 16
"""Levels of 255 by which JPEG's coarse chroma may tear the channels of a grey picture apart."""
TINTED = 0.01
"""Share of pixels that may be torn further: a few at hard edges."""


def read_levels(root: Path, path: str, *, limits: Limits = DEFAULT_LIMITS) -> Tensor:
    """The infrared image at `path` as uint8 or uint16 [1, H, W]: `read_bytes`, then `decode_levels`."""
    return decode_levels(read_bytes(root, path, limits=limits), limits=limits)


def decode_levels(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Tensor:
    """A whole image file as uint8 or uint16 [1, H, W], neither scaled nor clipped; see `decode_stored`.

    Three channels that are one grey picture become Pillow's luma of them; ImageError where they are not, so
    for visible images and for infrared in false colours.
    """
    return one_channel(decode_stored(data, limits=limits))


def one_channel(pixels: Tensor) -> Tensor:
    """[1, H, W] of uint8 or uint16 [1, H, W], or of uint8 [3, H, W] whose channels are one grey picture."""
    if pixels.shape[0] == 1:
        return pixels
    apart = pixels.amax(0) - pixels.amin(0)
    tinted = int((apart > TINT).sum()) / apart.numel()
    if tinted > TINTED:
        raise ImageError(
            f"a visible image where infrared is expected (or infrared in false colours): on {tinted:.0%} of "
            f"its pixels the channels are more than {TINT} of 255 levels apart. Leave it out, or say that "
            "its modality is visible"
        )
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return torch.from_numpy(np.array(picture.convert("L")))[None]


def to_image(levels: Tensor, radiometry: Radiometry | None, channels: Literal[1, 3]) -> Tensor:
    """Levels as a network is fed them: [channels, H, W], the one channel repeated.

    Without radiometry uint8 as stored, and ImageError for 16 bits; with it float32 in [0, 1]. DataError where
    a map of one's own returns something else.
    """
    if radiometry is not None:
        image = _checked(radiometry(levels), levels, radiometry)
    elif levels.dtype == torch.uint8:
        image = levels
    else:
        raise ImageError(
            "its levels have 16 bits, and data.radiometry is null: choose how they become pixels, such as "
            "'data.radiometry={_target_:tapetum.images.infrared.ImagePercentile}' "
            f"({', '.join(kind.__name__ for kind in MAPS)})"
        )
    return in_channels(image, channels)


def in_channels(image: Tensor, channels: Literal[1, 3]) -> Tensor:
    """[1, H, W] as [channels, H, W], stored as `decode` stores grey, so that a resize has the same bits."""
    if channels == 1:
        return image
    # numpy repeats a small image in half of torch's time.
    return torch.from_numpy(np.repeat(image.permute(1, 2, 0).numpy(), channels, axis=2)).permute(2, 0, 1)


# --- radiometric maps ---


@dataclass(frozen=True)
class FullRange:
    """v / (2**bits - 1): every level keeps its place, and images stay comparable.

    bits: None is the depth of the file, 8 or 16; FLIR's cameras write 14 into 16. ImageError for a level
        above, and for an image of 8 bits where more are promised.
    """

    bits: int | None = None

    def __post_init__(self) -> None:
        if self.bits is not None and not 1 <= self.bits <= 16:
            raise ConfigError(f"bits={self.bits} is no depth: 1 to 16, or null for that of the file")

    def __call__(self, levels: Tensor) -> Tensor:
        """uint8 or uint16 [1, H, W] to float32 in [0, 1]."""
        depth = _depth(levels)
        bits = depth if self.bits is None else self.bits
        values, top = levels.to(torch.float32), float(2**bits - 1)
        if depth == 8 and bits > 8:
            raise ImageError(f"levels of 8 bits under a range of {bits}: they would be black. Take bits=8")
        if float(values.max()) > top:
            raise ImageError(f"its level {values.max():.0f} is above {top:.0f}, the last of bits={bits}")
        return values / top


@dataclass(frozen=True)
class Window:
    """(v - low) / (high - low), all below black and all above white: a fixed range of raw counts.

    low, high: counts, as `DatasetPercentile.fit` finds them or as the camera's calibration gives them.
    ImageError where the window and the depth of the image cannot belong together: 16 bits under a window
    that ends at 255 or below, 8 bits under one that ends above; and for an image of 16 bits of which more
    than a share `clipped` lies beyond its ends, so that it would be white or black without a word.
    """

    low: float
    high: float
    clipped: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 65535:
            raise ConfigError(
                f"low={self.low:g} and high={self.high:g} are no window of raw counts: "
                "0 <= low < high <= 65535"
            )
        if not 0 < self.clipped <= 1:
            raise ConfigError(f"clipped={self.clipped:g} is no share: above 0, and 1 for no limit")

    def __call__(self, levels: Tensor) -> Tensor:
        """uint8 or uint16 [1, H, W] to float32 in [0, 1]."""
        depth = _depth(levels)
        if (depth == 16) != (self.high > 255):
            effect = "nearly all of it would be white" if depth == 16 else "8 bits do not reach that far"
            raise ImageError(
                f"an image of {depth} bits under the window low={self.low:g} high={self.high:g}: {effect}. "
                "Give the window in the counts of this data, or take FullRange or ImagePercentile"
            )
        mapped = _between(levels, self.low, self.high)
        if depth == 16 and self.clipped < 1:
            values = levels.to(torch.float32)
            for share, what in (
                (float((values > self.high).float().mean()), "white"),
                (float((values < self.low).float().mean()), "black"),
            ):
                if share > self.clipped:
                    raise ImageError(
                        f"{share:.0%} of the image would be {what}: its levels go from {values.min():.0f} "
                        f"to {values.max():.0f}, and the window is low={self.low:g} high={self.high:g}. Give "
                        "the window in the counts of this data, take ImagePercentile, or let it be with "
                        "clipped=1.0"
                    )
        return mapped


@dataclass(frozen=True)
class DatasetPercentile:
    """The window between two percentiles of all pixels of a data set; `fit` finds it, once, on train images.

    low, high: per cent. images: how many of them `fit` looks at.
    """

    low: float = 1.0
    high: float = 99.0
    images: int = 2000

    def __post_init__(self) -> None:
        _check_percentiles(self.low, self.high)
        if self.images < 1:
            raise ConfigError(f"images={self.images} is nothing to fit on: 1 or more, for example 2000")

    def fit(self, levels: Iterable[Tensor]) -> Window:
        """The Window of the first `images` images, so they should be drawn from all over the data set.

        levels: uint8 or uint16 [1, H, W], all of one depth. Every pixel counts, and the percentiles are
        exact, with numpy's linear interpolation. DataError where there are no images, where depths are mixed,
        and where no window comes out.
        """
        counts: NDArray[np.int64] | None = None
        for one in islice(levels, self.images):
            found = _histogram(one)
            if counts is not None and len(found) != len(counts):
                raise DataError(
                    "DatasetPercentile has met levels of 8 and of 16 bits, which share no window: keep one "
                    "kind in the data set, or take ImagePercentile"
                )
            counts = found if counts is None else counts + found
        if counts is None:
            raise DataError("DatasetPercentile has no image to fit on: is the train split empty?")
        low, high = _percentiles(counts, self.low, self.high)
        if low == high:
            raise DataError(
                f"the levels at {self.low:g} and {self.high:g} per cent of the data set are both {low:g}: "
                "take percentiles further apart (low=0 high=100), or MinMax"
            )
        if len(counts) > 256 and high <= 255:
            raise DataError(
                f"{self.high:g} per cent of the levels in these 16-bit files lie up to {high:g}: they hold 8 "
                "bits. Take FullRange with bits=8, or ImagePercentile"
            )
        return Window(low, high)

    def __call__(self, levels: Tensor) -> Tensor:
        """Raises ConfigError: the window that `fit` returned is called instead."""
        raise ConfigError(
            "data.radiometry is a DatasetPercentile that was never fitted: call fit(levels) on train images "
            "and use the Window that it returns"
        )


@dataclass(frozen=True)
class ImagePercentile:
    """The window between two percentiles of the image itself: strong contrast, temperatures not comparable.

    low, high: per cent, numpy's linear interpolation. Where both are the same level, what is above it becomes
    1 and the rest 0.
    """

    low: float = 1.0
    high: float = 99.0

    def __post_init__(self) -> None:
        _check_percentiles(self.low, self.high)

    def __call__(self, levels: Tensor) -> Tensor:
        """uint8 or uint16 [1, H, W] to float32 in [0, 1]."""
        _depth(levels)
        return _between(levels, *_percentiles(_histogram(levels), self.low, self.high))


@dataclass(frozen=True)
class MinMax:
    """From the image's lowest to its highest level: nothing is clipped, one hot pixel darkens the rest."""

    def __call__(self, levels: Tensor) -> Tensor:
        """uint8 or uint16 [1, H, W] to float32 in [0, 1]."""
        _depth(levels)
        values = levels.to(torch.float32)
        return _between(levels, float(values.min()), float(values.max()))


@dataclass(frozen=True)
class Clahe:
    """Contrast-limited adaptive histogram equalisation (Zuiderveld, Graphics Gems IV, 1994), OpenCV's.

    The range before it: 8 bits as they are; 16 bits stretched from the image's lowest to its highest level
    over all 65,536, so that none is clipped and none are merged.

    clip_limit: of the contrast, in multiples of a flat histogram. tiles: across and down. With 16 bits OpenCV
    has 65,536 bins and keeps at least one count in each, so that no limit below 65536 / (pixels in a tile) is
    felt.
    """

    clip_limit: float = 2.0
    tiles: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.clip_limit < float("inf"):
            raise ConfigError(f"clip_limit={self.clip_limit} limits nothing: above 0, for example 2.0")
        if not 1 <= self.tiles <= 256:
            raise ConfigError(f"tiles={self.tiles} is no number of tiles: 1 to 256, for example 8")

    def __call__(self, levels: Tensor) -> Tensor:
        """uint8 or uint16 [1, H, W] to float32 in [0, 1]."""
        depth = _depth(levels)
        pixels = np.ascontiguousarray(levels[0].numpy())
        low, high = int(pixels.min()), int(pixels.max())
        if low == high:
            return torch.zeros(levels.shape)
        if depth == 16:
            stretched = (pixels.astype(np.float64) - low) * (65535 / (high - low))
            pixels = np.round(stretched).astype(np.uint16)
        # Made for each image: OpenCV's keeps buffers, and several threads read images.
        clahe = _opencv().createCLAHE(clipLimit=self.clip_limit, tileGridSize=(self.tiles, self.tiles))
        return torch.from_numpy(clahe.apply(pixels).astype(np.float32) / (2**depth - 1))[None]


MAPS = (FullRange, Window, DatasetPercentile, ImagePercentile, MinMax, Clahe)


# --- helpers ---


def _depth(levels: Tensor) -> int:
    """8 or 16; ImageError for anything but levels."""
    if levels.dtype not in (torch.uint8, torch.uint16) or levels.ndim != 3 or levels.shape[0] != 1:
        kind = str(levels.dtype).removeprefix("torch.")
        raise ImageError(f"levels are uint8 or uint16 [1, H, W], these are {kind} {list(levels.shape)}")
    return 8 if levels.dtype == torch.uint8 else 16


def _between(levels: Tensor, low: float, high: float) -> Tensor:
    """0 up to low, 1 from high on, linear between; a step above low where they are the same."""
    values = levels.to(torch.float32)
    if high > low:
        return ((values - low) / (high - low)).clamp_(0, 1)
    return (values > low).to(torch.float32)


def _histogram(levels: Tensor) -> NDArray[np.int64]:
    """int64 [2**depth]: how many pixels have each level."""
    return np.bincount(levels.numpy().ravel(), minlength=2 ** _depth(levels))


def _percentiles(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """numpy.percentile (linear) of the pixels that a histogram counts."""
    below = np.cumsum(counts)
    places = (below[-1] - 1) * np.array([low, high]) / 100
    before, after = (np.searchsorted(below, end(places), side="right") for end in (np.floor, np.ceil))
    found = before + (after - before) * (places - np.floor(places))
    return float(found[0]), float(found[1])


def _check_percentiles(low: float, high: float) -> None:
    if not 0 <= low < high <= 100:
        raise ConfigError(f"low={low:g} and high={high:g} are no percentiles in order: such as 1.0 and 99.0")


def _checked(image: Tensor, levels: Tensor, radiometry: Radiometry) -> Tensor:
    """What a map returned, which may be somebody's own."""
    if image.dtype != torch.float32 or image.shape != levels.shape:
        kind = str(image.dtype).removeprefix("torch.")
        raise DataError(
            f"the radiometric map {radiometry} returned {kind} {list(image.shape)}, expected float32 "
            f"{list(levels.shape)}"
        )
    low, high = (float(end) for end in image.aminmax())
    if not (low >= 0 and high <= 1):
        raise DataError(f"the radiometric map {radiometry} returned {low:g} to {high:g}, expected 0 to 1")
    return image


@cache
def _opencv() -> Any:
    """OpenCV on one thread: images are read in parallel already, and its pool would not survive a fork."""
    import cv2

    cv2.setNumThreads(1)
    return cv2
