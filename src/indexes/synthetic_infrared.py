"""The embedded infrared set: warm drawings of eight shapes before cool clutter, as counts of a 14-bit sensor.

Nothing here was ever seen by a camera; it exists so that an embedder can be trained, tested and compared
without a download. Its figures say nothing about real targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ConfigError
from . import infrared_folder
from .rendered import below, rendered
from .table import Listing

COLUMNS: tuple[str, ...] = ("path", "split", "group", "label", "class", "role", "modality")

_Field = NDArray[np.float32]
_STAMP = "synthetic_infrared.json"
_RENDERED = 1  # raised when the same arguments would render other pixels


def index(
    root: Path,
    *,
    train: int = 800,
    test: int = 240,
    size: int = 48,
    difficulty: float = 0.6,
    seed: int = 0,
) -> Listing:
    """Renders the set below root the first time (a few seconds), then lists it.

    One shape an image, each class equally often; the images of test are the queries and train is their
    gallery. Place, size, direction, contrast, background and noise differ from image to image, and so does
    the level: what is warm in one is cool in another, so that only the pattern tells. Files are 16-bit PNG
    with counts of 0..16383, mostly around 8,000, without compression, all of one size.

    train, test: images of a split, multiples of 8. size: their height and width in pixels, at least 24.
    difficulty: 0 (large upright shapes before an even background) to 1 (small, turned, faint, cluttered).
    Every set of arguments has its own folder `<root>/<hash>/`, whose `synthetic_infrared.json` states them.
    """
    wanted = _Arguments(train, test, size, difficulty, seed)
    wanted.check()
    place = rendered(root, wanted, edition=_RENDERED, stamp=_STAMP, render=partial(_render_all, wanted))
    listing = infrared_folder.index(place)
    return below(listing, place)


# --- shapes: (u, v, softness) → how warm each point is, in units of the target's contrast. A shape lies in
# the unit circle, u to the right and v down, and its edges are a few pixels soft ---


def _inside(distance: _Field, soft: float) -> _Field:
    """1 where a signed distance is below 0, 0 where above, and a ramp between."""
    covered: _Field = np.clip(0.5 - distance / soft, 0, 1)
    return covered


def _box(u: _Field, v: _Field, half_width: float, half_height: float, soft: float) -> _Field:
    return _inside(np.maximum(np.abs(u) - half_width, np.abs(v) - half_height), soft)


def _disc(u: _Field, v: _Field, radius: float, soft: float, squeeze: float = 1.0) -> _Field:
    return _inside(np.hypot(u * squeeze, v) - radius, soft)


def box_with_engine(u: _Field, v: _Field, soft: float) -> _Field:
    """A warm box with a hot block at one end, as a vehicle has."""
    return 0.45 * _box(u, v, 0.9, 0.45, soft) + 0.75 * _box(u - 0.6, v, 0.22, 0.3, soft)


def figure(u: _Field, v: _Field, soft: float) -> _Field:
    """A slim upright ellipse under a hotter disc, as a person has."""
    return 0.6 * _disc(u, v - 0.2, 0.75, soft, squeeze=2.6) + 0.9 * _disc(u, v + 0.68, 0.24, soft)


def cross(u: _Field, v: _Field, soft: float) -> _Field:
    """Two warm bars with hot ends, as an aircraft with four motors from below."""
    bars = np.maximum(_box(u, v, 0.85, 0.13, soft), _box(u, v, 0.13, 0.85, soft))
    ends = sum(_disc(u - x, v - y, 0.2, soft) for x, y in ((0.8, 0), (-0.8, 0), (0, 0.8), (0, -0.8)))
    return 0.6 * bars + 0.5 * ends


def half_filled_disc(u: _Field, v: _Field, soft: float) -> _Field:
    """A disc that is warm below its middle and cold above, as a tank with a level."""
    return _disc(u, v, 0.8, soft) * (1.2 * _inside(0.05 - v, soft) - 0.3)


def ring(u: _Field, v: _Field, soft: float) -> _Field:
    """A warm rim around a cold middle."""
    return 0.95 * _disc(u, v, 0.85, soft) - 1.2 * _disc(u, v, 0.5, soft)


def spotted_panel(u: _Field, v: _Field, soft: float) -> _Field:
    """A square, a little cooler than its surroundings, with a small hot spot, as a solar module has."""
    return -0.35 * _box(u, v, 0.8, 0.8, soft) + 1.5 * _disc(u - 0.35, v + 0.3, 0.2, soft)


def pipe(u: _Field, v: _Field, soft: float) -> _Field:
    """Two parallel warm bars, one hotter than the other, as a flow and a return pipe."""
    return 0.9 * _box(u, v - 0.3, 0.98, 0.14, soft) + 0.45 * _box(u, v + 0.3, 0.98, 0.14, soft)


def triangle(u: _Field, v: _Field, soft: float) -> _Field:
    """A triangle that grows warmer towards its tip, as a hull with its exhaust."""
    edges = np.maximum(np.abs(u) * 0.87 + v * 0.5 - 0.4, -v - 0.6)
    return _inside(np.maximum(edges, v - 0.85), soft) * (0.75 + 0.6 * v)


SHAPES: dict[str, Callable[[_Field, _Field, float], _Field]] = {
    shape.__name__: shape
    for shape in (box_with_engine, cross, figure, half_filled_disc, pipe, ring, spotted_panel, triangle)
}


def render(rng: np.random.Generator, shape: str, size: int, difficulty: float) -> NDArray[np.uint16]:
    """One image: uint16 [size, size], counts within 0..16383.

    Scene: a gradient and a field with a 1/f^1.5 spectrum, warm and cold clutter, and the shape. Camera: gain
    and offset, a fixed pattern of rows and columns, and white noise of 12 to 20 counts.
    """
    ease = 1 - difficulty
    rows, columns = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size * 2 - 1
    contrast = rng.uniform(180, 420) * (0.7 + 0.9 * ease)
    scene = rng.uniform(-60, 60) * rows + rng.uniform(-60, 60) * columns
    scene = scene + (20 + 60 * difficulty) * rng.uniform(0.5, 1.5) * _clouds(rng, size)
    for _ in range(round(8 * difficulty)):
        scene = scene + contrast * rng.uniform(-0.5, 0.6) * _clutter(rng, rows, columns)
    radius = rng.uniform(0.75 - 0.35 * difficulty, 0.8)
    room = max(0.0, 1 - radius) * min(1.0, 0.5 + difficulty)
    x, y = rng.uniform(-room, room, 2)
    angle = rng.uniform(-np.pi, np.pi) * min(1.0, difficulty)
    u = (np.cos(angle) * (columns - x) + np.sin(angle) * (rows - y)) / radius
    v = (np.cos(angle) * (rows - y) - np.sin(angle) * (columns - x)) / radius
    scene = scene + contrast * SHAPES[shape](u, v, 3.0 / size / radius)
    pattern = rng.normal(0, rng.uniform(2, 8), (1, size)) + rng.normal(0, rng.uniform(1, 5), (size, 1))
    noise = rng.normal(0, rng.uniform(12, 20), (size, size))
    counts = rng.uniform(7200, 8800) + rng.uniform(0.6, 1.6) * scene + pattern + noise
    whole: NDArray[np.uint16] = np.clip(np.rint(counts), 0, 16383).astype(np.uint16)
    return whole


def _clouds(rng: np.random.Generator, size: int) -> _Field:
    """[size, size] of mean 0 and standard deviation 1, whose amplitudes fall with frequency as f^-1.5."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * frequency**-1.5, s=(size, size))
    clouds: _Field = (field / field.std()).astype(np.float32)
    return clouds


def _clutter(rng: np.random.Generator, rows: _Field, columns: _Field) -> _Field:
    """A small bar or disc somewhere."""
    x, y = rng.uniform(-1, 1, 2)
    angle, soft = rng.uniform(0, np.pi), 0.1
    u = np.cos(angle) * (columns - x) + np.sin(angle) * (rows - y)
    v = np.cos(angle) * (rows - y) - np.sin(angle) * (columns - x)
    if rng.random() < 0.5:
        return _disc(u, v, rng.uniform(0.05, 0.2), soft)
    return _box(u, v, rng.uniform(0.1, 0.5), rng.uniform(0.03, 0.1), soft)


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
            if count < 16 or count % len(SHAPES):
                raise ConfigError(f"data.index.{split}={count}: must be a multiple of 8, at least 16")
        if self.size < 24:
            raise ConfigError(f"data.index.size={self.size}: must be at least 24 pixels")
        if not 0 <= self.difficulty <= 1:
            raise ConfigError(f"data.index.difficulty={self.difficulty}: must be from 0 to 1")


def _render_all(wanted: _Arguments, place: Path) -> None:
    for split, count in (("train", wanted.train), ("test", wanted.test)):
        for position, shape in enumerate(SHAPES):
            target = place / split / shape
            target.mkdir(parents=True)
            for number in range(position, count, len(SHAPES)):
                rng = np.random.default_rng((wanted.seed, split == "test", number))
                counts = render(rng, shape, wanted.size, wanted.difficulty)
                Image.fromarray(counts).save(target / f"{number:06d}.png", compress_level=0)
