"""How an image is brought to the size that a network wants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..errors import ConfigError, ImageError, did_you_mean
from .decode import DEFAULT_LIMITS, Backend, check_backend

Size = tuple[int, int]
ResizeRule = Literal["none", "shortest", "squash", "pad", "tile"]
Interpolation = Literal["bilinear", "bicubic", "nearest"]


@dataclass(frozen=True)
class InputSpec:
    """What a network wants to be fed; the only place where geometry is decided.

    size: (height, width) in pixels that the resize rule works towards; None only with resize `none`.
    resize: `none` leaves the image as it is, `shortest` scales its shorter side to min(size), `squash` scales
        both sides to size whatever the aspect ratio, `pad` scales the longer side to fit and fills with
        black, `tile` repeats an image that is smaller than size and leaves larger ones (NPR's
        `translate_duplicate`).
    crop: (height, width) cut out of the resized image, centred outside training; None keeps it whole. Black
        where the resized image is smaller, as torchvision's CenterCrop has it.
    interpolation: kernel of the resize, always antialiased except `nearest`.
    channels: 3 for RGB, 1 for grey or infrared.
    strict: whether Pillow resizes, to the bit, whatever backend is asked for: published detectors are
        compared with their originals from the file on.
    """

    size: Size | None
    resize: ResizeRule = "squash"
    crop: Size | None = None
    interpolation: Interpolation = "bilinear"
    channels: Literal[1, 3] = 3
    strict: bool = False

    def __post_init__(self) -> None:
        """Turn the lists of a config into tuples; raise ConfigError for all that is wrong at once."""
        problems = [
            *_size_problems("size", self.size),
            *_size_problems("crop", self.crop),
            *_choice_problems("resize", self.resize, get_args(ResizeRule)),
            *_choice_problems("interpolation", self.interpolation, get_args(Interpolation)),
        ]
        if self.size is None and self.resize != "none":
            problems.append(f"input_spec.size is null, but resize={self.resize} needs one: size=[224,224]")
        if self.channels not in (1, 3):
            problems.append(f"input_spec.channels is {self.channels!r}: use 3 (RGB) or 1 (grey, infrared)")
        if problems:
            raise ConfigError(problems)
        for name in ("size", "crop"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))

    @property
    def output_size(self) -> Size | None:
        """(height, width) that leaves the geometry, None where it differs from image to image."""
        if self.crop is not None:
            return self.crop
        return self.size if self.resize in ("squash", "pad") else None


def with_geometry(spec: InputSpec, geometry: Mapping[str, Any]) -> InputSpec:
    """A network's spec with the fields of `model.geometry` for its own; one number is a square.

    Raises ConfigError for a field that there is not, or a value that does not fit.
    """
    unknown = sorted(set(geometry) - set(asdict(spec)))
    if unknown:
        raise ConfigError(f"unknown key model.geometry.{unknown[0]}: it takes {', '.join(asdict(spec))}")
    fields = dict(geometry)
    for name in ("size", "crop"):
        if isinstance(fields.get(name), int):
            fields[name] = (fields[name], fields[name])
    return replace(spec, **fields)


def prepare(image: torch.Tensor, spec: InputSpec, *, backend: Backend = "fast") -> torch.Tensor:
    """[C, H, W] as a network sees it outside training: `resize`, then the centre crop if any."""
    resized = resize(image, spec, backend=backend)
    return resized if spec.crop is None else center_crop(resized, spec.crop)


def resize(
    image: torch.Tensor, spec: InputSpec, *, enlarge: int = 0, backend: Backend = "fast"
) -> torch.Tensor:
    """[C, H, W] after the resize rule of `spec`, before any crop; may share memory with `image`.

    image: uint8, or float32 in [0, 1], which it stays: where bicubic overshoots, both end at black and white.
    enlarge: pixels added to both sides of spec.size, so that a random crop has room to move; resize `none`
        has no size and ignores it.
    backend: `fast` resizes with torch, within 1 level of Pillow on photographs (bicubic 2) and 1 more on
        white noise; `pillow` gives the bits of the installed Pillow (float32: of its mode F, channel by
        channel, within 1e-5 of torch's). torch works on rows first and then on
        columns. Pillow 13 takes columns first where the height shrinks more than the width: rounding, and
        where bicubic overshoots black or white also clipping, then differs between the two backends.

    `shortest` rounds the longer side down, as torchvision's Resize(int). `pad` centres the image. `tile`
    repeats the whole image ceil(size / side) times along each side, without cutting, as NPR's
    `translate_duplicate`. Raises ImageError where an extreme aspect ratio would make the result larger than
    DEFAULT_LIMITS.max_pixels.
    """
    check_backend(backend)
    if spec.resize == "none" or spec.size is None:
        return image
    backend = "pillow" if spec.strict else backend
    height, width = image.shape[-2:]
    target = (spec.size[0] + enlarge, spec.size[1] + enlarge)
    if spec.resize == "squash":
        return _scale(image, target, spec.interpolation, backend)
    if spec.resize == "shortest":
        return _scale(image, _shortest_size(height, width, min(target)), spec.interpolation, backend)
    if spec.resize == "pad":
        return _pad_around(
            _scale(image, _fitting_size(height, width, target), spec.interpolation, backend), target
        )
    repeats = (math.ceil(target[0] / height), math.ceil(target[1] / width))
    _check_area(image, (height * max(1, repeats[0]), width * max(1, repeats[1])))
    return image if max(repeats) <= 1 else image.repeat(1, *repeats)


def scale(
    image: torch.Tensor,
    size: Size,
    *,
    interpolation: Interpolation = "bilinear",
    backend: Backend = "fast",
) -> torch.Tensor:
    """[C, H, W] scaled to exactly (height, width), antialiased except `nearest`; see `resize`."""
    check_backend(backend)
    return _scale(image, size, interpolation, backend)


def center_crop(image: torch.Tensor, size: Size) -> torch.Tensor:
    """The middle (height, width) of [C, H, W], black around a smaller image; rounds as torchvision."""
    image = _pad_around(image, size)
    height, width = image.shape[-2:]
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return image[..., top : top + size[0], left : left + size[1]]


def random_crop(image: torch.Tensor, size: Size, generator: torch.Generator | None = None) -> torch.Tensor:
    """A (height, width) part of [C, H, W] at a uniform place; where the image is smaller, as `center_crop`.

    generator: None draws from torch's default one.
    """
    image = _pad_around(image, size)
    height, width = image.shape[-2:]
    top = int(torch.randint(height - size[0] + 1, (), generator=generator))
    left = int(torch.randint(width - size[1] + 1, (), generator=generator))
    return image[..., top : top + size[0], left : left + size[1]]


# --- helpers ---


def _scale(image: torch.Tensor, size: Size, interpolation: Interpolation, backend: Backend) -> torch.Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    _check_area(image, size)
    # torch rounds ties of `nearest` differently, and its antialiased kernels fail an assertion for 1x1 and
    # repeat the first row of floats where the width becomes 1.
    failing = size == (1, 1) or (size[1] == 1 and image.dtype == torch.float32)
    if backend == "pillow" or interpolation == "nearest" or failing:
        return _scale_with_pillow(image, size, interpolation)
    return _in_range(F.interpolate(image[None], size, mode=interpolation, antialias=True)[0])


def _scale_with_pillow(image: torch.Tensor, size: Size, interpolation: Interpolation) -> torch.Tensor:
    if image.dtype == torch.float32:  # Pillow has no colours of float: a mode F for each channel
        planes = [Image.fromarray(plane) for plane in image.contiguous().numpy()]
        kernel = Image.Resampling[interpolation.upper()]
        resized = np.stack([np.array(plane.resize((size[1], size[0]), kernel)) for plane in planes])
        return _in_range(torch.from_numpy(resized))
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    grey = pixels.shape[2] == 1
    picture = Image.fromarray(pixels[:, :, 0] if grey else pixels)
    scaled = np.array(picture.resize((size[1], size[0]), Image.Resampling[interpolation.upper()]))
    return torch.from_numpy(scaled)[None] if grey else torch.from_numpy(scaled).permute(2, 0, 1)


def _in_range(image: torch.Tensor) -> torch.Tensor:
    """uint8 as it is; float32 at most [0, 1], which bicubic leaves and sums of weights miss by a rounding."""
    return image if image.dtype == torch.uint8 else image.clamp_(0, 1)


def _shortest_size(height: int, width: int, short: int) -> Size:
    if width <= height:
        return int(short * height / width), short
    return short, int(short * width / height)


def _fitting_size(height: int, width: int, box: Size) -> Size:
    """The largest size of the same aspect ratio inside the box, at least one pixel each way."""
    if box[0] * width <= box[1] * height:
        return box[0], min(box[1], max(1, round(width * box[0] / height)))
    return min(box[0], max(1, round(height * box[1] / width))), box[1]


def _pad_around(image: torch.Tensor, size: Size) -> torch.Tensor:
    """Black on all sides up to at least size; an odd pixel goes bottom and right, as in torchvision."""
    rows, columns = max(size[0] - image.shape[-2], 0), max(size[1] - image.shape[-1], 0)
    if rows == 0 and columns == 0:
        return image
    return F.pad(image, (columns // 2, (columns + 1) // 2, rows // 2, (rows + 1) // 2))


def _check_area(image: torch.Tensor, size: Size) -> None:
    if size[0] * size[1] > DEFAULT_LIMITS.max_pixels:
        height, width = image.shape[-2:]
        raise ImageError(
            f"{height}x{width} pixels (height x width) would become {size[0]}x{size[1]}, "
            f"more than {DEFAULT_LIMITS.max_pixels} in all: too extreme an aspect ratio for this resize rule"
        )


def _size_problems(name: str, value: object) -> list[str]:
    if value is None:
        return []
    sides = value if isinstance(value, (tuple, list)) else ()
    if len(sides) == 2 and all(type(side) is int and side > 0 for side in sides):
        return []
    return [f"input_spec.{name} is {value!r}: give height and width in pixels, {name}=[224,224]"]


def _choice_problems(name: str, value: str, known: tuple[str, ...]) -> list[str]:
    if value in known:
        return []
    return [f"unknown value input_spec.{name}={value}{did_you_mean(str(value), known)} ({', '.join(known)})"]
