"""One image of any kind, a path, a PIL image or an array, as the tensor that a network is fed."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import DataError, ImageError
from ..images.decode import Backend, decode
from ..images.geometry import InputSpec, prepare
from ..images.infrared import (
    Radiometry,
    decode_levels,
    in_channels,
    one_channel,
    read_levels,
    to_image,
)
from ..images.sources import read_image

Item = str | Path | Image.Image | NDArray[np.uint8]
InfraredItem = str | Path | Image.Image | NDArray[Any]

_CHANNELS = ((), (1,), (3,))
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


def read_item(item: Item, spec: InputSpec, backend: Backend) -> Tensor:
    """uint8 [C, h, w], contiguous, after the geometry of `spec`.

    A PIL image is read as a file of the same pixels would be. Raises ImageError, whatever the reason.
    """

    def read() -> Tensor:
        if isinstance(item, str | Path):
            return read_image(Path(), str(item), channels=spec.channels, backend=backend)
        if isinstance(item, Image.Image):
            return decode(_encoded(item), channels=spec.channels, backend=backend)
        return _from_array(item, spec.channels)

    return _prepared(read, spec, backend)


def read_infrared_item(
    item: InfraredItem, spec: InputSpec, radiometry: Radiometry | None, backend: Backend
) -> Tensor:
    """[C, h, w], contiguous, after the geometry of `spec`: uint8 without radiometry, else float32.

    An array is [H, W], [H, W, 1] or, with three channels of one grey picture, [H, W, 3]. uint8 and uint16 are
    levels as a camera stores them, which radiometry maps. Floats are taken as already mapped to [0, 1]: they
    do not pass through radiometry, and without one are rounded to 255 levels. Raises ImageError, whatever the
    reason: no pixels, NaN, values out of range, another shape or type, a visible image.
    """

    def read() -> Tensor:
        if isinstance(item, str | Path):
            return to_image(read_levels(Path(), str(item)), radiometry, spec.channels)
        if isinstance(item, Image.Image):
            return to_image(decode_levels(_encoded(item)), radiometry, spec.channels)
        return _from_infrared_array(item, radiometry, spec.channels)

    return _prepared(read, spec, backend)


def _prepared(read: Callable[[], Tensor], spec: InputSpec, backend: Backend) -> Tensor:
    """What `read` returns under the geometry; ImageError for all that is wrong with an image or its place."""
    try:
        # A crop is a window into the whole image and would keep it in memory.
        return prepare(read(), spec, backend=backend).contiguous()
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


def _from_infrared_array(
    item: NDArray[Any], radiometry: Radiometry | None, channels: Literal[1, 3]
) -> Tensor:
    if not isinstance(item, np.ndarray):
        raise ImageError("an item is a path, a PIL image or an array")
    said = f"{item.dtype} {list(item.shape)}"
    if item.size == 0:
        raise ImageError(f"an array without pixels, {said}")
    levels = item.dtype.kind == "u" and item.dtype.itemsize <= 2
    if not (levels or item.dtype.kind == "f") or item.ndim not in (2, 3) or item.shape[2:] not in _CHANNELS:
        raise ImageError(
            f"an array must be uint8, uint16 or float, and [H, W], [H, W, 1] or [H, W, 3], this one is {said}"
        )
    array = item if item.ndim == 3 else item[..., None]
    if not levels:
        mapped = torch.from_numpy(_mapped(array)).permute(2, 0, 1)
        image = mapped if radiometry is not None else (mapped * 255).round_().to(torch.uint8)
        return in_channels(image, channels)
    if item.dtype.itemsize == 2:
        array = _same_channels(array).astype(np.uint16)  # of any byte order
    return to_image(one_channel(torch.from_numpy(np.array(array)).permute(2, 0, 1)), radiometry, channels)


def _mapped(array: NDArray[Any]) -> NDArray[np.float32]:
    """float32 [H, W, 1] in [0, 1]."""
    unusable = array.size - int(np.isfinite(array).sum())
    if unusable:
        raise ImageError(f"{unusable} of the array's {array.size} values are NaN or infinite")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise ImageError(
            f"the array's values lie in {low:g} to {high:g}: floats are taken as already mapped to [0, 1]. "
            "Map them first, or give a camera's counts as uint16"
        )
    return _same_channels(array).astype(np.float32)


def _same_channels(array: NDArray[Any]) -> NDArray[Any]:
    """[H, W, 1] of an array whose channels, if it has three, are the same."""
    if (array != array[..., :1]).any():
        raise ImageError("a visible image where infrared is expected: its channels differ. Give one of them")
    return array[..., :1]
