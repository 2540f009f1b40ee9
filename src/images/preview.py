"""An image as people look at it: infrared levels of 16 bits are stretched, everything else is as it is."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import ImageError
from .decode import Backend, decode, decode_stored
from .infrared import ImagePercentile
from .sources import read_bytes

STRETCH = ImagePercentile()
"""From an image's own 1st to its own 99th percentile: visible at any temperature, but not comparable."""


def preview(root: Path, path: str, *, backend: Backend = "fast") -> torch.Tensor:
    """The image at `path` as uint8 [3, H, W], grey of 16 bits by `STRETCH`; raises what `read_image` does."""
    data = read_bytes(root, path)
    try:
        levels = decode_stored(data)
    except ImageError:
        # a visible image may be partly transparent, as levels can't be; what is wrong with others, it says
        return decode(data, channels=3, backend=backend)
    if levels.dtype != torch.uint16:
        return decode(data, channels=3, backend=backend)
    return (255 * STRETCH(levels)).round().to(torch.uint8).expand(3, -1, -1)
