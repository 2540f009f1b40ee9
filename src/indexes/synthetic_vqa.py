"""The embedded set with questions: the shapes of `synthetic_captions`, asked about one thing at a time.

It exists so that a vision-language model can be trained and measured without a download: every answer is one
word and is read off the scene, and for no kind of question is one answer much more frequent than the others,
so that nothing but looking helps. Its figures say nothing about photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..errors import ConfigError, did_you_mean
from . import synthetic_captions
from .caption_grammar import COLOURS, SHAPES, Scene, parse
from .messages import IMAGE
from .table import Listing, to_table

COLUMNS: tuple[str, ...] = ("path", "split", "group", "messages")

Kind = Literal["background", "colour", "number", "relation", "shape", "yes_no"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NUMBERS = ("one", "two", "three", "four")
WORDINGS = ("What is shown?", "What do you see?", "Describe the image.", "Say what there is.")

_NEW = "test images of scenes that no training image shows"
_SIDES = {
    "left of": "on the left",
    "right of": "on the right",
    "above": "at the top",
    "below": "at the bottom",
}
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def index(
    root: Path,
    *,
    train: int = 4000,
    test: int = 500,
    size: int = 48,
    groups: int = 1,
    count: int = 4,
    held_out: float = 0.0,
    questions: Sequence[str] | None = None,
    per_image: int = 1,
    descriptions: int = 0,
    seed: int = 0,
) -> Listing:
    """Renders the images below root the first time, then lists a conversation for each question about one.

    train, test, size, groups, count, held_out, seed: of the images, see `synthetic_captions.index`, which
        renders them: train and test count images. With held_out half of those of test show a scene that no
        image of train does; of one group there are so few scenes (240) that a model learns which of them it
        never met, and takes them for others.
    questions: kinds that are asked, evenly, of KINDS; None: all that these scenes can answer. Of two groups
        one is meant, named by its colour or its side; `relation` asks where it is, seen from the other one.
    per_image: so many questions of different kinds about each image, a row each.
    descriptions: so many further rows for each image of train, not of test: in the first of WORDINGS it is
        asked what is shown, and the answer says all but the background. One word in an answer teaches sight
        slowly, a sentence several times as fast.
    """
    kinds = _kinds(questions, groups, count)
    fewest = len(kinds) - ("relation" in kinds)  # not every image has two groups
    if isinstance(per_image, bool) or not 1 <= per_image <= fewest:
        raise ConfigError(
            f"data.index.per_image={per_image}: must be from 1 to {fewest}, the kinds there are"
        )
    if isinstance(descriptions, bool) or not 0 <= descriptions <= len(WORDINGS):
        raise ConfigError(f"data.index.descriptions={descriptions}: must be from 0 to {len(WORDINGS)}")
    images = synthetic_captions.index(
        root, train=train, test=test, size=size, groups=groups, count=count, held_out=held_out, seed=seed
    )
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for row in images.table.to_pylist():
        scene = parse(row["captions"][0])
        assert scene is not None  # it wrote the caption
        number = int(Path(row["path"]).stem)
        rng = np.random.default_rng((seed, row["split"] == "test", number, len(KINDS)))
        able = [kind for kind in kinds if kind != "relation" or scene.second]
        asked = [ask(rng, scene, kind) for kind in rng.choice(able, per_image, replace=False)]
        if row["split"] == "train":
            asked += [(wording, described(scene)) for wording in WORDINGS[:descriptions]]
        for question, answer in asked:
            columns["path"].append(row["path"])
            columns["split"].append(row["split"])
            columns["group"].append(row["path"])
            columns["messages"].append(
                [
                    {"role": "user", "content": f"{IMAGE}\n{question}"},
                    {"role": "assistant", "content": answer},
                ]
            )
    notes = dict(images.notes)
    new = notes.pop(synthetic_captions.NEW)  # whose caption, which nobody is asked for here
    notes |= {_NEW: new} if held_out else {}
    return Listing(to_table(columns), watched=images.watched, notes=notes)


def ask(rng: np.random.Generator, scene: Scene, kind: Kind) -> tuple[str, str]:
    """(question, answer) of a kind; `relation` asks about a scene of two groups."""
    if kind == "background":
        return "What colour is the background?", scene.background
    first = scene.second is None or rng.random() < 0.5
    meant, other = (scene.first, scene.second) if first else (scene.second, scene.first)
    assert meant is not None
    if kind == "yes_no":
        there = {(one.colour, one.shape) for one in (meant, other) if one}
        colour, shape = meant.colour, meant.shape
        if rng.random() < 0.5:
            return f"Is there a {colour} {shape}?", "yes"
        near = [(one, shape) for one in COLOURS] if rng.random() < 0.5 else [(colour, one) for one in SHAPES]
        near = [one for one in near if one not in there]
        colour, shape = near[int(rng.integers(len(near)))]
        return f"Is there a {colour} {shape}?", "no"
    if kind == "shape":
        which = meant.colour if other else "shown"
        return f"What shape is {which}?", meant.shape
    if kind == "number":
        which = meant.colour if other else "there"
        return f"How many shapes are {which}?", NUMBERS[meant.count - 1]
    if other is None or scene.relation is None:
        return "What colour are the shapes?", meant.colour
    relation = scene.relation if first else _OPPOSITE[scene.relation]
    if kind == "colour":
        return f"What colour are the shapes {_SIDES[relation]}?", meant.colour
    return f"Where is {meant.colour}, seen from {other.colour}?", relation.removesuffix(" of")


def described(scene: Scene) -> str:
    """Its caption without the background: "two blue circles above a green triangle"."""
    return str(scene).removesuffix(f" on a {scene.background} background")


def _kinds(questions: Sequence[str] | None, groups: int, count: int) -> list[Kind]:
    able = [kind for kind in KINDS if (kind != "relation" or groups == 2) and (kind != "number" or count > 1)]
    if questions is None:
        return able
    if isinstance(questions, str) or not questions:
        raise ConfigError(f"data.index.questions={questions!r}: must be a list, such as [colour, number]")
    for name in questions:
        if name not in KINDS:
            raise ConfigError(
                f"unknown value data.index.questions={name}{did_you_mean(str(name), KINDS)} kinds: "
                f"{', '.join(KINDS)}"
            )
        if name not in able:
            needs = "data.index.groups=2" if name == "relation" else "data.index.count=2 or more"
            raise ConfigError(f"data.index.questions={name}: nothing to ask about, type {needs}")
    return [kind for kind in KINDS if kind in questions]
