"""Random changes to training images, each a function of (seed, epoch, index) and of nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch

from ..errors import ConfigError, DataError
from .decode import Backend
from .geometry import InputSpec, center_crop, random_crop, resize

Transform = Callable[[torch.Tensor], torch.Tensor]
_MASK = 2**64 - 1
_ROUNDING = 1e-4  # what a sum of interpolation weights may be beyond [0, 1]


class Augment:
    """Resize, change, crop, change again: [C, H, W] to [C, *spec.output_size], uint8 or float32 in [0, 1].

    before_crop, after_crop: callables on [C, H, W] that return the dtype they were given, such as
        torchvision's v2 transforms; they may draw from the global generators of torch (CPU), `random` and
        numpy, which are seeded for each sample.
    enlarge: pixels added to both sides of spec.size, so that a random crop has room to move.
    crop: where the crop to spec.output_size lies; a spec without a fixed output size is not cropped.

    The global generators belong to the process, so calls from several threads must take turns.
    """

    def __init__(
        self,
        *,
        before_crop: Sequence[Transform] = (),
        after_crop: Sequence[Transform] = (),
        enlarge: int = 0,
        crop: Literal["center", "random"] = "center",
    ) -> None:
        if crop not in ("center", "random"):
            raise ConfigError(f"unknown value augment.crop={crop}: center, random")
        if enlarge < 0:
            raise ConfigError(f"augment.enlarge={enlarge} must be 0 or more pixels")
        self.before_crop, self.after_crop = tuple(before_crop), tuple(after_crop)
        self.enlarge, self.crop = enlarge, crop

    @property
    def deterministic(self) -> bool:
        """Whether the seed changes nothing, so that the result itself may be cached."""
        return not self.before_crop and not self.after_crop and self.crop == "center"

    def resize(self, image: torch.Tensor, spec: InputSpec, backend: Backend = "fast") -> torch.Tensor:
        """The part that is the same in every epoch, and may be cached: `geometry.resize` with `enlarge`."""
        self._check(spec)
        return resize(image, spec, enlarge=self.enlarge, backend=backend)

    def __call__(self, image: torch.Tensor, spec: InputSpec, seed: int) -> torch.Tensor:
        """What `resize` returned, changed and cropped as `seed` (0 to 2**64 - 1, from `sample_seed`) says.

        Raises DataError, naming the transform, where one returns another dtype, other channels, float32
        outside [0, 1] or, after the crop to a fixed size, another size.
        """
        self._check(spec)
        if self.deterministic:
            return self._cropped(image, spec)
        channels, dtype = image.shape[0], image.dtype
        with _seeded(seed):
            for transform in self.before_crop:
                image = _checked(transform(image), transform, channels, dtype, None)
            image = self._cropped(image, spec)
            for transform in self.after_crop:
                image = _checked(transform(image), transform, channels, dtype, spec.output_size)
        return image

    def _cropped(self, image: torch.Tensor, spec: InputSpec) -> torch.Tensor:
        if spec.output_size is None:
            return image
        return (random_crop if self.crop == "random" else center_crop)(image, spec.output_size)

    def _check(self, spec: InputSpec) -> None:
        if spec.output_size is None and (self.enlarge or self.crop == "random"):
            raise ConfigError(
                f"augment.enlarge={self.enlarge} and augment.crop={self.crop} need an output size, and the "
                f"network's input_spec (resize={spec.resize}, crop=null) leaves each image its own: "
                "give it a crop, crop=[224,224], or use augment=none"
            )


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A seed in 0..2**64 - 1 for one sample in one epoch: SplitMix64's mixer over the three in turn.

    Depends on nothing else: not on the process, the worker, the order or Python's hash seed. (Steele, Lea and
    Flood, Fast splittable pseudorandom number generators, OOPSLA 2014, figure 17; constants of Stafford's
    variant 13.)
    """
    state = 0
    for value in (seed, epoch, index):
        state = (state + value + 0x9E3779B97F4A7C15) & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def _checked(
    image: torch.Tensor,
    transform: Transform,
    channels: int,
    dtype: torch.dtype,
    size: tuple[int, int] | None,
) -> torch.Tensor:
    name = getattr(transform, "__name__", None) or repr(transform)
    if not isinstance(image, torch.Tensor):
        raise DataError(f"the transform {name} returned a {type(image).__name__}, not a tensor")
    expected = (channels, *(size or image.shape[1:]))
    if image.dtype != dtype or image.ndim != 3 or tuple(image.shape) != expected:
        wanted = f"[{channels}, {size[0]}, {size[1]}]" if size else f"[{channels}, H, W]"
        raise DataError(
            f"the transform {name} returned {str(image.dtype).removeprefix('torch.')} {list(image.shape)}, "
            f"expected {str(dtype).removeprefix('torch.')} {wanted}"
        )
    if dtype.is_floating_point and image.numel():
        low, high = (float(end) for end in image.aminmax())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            raise DataError(
                f"the transform {name} returned values from {low:g} to {high:g}, expected float32 in [0, 1]: "
                "clip them, and leave the normalising to the network"
            )
    return image


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The CPU generators of torch, random and numpy seeded inside, and as they were afterwards."""
    before = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed((seed ^ seed >> 32) & 0xFFFFFFFF)
    try:
        yield
    finally:
        torch.default_generator.set_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])
