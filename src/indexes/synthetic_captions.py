"""The embedded set with captions: coloured shapes, and one sentence that is true to all that is to be seen.

It exists so that a captioner can be trained and measured without a download: since every image has exactly
one caption (`caption_grammar`), each word of a generated one is right or wrong. Its figures say nothing about
photographs.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ConfigError
from . import image_text_folder
from .caption_grammar import BACKGROUNDS, COLOURS, COUNTS, RELATIONS, SHAPES, Group, Scene, scenes
from .rendered import below, rendered
from .table import Listing

COLUMNS: tuple[str, ...] = ("path", "split", "captions")

_Field = NDArray[np.float32]
NEW = "test images whose caption no training image has"
"""The note that says how many there are."""
_STAMP = "synthetic_captions.json"
_RENDERED = 1  # raised when the same arguments would render other pixels or captions
_GAP = 0.03  # between two shapes, and to the border of what a group has for itself; in widths of the image
_PLAIN = 1.5  # two groups are so much further apart in the direction that the caption says than across it


def index(
    root: Path,
    *,
    train: int = 4000,
    test: int = 500,
    size: int = 64,
    groups: int = 2,
    count: int = 4,
    held_out: float = 0.2,
    seed: int = 0,
) -> Listing:
    """Renders the set below root the first time (a few seconds), then lists it.

    Half of the images have one group of like shapes, the others two of different colours, one beside or above
    the other; all attributes are drawn evenly. Shapes never touch, each fills a circle of at least 19 % of
    the image's width, and two groups are apart in the one direction half as much again as in the other.
    Place, size, direction, shade and noise differ from image to image. Files are PNG without compression, in
    `<root>/<hash>/train|test` beside a `manifest.json`, as `image_text_folder` has it.

    train, test: images of a split. size: their height and width in pixels, at least 48.
    groups: at most so many on an image, 1 or 2. count: at most so many shapes in a group, 1 to 4.
    held_out: share of all possible captions, by hash, that no training image has; half of the test images
        (the even numbers) have one of them, the others have one of the rest. Of two groups there are more
        captions than images, so that many of these are new as well: notes say how many of the test images
        have a caption that no training image has, 352 of 500 as it is shipped.
    Every set of arguments has its own folder, whose `synthetic_captions.json` states them.
    """
    wanted = _Arguments(train, test, size, groups, count, held_out, seed)
    wanted.check()
    place = rendered(root, wanted, edition=_RENDERED, stamp=_STAMP, render=partial(_render_all, wanted))
    listing = image_text_folder.index(place, copies="keep")
    splits = listing.table.column("split").to_pylist()
    captions = [one[0] for one in listing.table.column("captions").to_pylist()]
    known = {caption for caption, split in zip(captions, splits, strict=True) if split == "train"}
    new = sum(
        caption not in known for caption, split in zip(captions, splits, strict=True) if split == "test"
    )
    return replace(
        below(listing, place),
        notes={**listing.notes, NEW: new},
    )


def is_held_out(scene: Scene, share: float) -> bool:
    """Whether no training image has this caption, by its hash alone: the same for every seed and size."""
    hashed = blake2b(str(scene).encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "big") < share * 2**64


def draw(rng: np.random.Generator, groups: int, count: int) -> Scene:
    """A scene whose every attribute is equally likely: one or two groups, then all else."""
    background = str(rng.choice(BACKGROUNDS))
    if groups == 1 or rng.random() < 0.5:
        return Scene(_group(rng, count, str(rng.choice(COLOURS))), background)
    first, second = sorted(map(str, rng.choice(COLOURS, 2, replace=False)))
    relation = str(rng.choice(RELATIONS))
    return Scene(_group(rng, count, first), background, relation, _group(rng, count, second))


def render(rng: np.random.Generator, scene: Scene, size: int) -> NDArray[np.uint8]:
    """One image: uint8 [size, size, 3], edges a pixel soft."""
    low, high = {"black": (0, 25), "grey": (110, 145), "white": (230, 255)}[scene.background]
    image = np.empty((size, size, 3), np.float32)
    image[:] = rng.uniform(low, high) + rng.uniform(-3, 3, 3)
    rows, columns = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    for group, radius, centres in _placed(rng, scene):
        hue, saturation, value = (rng.uniform(*ends) for ends in _SHADES[group.colour])
        for x, y in centres:
            own = radius * rng.uniform(0.93, 1)
            angle = rng.uniform(-0.2, 0.2)
            top, left = (max(0, int((centre - own) * size) - 1) for centre in (y, x))
            bottom, right = (int((centre + own) * size) + 2 for centre in (y, x))
            around = (slice(top, bottom), slice(left, right))
            across, down = columns[around] - x, rows[around] - y
            u = (np.cos(angle) * across + np.sin(angle) * down) / own
            v = (np.cos(angle) * down - np.sin(angle) * across) / own
            covered = np.clip(0.5 - _DISTANCES[group.shape](u, v) * own * size, 0, 1)[..., None]
            shade = min(1.0, value * rng.uniform(0.94, 1.06))
            colour = 255 * np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, shade), np.float32)
            image[around] += (colour - image[around]) * covered
    image = image + rng.uniform(2, 5) * rng.standard_normal(image.shape, dtype=np.float32)
    pixels: NDArray[np.uint8] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return pixels


# Hue in degrees, saturation and value: from, to.
_SHADES: dict[str, tuple[tuple[float, float], ...]] = {
    "blue": ((215, 235), (0.8, 1), (0.75, 1)),
    "green": ((110, 135), (0.75, 1), (0.5, 0.8)),
    "purple": ((275, 295), (0.7, 1), (0.55, 0.8)),
    "red": ((-8, 8), (0.8, 1), (0.75, 1)),
    "yellow": ((52, 60), (0.8, 1), (0.85, 1)),
}

# Signed distance, about, of points from the edge of a shape in the unit circle; u to the right, v down.
_DISTANCES: dict[str, Callable[[_Field, _Field], _Field]] = {
    "circle": lambda u, v: np.hypot(u, v) - np.float32(0.9),
    "cross": lambda u, v: np.minimum(_box(u, v, 0.94, 0.32), _box(u, v, 0.32, 0.94)),
    "square": lambda u, v: _box(u, v, 0.7, 0.7),
    "triangle": lambda u, v: np.maximum(np.abs(u) * np.float32(0.866) - v / 2, v) - np.float32(0.5),
}


def _box(u: _Field, v: _Field, half_width: float, half_height: float) -> _Field:
    distance: _Field = np.maximum(np.abs(u) - np.float32(half_width), np.abs(v) - np.float32(half_height))
    return distance


_Centres = list[tuple[float, float]]
_Room = tuple[float, float, float, float]
"""x0, y0, x1, y1 of the part of the image that a group has for itself, in [0, 1]."""


def _placed(rng: np.random.Generator, scene: Scene) -> list[tuple[Group, float, _Centres]]:
    """Each group with its radius and centres; which way one lies from the other is plain."""
    while True:
        found = [(group, *_places(rng, group.count, room)) for group, room in _rooms(rng, scene)]
        if scene.second is None:
            return found
        x, y = np.abs(np.mean(found[0][2], 0) - np.mean(found[1][2], 0)).tolist()
        along, across = (x, y) if scene.relation in ("left of", "right of") else (y, x)
        if along >= _PLAIN * across:
            return found


def _rooms(rng: np.random.Generator, scene: Scene) -> list[tuple[Group, _Room]]:
    if scene.second is None:
        return [(scene.first, (0, 0, 1, 1))]
    cut = rng.uniform(0.46, 0.54)
    before, after = (scene.first, scene.second), (scene.second, scene.first)
    one, other = before if scene.relation in ("left of", "above") else after
    if scene.relation in ("left of", "right of"):
        return [(one, (0, 0, cut, 1)), (other, (cut, 0, 1, 1))]
    return [(one, (0, 0, 1, cut)), (other, (0, cut, 1, 1))]


def _places(rng: np.random.Generator, count: int, room: _Room) -> tuple[float, _Centres]:
    """The radius of the circle around each shape, and as many centres whose circles are apart."""
    x0, y0, x1, y1 = room
    smallest = 0.105
    largest = min(0.2 if count < 3 else 0.16, 0.7 * min(x1 - x0, y1 - y0) / 2)
    radius = rng.uniform(smallest, largest)
    while True:
        away = radius + _GAP / 2
        tried = rng.uniform((x0 + away, y0 + away), (x1 - away, y1 - away), (16 * count, 2))
        centres: _Centres = []
        for x, y in tried.tolist():
            if all((x - a) ** 2 + (y - b) ** 2 >= (2 * away) ** 2 for a, b in centres):
                centres.append((x, y))
                if len(centres) == count:
                    return radius, centres
        radius = max(smallest, 0.95 * radius)


def _group(rng: np.random.Generator, count: int, colour: str) -> Group:
    return Group(int(rng.integers(1, count + 1)), colour, str(rng.choice(SHAPES)))


@dataclass(frozen=True)
class _Arguments:
    train: int
    test: int
    size: int
    groups: int
    count: int
    held_out: float
    seed: int

    def check(self) -> None:
        for split in ("train", "test"):
            number = getattr(self, split)
            if number < 2:
                raise ConfigError(f"data.index.{split}={number}: must be at least 2 images")
        if self.size < 48:
            raise ConfigError(f"data.index.size={self.size}: must be at least 48 pixels")
        if self.groups not in (1, 2):
            raise ConfigError(f"data.index.groups={self.groups}: must be 1 or 2")
        if not 1 <= self.count <= len(COUNTS):
            raise ConfigError(f"data.index.count={self.count}: must be from 1 to {len(COUNTS)}")
        if not 0 <= self.held_out <= 0.5:
            raise ConfigError(f"data.index.held_out={self.held_out}: must be from 0 to 0.5")
        if self.held_out and not any(
            is_held_out(scene, self.held_out) for scene in scenes(self.groups, self.count)
        ):
            raise ConfigError(
                f"data.index.held_out={self.held_out} holds out none of the few captions there are: raise "
                "it, or type data.index.held_out=0"
            )


def _render_all(wanted: _Arguments, place: Path) -> None:
    for split, count in (("train", wanted.train), ("test", wanted.test)):
        (place / split).mkdir(parents=True)
        captions: dict[str, str] = {}
        for number in range(count):
            rng = np.random.default_rng((wanted.seed, split == "test", number))
            new = split == "test" and number % 2 == 0 and wanted.held_out > 0
            scene = draw(rng, wanted.groups, wanted.count)
            while is_held_out(scene, wanted.held_out) != new:
                scene = draw(rng, wanted.groups, wanted.count)
            name = f"{number:06d}.png"
            captions[name] = str(scene)
            pixels = render(rng, scene, wanted.size)
            Image.fromarray(pixels).save(place / split / name, compress_level=0)
        (place / split / image_text_folder.MANIFEST).write_text(json.dumps(captions, indent=0))
