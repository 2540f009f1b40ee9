"""The embedded set: procedural textures, and the same kind of textures with traces of up-sampling.

Nothing here is a photograph or the work of a generative model; it exists so that a detector can be trained,
tested and compared without a download. Its figures say nothing about real generators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ConfigError
from . import folder
from .rendered import below, rendered
from .table import Listing

COLUMNS: tuple[str, ...] = ("path", "split", "label", "generator")

_Images = NDArray[np.float32]
_STAMP = "synthetic.json"
_RENDERED = 1  # raised when the same arguments would render other pixels
_CHUNK = 128


def index(
    root: Path,
    *,
    train: int = 4000,
    test: int = 800,
    size: int = 64,
    difficulty: float = 0.7,
    seed: int = 0,
) -> Listing:
    """Renders the set below root the first time (a few seconds), then lists it.

    Half of the images are real: textures with a 1/f spectrum, correlated channels and sensor noise. The other
    half are images of the same kind, drawn independently, that were halved and brought back to their size by
    nearest, transposed-convolution, bicubic or pixel-shuffle up-sampling (in equal parts; the `generator`
    column), blended with themselves, and given back the mean and the standard deviation that each channel had
    before. Files are PNG without compression, all of one size. So neither colour, contrast, format nor bytes
    tell the classes apart; what does is the spectrum and the correlation between neighbours (Zhang et al.,
    "Detecting and Simulating Artifacts in GAN Fake Images", 2019; NPR, Tan et al., 2024).

    train, test: images of a split, multiples of 8. size: their height and width in pixels, even, at least 16.
    difficulty: share of the untouched image in the blend; 0 leaves pure up-sampling (trivial), towards 1 no
        trace is left (impossible).
    Every set of arguments has its own folder `<root>/<hash>/`, whose `synthetic.json` states them.
    """
    wanted = _Arguments(train, test, size, difficulty, seed)
    wanted.check()
    place = rendered(root, wanted, edition=_RENDERED, stamp=_STAMP, render=partial(_render_all, wanted))
    listing = folder.index(place, real=("real",), generated=("generated",), generator="subfolder")
    return below(listing, place)


def texture(rng: np.random.Generator, size: int) -> _Images:
    """One real image before rounding: float32 [size, size, 3], values mostly within 0..255.

    Amplitudes fall with frequency as f^-a, a ~ U(0.9, 1.5); channels share most of their structure; mean,
    contrast and the standard deviation of the white sensor noise (2 to 5 levels) vary from image to image.
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0
    slope = rng.uniform(0.9, 1.5)
    white = np.fft.rfft2(rng.standard_normal((4, size, size), dtype=np.float32), axes=(1, 2))
    fields = np.fft.irfft2(white * (frequency**-slope).astype(np.float32), s=(size, size), axes=(1, 2))
    fields -= fields.mean(axis=(1, 2), keepdims=True)
    fields /= fields.std(axis=(1, 2), keepdims=True)
    colour = fields[:1] + rng.uniform(0.1, 0.4) * fields[1:]
    mean = rng.uniform(90, 165) + rng.uniform(-20, 20, size=3)
    image = mean[:, None, None] + rng.uniform(15, 35) * colour
    image += rng.uniform(2, 5) * rng.standard_normal((3, size, size), dtype=np.float32)
    return np.moveaxis(image, 0, -1).astype(np.float32)


def up_nearest(small: _Images, seed: int) -> _Images:
    """[n, h, w, 3] → [n, 2h, 2w, 3]: every pixel four times."""
    return small.repeat(2, axis=1).repeat(2, axis=2)


def up_transposed_convolution(small: _Images, seed: int) -> _Images:
    """Zeros between the pixels, then a 3×3 kernel of gain one, drawn from the seed around bilinear."""
    kernel = np.outer([0.5, 1.0, 0.5], [0.5, 1.0, 0.5])
    kernel = kernel + 0.02 * np.random.default_rng((seed, 1)).standard_normal((3, 3))
    kernel *= 4 / kernel.sum()
    zeros = np.zeros((len(small), 2 * small.shape[1], 2 * small.shape[2], 3), dtype=np.float32)
    zeros[:, ::2, ::2] = small
    return _convolved(zeros, kernel)


def up_bicubic(small: _Images, seed: int) -> _Images:
    """Keys' cubic (a = -0.5) at a quarter and three quarters between pixels."""
    for axis in (1, 2):
        before = np.array([-0.0234375, 0.2265625, 0.8671875, -0.0703125])  # taps at -2, -1, 0, 1
        even = sum(w * np.roll(small, -k, axis) for w, k in zip(before, (-2, -1, 0, 1), strict=True))
        odd = sum(w * np.roll(small, -k, axis) for w, k in zip(before[::-1], (-1, 0, 1, 2), strict=True))
        shape = list(small.shape)
        shape[axis] *= 2
        small = np.stack([even, odd], axis=axis + 1).reshape(shape).astype(np.float32)
    return small


def up_pixel_shuffle(small: _Images, seed: int) -> _Images:
    """A 3×3 kernel of sum one for each of the four sub-pixels, drawn from the seed around bilinear."""
    rng = np.random.default_rng((seed, 2))
    large = np.zeros((len(small), 2 * small.shape[1], 2 * small.shape[2], 3), dtype=np.float32)
    for row in (0, 1):
        for column in (0, 1):
            taps = [[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]]
            kernel = np.outer(taps[row], taps[column]) + 0.06 * rng.standard_normal((3, 3))
            large[:, row::2, column::2] = _convolved(small, kernel / kernel.sum())
    return large


FAMILIES: dict[str, Callable[[_Images, int], _Images]] = {
    "nearest": up_nearest,
    "transposed_convolution": up_transposed_convolution,
    "bicubic": up_bicubic,
    "pixel_shuffle": up_pixel_shuffle,
}


def resampled(images: _Images, family: str, difficulty: float, seed: int) -> _Images:
    """[n, h, w, 3] with the trace of one family, mean and standard deviation of every channel as before."""
    halved = images.reshape(len(images), images.shape[1] // 2, 2, images.shape[2] // 2, 2, 3).mean(
        axis=(2, 4)
    )
    blend = (1 - difficulty) * FAMILIES[family](halved, seed) + difficulty * images
    mean, deviation = images.mean(axis=(1, 2), keepdims=True), images.std(axis=(1, 2), keepdims=True)
    blend = (blend - blend.mean(axis=(1, 2), keepdims=True)) / blend.std(axis=(1, 2), keepdims=True)
    matched: _Images = (blend * deviation + mean).astype(np.float32)
    return matched


@dataclass(frozen=True)
class _Arguments:
    train: int
    test: int
    size: int
    difficulty: float
    seed: int

    def check(self) -> None:
        for split in ("train", "test"):
            count = getattr(self, split)
            if count < 8 or count % 8:
                raise ConfigError(f"data.index.{split}={count}: must be a multiple of 8, at least 8")
        if self.size < 16 or self.size % 2:
            raise ConfigError(f"data.index.size={self.size}: must be even and at least 16 pixels")
        if not 0 <= self.difficulty < 1:
            raise ConfigError(f"data.index.difficulty={self.difficulty}: must be at least 0 and below 1")


def _render_all(wanted: _Arguments, place: Path) -> None:
    for split, count in (("train", wanted.train), ("test", wanted.test)):
        for family, numbers in _shares(count):
            target = place / split / (f"generated/{family}" if family else "real")
            target.mkdir(parents=True)
            for start in range(0, len(numbers), _CHUNK):
                chunk = numbers[start : start + _CHUNK]
                drawn = (np.random.default_rng((wanted.seed, split == "test", number)) for number in chunk)
                images = np.stack([texture(rng, wanted.size) for rng in drawn])
                if family:
                    images = resampled(images, family, wanted.difficulty, wanted.seed)
                for number, pixels in zip(
                    chunk, np.clip(np.rint(images), 0, 255).astype(np.uint8), strict=True
                ):
                    Image.fromarray(pixels).save(target / f"{number:06d}.png", compress_level=0)


def _shares(count: int) -> Iterator[tuple[str | None, range]]:
    """(None for real or the family, numbers of its images): half real, the families an eighth each."""
    yield None, range(count // 2)
    eighth = count // 8
    for position, family in enumerate(FAMILIES):
        start = count // 2 + position * eighth
        yield family, range(start, start + eighth)


def _convolved(images: _Images, kernel: NDArray[np.float64]) -> _Images:
    """Circular 3×3 correlation of [n, h, w, 3] over height and width."""
    total = np.zeros_like(images)
    for row in range(3):
        for column in range(3):
            total += np.float32(kernel[row, column]) * np.roll(images, (1 - row, 1 - column), axis=(1, 2))
    return total
