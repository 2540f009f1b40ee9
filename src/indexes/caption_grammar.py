"""The captions of `synthetic_captions`: what is on an image, said in exactly one way, and read back from it.

    caption    = group [ relation group ] "on a" background "background"
    group      = ("a" | "two" | "three" | "four") colour shape ["s"]
    colour     = "blue" | "green" | "purple" | "red" | "yellow"
    shape      = "circle" | "cross" | "square" | "triangle"               (plural "crosses")
    relation   = "left of" | "right of" | "above" | "below"
    background = "black" | "grey" | "white"

The two groups of an image have different colours, and the one whose colour comes first in the alphabet is
named first: "two blue circles above a green triangle on a black background".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

COLOURS = ("blue", "green", "purple", "red", "yellow")
SHAPES = ("circle", "cross", "square", "triangle")
BACKGROUNDS = ("black", "grey", "white")
COUNTS = ("a", "two", "three", "four")
RELATIONS = ("left of", "right of", "above", "below")

_GROUP = rf"({'|'.join(COUNTS)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(e?s)?"
_CAPTION = re.compile(
    rf"{_GROUP}(?: ({'|'.join(RELATIONS)}) {_GROUP})? on a ({'|'.join(BACKGROUNDS)}) background"
)


@dataclass(frozen=True)
class Group:
    """Shapes of one kind and colour, 1 to 4 of them."""

    count: int
    colour: str
    shape: str

    def __str__(self) -> str:
        ending = "" if self.count == 1 else "es" if self.shape == "cross" else "s"
        return f"{COUNTS[self.count - 1]} {self.colour} {self.shape}{ending}"


@dataclass(frozen=True)
class Scene:
    """What is on an image.

    relation: where `first` is, seen from `second`; both are None where there is one group.
    """

    first: Group
    background: str
    relation: str | None = None
    second: Group | None = None

    def __str__(self) -> str:
        other = f" {self.relation} {self.second}" if self.second else ""
        return f"{self.first}{other} on a {self.background} background"


def scenes(groups: int, count: int) -> Iterator[Scene]:
    """Every scene with at most so many groups (1 or 2) of at most so many shapes (1 to 4), in a fixed order.

    240 of one group and, with all counts, 30,720 of two.
    """
    single = [Group(*one) for one in product(range(1, count + 1), COLOURS, SHAPES)]
    for first, background in product(single, BACKGROUNDS):
        yield Scene(first, background)
    if groups == 2:
        for first, relation, second, background in product(single, RELATIONS, single, BACKGROUNDS):
            if first.colour < second.colour:
                yield Scene(first, background, relation, second)


def parse(caption: str) -> Scene | None:
    """The scene that `str` of which is the caption; None for any text that no scene has."""
    found = _CAPTION.fullmatch(caption)
    if found is None:
        return None
    first = _group(*found.groups()[:3])
    second = _group(*found.groups()[5:8]) if found[5] else None
    scene = Scene(first, found[10], found[5], second)
    if str(scene) != caption or (second and first.colour >= second.colour):
        return None  # "two red circle", or groups in the wrong order
    return scene


def attributes(caption: str) -> dict[str, int | str | None] | None:
    """What a caption says, by name; None where it is not of the grammar.

    Keys, the same for all captions: groups (1 or 2), count, colour, shape, relation, other_count,
    other_colour, other_shape, background; None where there is no other group. Two captions are the same text
    exactly when all of these are equal.
    """
    scene = parse(caption)
    if scene is None:
        return None
    first, second = scene.first, scene.second
    return {
        "groups": 2 if second else 1,
        "count": first.count,
        "colour": first.colour,
        "shape": first.shape,
        "relation": scene.relation,
        "other_count": second.count if second else None,
        "other_colour": second.colour if second else None,
        "other_shape": second.shape if second else None,
        "background": scene.background,
    }


def _group(count: str, colour: str, shape: str) -> Group:
    return Group(COUNTS.index(count) + 1, colour, shape)
