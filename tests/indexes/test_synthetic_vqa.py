"""The embedded set with questions: true answers, evenly spread, and the images they are about."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial

import numpy as np
import pytest
from tapetum.errors import ConfigError
from tapetum.indexes import synthetic_captions, synthetic_vqa
from tapetum.indexes.build import build
from tapetum.indexes.caption_grammar import COLOURS, SHAPES, attributes, parse, scenes
from tapetum.indexes.synthetic_captions import draw
from tapetum.indexes.synthetic_vqa import KINDS, WORDINGS, ask

TINY = partial(synthetic_vqa.index, train=24, test=12)
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
SIDES = {
    "What colour are the shapes on the left?": ("left of", "right of"),
    "What colour are the shapes on the right?": ("right of", "left of"),
    "What colour are the shapes at the top?": ("above", "below"),
    "What colour are the shapes at the bottom?": ("below", "above"),
}
OPPOSITE = {"left of": "right", "right of": "left", "above": "below", "below": "above"}


def answered(question: str, caption: str) -> str:
    """The answer, read from the words of question and caption."""
    told = attributes(caption)
    assert told is not None
    groups = [(told["colour"], told["shape"], told["count"])]
    if told["groups"] == 2:
        groups.append((told["other_colour"], told["other_shape"], told["other_count"]))
    words = question.rstrip("?").replace(",", "").split()
    if question == "What colour is the background?":
        return str(told["background"])
    if question == "What colour are the shapes?":
        ((colour, _, _),) = groups
        return str(colour)
    if question in SIDES:
        first, second = SIDES[question]
        assert told["relation"] in (first, second)
        return str(groups[0 if told["relation"] == first else 1][0])
    if question in ("What shape is shown?", "How many shapes are there?"):
        ((_, shape, count),) = groups
        number = next(word for word, number in NUMBERS.items() if number == count)
        return str(shape) if question.startswith("What") else number
    if question.startswith("What shape is"):
        ((shape,),) = [[shape for colour, shape, _ in groups if colour == words[-1]]]
        return str(shape)
    if question.startswith("How many shapes are"):
        ((count,),) = [[count for colour, _, count in groups if colour == words[-1]]]
        return next(word for word, number in NUMBERS.items() if number == count)
    if question.startswith("Is there a"):
        return "yes" if tuple(words[-2:]) in {(colour, shape) for colour, shape, _ in groups} else "no"
    assert words[:2] == ["Where", "is"]
    meant, other = words[2], words[-1]
    assert {meant, other} == {colour for colour, _, _ in groups}
    relation = str(told["relation"])
    return relation.removesuffix(" of") if meant == told["colour"] else OPPOSITE[relation]


def kind_of(question: str) -> str:
    starts = {"What shape": "shape", "How": "number", "Is": "yes_no", "Where": "relation"}
    found = next((kind for start, kind in starts.items() if question.startswith(start)), "colour")
    return "background" if "background" in question else found


def made(root, layout=TINY, **options):
    required = {"required": ("messages",), "seed": 0, "cache": None, "name": "synthetic_vqa"}
    return build(layout, root=root, **required | options)


def test_every_answer_is_true_of_its_scene():
    rng = np.random.default_rng(0)
    every = list(scenes(2, 4))
    seen = Counter()
    for scene in [*every[:240], *(every[row] for row in rng.choice(len(every), 2000, replace=False))]:
        for kind in KINDS:
            if kind == "relation" and scene.second is None:
                continue
            question, answer = ask(rng, scene, kind)
            assert kind_of(question) == kind
            assert answer == answered(question, str(scene)), (question, str(scene))
            seen[kind] += 1
    assert set(seen) == set(KINDS)


@pytest.mark.parametrize("groups", [1, 2])
def test_no_answer_is_much_more_frequent_than_the_others(groups):
    rng = np.random.default_rng(1)
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for _ in range(4000):
        scene = draw(rng, groups, 4)
        for kind in KINDS:
            if kind != "relation" or scene.second:
                _, answer = ask(rng, scene, kind)
                answers[kind][answer] += 1
    there = {"colour": 5, "shape": 4, "number": 4, "background": 3, "yes_no": 2}
    there |= {"relation": 4} if groups == 2 else {}
    assert {kind: len(found) for kind, found in answers.items()} == there
    for kind, found in answers.items():
        assert max(found.values()) / found.total() < 1.15 / there[kind], (kind, found)


def test_question_alone_does_not_tell_whether_a_thing_is_there():
    rng = np.random.default_rng(2)
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for _ in range(8000):
        question, answer = ask(rng, draw(rng, 1, 4), "yes_no")
        answers[question][answer] += 1
    assert len(answers) == len(COLOURS) * len(SHAPES)
    assert all(0.4 < found["yes"] / found.total() < 0.6 for found in answers.values())


def test_listed_conversations_are_about_the_rendered_images(tmp_path):
    listing = synthetic_vqa.index(tmp_path, train=24, test=12, per_image=2)
    again = synthetic_vqa.index(tmp_path, train=24, test=12, per_image=2)
    assert again.table.equals(listing.table)
    images = synthetic_captions.index(tmp_path, train=24, test=12, size=48, groups=1, held_out=0.0)
    captions = {row["path"]: row["captions"][0] for row in images.table.to_pylist()}
    rows = listing.table.to_pylist()
    assert len(rows) == 2 * 36
    asked = defaultdict(set)
    for row in rows:
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        tag, question = user["content"].split("\n")
        assert tag == "<image>"
        assert assistant["content"] == answered(question, captions[row["path"]])
        assert (tmp_path / row["path"]).is_file()
        asked[row["path"]].add(kind_of(question))
    assert {len(kinds) for kinds in asked.values()} == {2}


def test_same_arguments_ask_the_same_anywhere_and_another_seed_does_not(tmp_path):
    first, second = (made(tmp_path / name) for name in "ab")
    assert first.fingerprint == second.fingerprint
    assert made(tmp_path / "a", partial(TINY, seed=1)).fingerprint != first.fingerprint
    assert first.table.column("split").to_pylist().count("test") == 12


def test_questions_about_one_image_are_of_one_split(tmp_path):
    index = made(tmp_path, partial(TINY, train=60, per_image=3), val_fraction=0.3)
    where = defaultdict(set)
    for path, split in zip(index.column("path"), index.table.column("split").to_pylist(), strict=True):
        where[path].add(split)
    assert all(len(found) == 1 for found in where.values())
    assert {split for found in where.values() for split in found} == {"train", "val", "test"}


@pytest.mark.parametrize("groups", [1, 2])
def test_images_of_train_alone_are_described_too(tmp_path, groups):
    layout = partial(synthetic_vqa.index, tmp_path, train=24, test=12, groups=groups, questions=["colour"])
    plain, more = layout().table.to_pylist(), layout(descriptions=3).table.to_pylist()
    told = [row for row in more if row["messages"][0]["content"].split("\n")[1] in WORDINGS]
    assert [row for row in more if row not in told] == plain
    colours = {row["path"]: row["messages"][1]["content"] for row in plain if row["split"] == "train"}
    assert Counter(row["path"] for row in told) == dict.fromkeys(colours, 3)
    for row in told:
        description = row["messages"][1]["content"]
        assert parse(f"{description} on a grey background") is not None
        assert colours[row["path"]] in description.split()


def test_only_the_questions_that_are_wanted_are_asked(tmp_path):
    layout = partial(TINY, groups=2, questions=["relation", "number"])
    questions = [one[0]["content"].split("\n")[1] for one in made(tmp_path, layout).column("messages")]
    assert {kind_of(question) for question in questions} == {"relation", "number"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"questions": ["color"]}, r"questions=color: did you mean colour\? kinds: background, colour"),
        ({"questions": []}, r"questions=\[\]: must be a list, such as \[colour, number\]"),
        (
            {"questions": ["relation"]},
            r"questions=relation: nothing to ask about, type data\.index\.groups=2",
        ),
        ({"questions": ["number"], "count": 1}, r"type data\.index\.count=2 or more"),
        ({"per_image": 0}, r"data\.index\.per_image=0: must be from 1 to 5"),
        ({"per_image": 3, "questions": ["shape", "colour"]}, r"per_image=3: must be from 1 to 2"),
        ({"descriptions": 5}, r"data\.index\.descriptions=5: must be from 0 to 4"),
        ({"size": 32}, r"data\.index\.size=32: must be at least 48"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        TINY(tmp_path, **arguments)
