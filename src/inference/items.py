"""One image of any kind, a path, a PIL image or an array, as the uint8 tensor that a network is fed."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import DataError, ImageError
from ..images.decode import Backend, decode
from ..images.geometry import InputSpec, prepare
from ..images.sources import read_image

Item = str | Path | Image.Image | NDArray[np.uint8]

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


def read_item(item: Item, spec: InputSpec, backend: Backend) -> Tensor:
    """uint8 [C, h, w], contiguous, after the geometry of `spec`.

    A PIL image is read as a file of the same pixels would be. Raises ImageError, whatever the reason.
    """
    try:
        if isinstance(item, str | Path):
            image = read_image(Path(), str(item), channels=spec.channels, backend=backend)
        elif isinstance(item, Image.Image):
            image = decode(_encoded(item), channels=spec.channels, backend=backend)
        else:
            image = _from_array(item, spec.channels)
        # A crop is a window into the whole image and would keep it in memory.
        return prepare(image, spec, backend=backend).contiguous()
    except (DataError, OSError) as error:  # an archive that is gone, a disk that fails
        raise ImageError(str(error)) from error
    except MemoryError as error:
        raise ImageError("there is not enough memory to decode it") from error


def _encoded(image: Image.Image) -> bytes:
    """A file of the same pixels, so that orientation, transparency and 16 bits are read as from the disk."""
    buffer = BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in _PNG_MODES:
            upright.save(buffer, "PNG", compress_level=1)
        else:
            upright.save(buffer, "TIFF")
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"Pillow can't give its pixels ({image.mode}): {error}") from error
    return buffer.getvalue()


def _from_array(item: NDArray[np.uint8], channels: int) -> Tensor:
    if not isinstance(item, np.ndarray):
        raise ImageError("an item is a path, a PIL image or a uint8 array")
    if item.dtype != np.uint8 or item.ndim not in (2, 3) or item.size == 0:
        raise ImageError(
            f"an array must be uint8 [H, W] or [H, W, 3], this one is {item.dtype} {list(item.shape)}"
        )
    array = np.array(item if item.ndim == 3 else item[..., None])
    if array.shape[2] == 1 and channels == 3:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] != channels:
        raise ImageError(f"an array of {array.shape[2]} channels, where the network takes {channels}")
    return torch.from_numpy(array).permute(2, 0, 1)
