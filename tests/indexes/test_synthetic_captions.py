"""The embedded set with captions, and the grammar that they are of."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter, defaultdict
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from tapetum.errors import ConfigError, DataError
from tapetum.indexes import image_text_folder, synthetic_captions
from tapetum.indexes.build import build
from tapetum.indexes.caption_grammar import COLOURS, Scene, attributes, parse, scenes
from tapetum.indexes.synthetic_captions import draw, is_held_out, render

TINY = partial(synthetic_captions.index, train=24, test=12, size=48)
HUES = {"red": 0, "yellow": 56, "green": 122, "blue": 225, "purple": 285}


def made(root, layout=TINY, **options):
    required = {"required": ("captions",), "seed": 0, "cache": None, "name": "synthetic_captions"}
    return build(layout, root=root, **required | options)


def captions(index, split):
    listed = index.column("captions")
    assert all(len(one) == 1 for one in listed)
    return [listed[row][0] for row in index.rows(split)]


# --- grammar ---


def test_every_caption_is_read_back_and_says_one_thing_only():
    every = list(scenes(2, 4))
    texts = [str(scene) for scene in every]
    assert len({*texts}) == len(every) == 240 + 30_720
    assert [parse(text) for text in texts] == every
    told = [tuple(attributes(text).items()) for text in texts]
    assert len({*told}) == len(every)


def test_caption_is_spelt_as_documented():
    assert attributes("a red square on a white background") == {
        "groups": 1,
        "count": 1,
        "colour": "red",
        "shape": "square",
        "relation": None,
        "other_count": None,
        "other_colour": None,
        "other_shape": None,
        "background": "white",
    }
    assert attributes("two blue circles above a green triangle on a black background") == {
        "groups": 2,
        "count": 2,
        "colour": "blue",
        "shape": "circle",
        "relation": "above",
        "other_count": 1,
        "other_colour": "green",
        "other_shape": "triangle",
        "background": "black",
    }
    assert attributes("four blue crosses on a grey background")["shape"] == "cross"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red square",
        "two red square on a white background",
        "a red squares on a white background",
        "a red crosss on a white background",
        "two red crosss on a white background",
        "a orange square on a white background",
        "five red squares on a white background",
        "a red square on a white background.",
        " a red square on a white background",
        "A red square on a white background",
        "a red square above a red circle on a white background",
        "a red square above a blue circle on a white background",
        "a blue square above on a white background",
    ],
)
def test_text_that_is_no_caption_of_the_grammar_has_no_attributes(text):
    assert attributes(text) is None


WORDS = ["a", "two", "red", "blue", "circle", "circles", "on", "above", "left", "of", "white", "background"]


@given(st.lists(st.sampled_from(WORDS)))
def test_text_is_read_only_where_it_is_written_so(words):
    scene = parse(" ".join(words))
    assert scene is None or str(scene) == " ".join(words)


# --- the set ---


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """(index at the defaults, seconds of one core)."""
    began = time.process_time()
    index = made(tmp_path_factory.mktemp("set"), synthetic_captions.index, val_fraction=0.1)
    return index, time.process_time() - began


def test_defaults_are_rendered_in_seconds_and_split(rendered):
    index, seconds = rendered
    assert seconds < 20
    counted = {split: one["images"] for split, one in index.counts().items()}
    assert counted["train"] + counted["val"] == 4000
    assert counted["test"] == 500
    assert 300 < counted["val"] < 500


def test_half_of_the_test_images_have_held_out_captions_and_train_has_none(rendered):
    index, _ = rendered
    held = {
        split: [is_held_out(parse(one), 0.2) for one in captions(index, split)]
        for split in ("train", "val", "test")
    }
    assert not any(held["train"] + held["val"])
    assert sum(held["test"]) == 250
    share = np.mean([is_held_out(scene, 0.2) for scene in scenes(2, 4)])
    assert share == pytest.approx(0.2, abs=0.01)
    known = {*captions(index, "train"), *captions(index, "val")}
    new = sum(one not in known for one in captions(index, "test"))
    assert index.notes["test images whose caption no training image has"] == new == 352


def test_most_frequent_caption_is_a_poor_guess_and_every_word_is_in_train(rendered):
    index, _ = rendered
    train, test = captions(index, "train"), captions(index, "test")
    most_frequent = Counter(train).most_common(1)[0][0]
    assert test.count(most_frequent) / len(test) < 0.05
    assert Counter(test).most_common(1)[0][1] / len(test) < 0.05
    learnt, possible = (list(map(attributes, texts)) for texts in (train, map(str, scenes(2, 4))))
    for key in possible[0]:
        assert {one[key] for one in learnt} == {one[key] for one in possible}


def seen(pixels):
    """(background, colour → [(y, x, spread, tip) of each shape]) as plain image processing sees them."""
    corners = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = {0: "black", 1: "grey", 2: "white"}[int(np.digitize(np.median(corners), (60, 190)))]
    levels = pixels.astype(float) / 255
    chroma = levels.max(-1) - levels.min(-1)
    hue = np.asarray(Image.fromarray(pixels).convert("HSV"))[..., 0] * (2 * np.pi / 256)
    parts, number = ndimage.label(chroma > 0.25)
    found = defaultdict(list)
    for part in range(1, number + 1):
        mask = parts == part
        if mask.sum() < 12:
            continue
        inner = mask & (chroma > 0.4)
        angle = np.rad2deg(np.arctan2(np.sin(hue[inner]).mean(), np.cos(hue[inner]).mean()))
        colour = min(HUES, key=lambda name: abs((angle - HUES[name] + 180) % 360 - 180))
        rows, columns = np.nonzero(mask)
        y, x = rows.mean(), columns.mean()
        # 1 for a disc, pi/3 for a square, more for what has arms or tips
        spread = 2 * np.pi * ((rows - y) ** 2 + (columns - x) ** 2).mean() / mask.sum()
        tip = (y - (rows.min() + rows.max()) / 2) / (np.ptp(rows) + 1)  # mass below the middle: it points up
        found[colour].append((y, x, spread, tip))
    return background, found


def shape_of(spread, tip):
    if spread < 1.095:
        return "circle" if spread < 1.0065 else "square"
    return "triangle" if tip > 0.06 else "cross"


def test_every_attribute_is_to_be_seen(rendered):
    """Threshold, connected components, moments: nothing that knows how the images were drawn."""
    index, _ = rendered
    wrong_shapes, wrong = [], []
    for row in index.rows("test")[:300]:
        root, path = index.location(row)
        scene = parse(index.column("captions")[row][0])
        background, found = seen(np.asarray(Image.open(root / path)))
        groups = [scene.first, *([scene.second] if scene.second else [])]
        counts = {colour: len(parts) for colour, parts in found.items()}
        right = background == scene.background and counts == {one.colour: one.count for one in groups}
        if right and scene.second:
            places = [np.mean([part[:2] for part in found[one.colour]], 0) for one in groups]
            down, across = places[0] - places[1]
            sideways = "left of" if across < 0 else "right of"
            upright = "above" if down < 0 else "below"
            right = scene.relation == (sideways if abs(across) > abs(down) else upright)
        if not right:
            wrong.append(path)
            continue
        for one in groups:
            spread, tip = np.mean([part[2:] for part in found[one.colour]], 0)
            if shape_of(spread, tip) != one.shape:
                wrong_shapes.append((path, one.shape, spread, tip))
    assert not wrong
    assert not wrong_shapes


def test_set_is_of_the_layout_for_ones_own_captions(tmp_path):
    listing = TINY(tmp_path)
    (place,) = (one for one in tmp_path.iterdir() if one.is_dir())
    own = image_text_folder.index(place, copies="keep")
    assert listing.table.column("captions").to_pylist() == own.table.column("captions").to_pylist()
    assert {*listing.table.column_names} == {*synthetic_captions.COLUMNS}
    stated = json.loads((place / "synthetic_captions.json").read_text())
    assert stated["train"] == 24
    assert stated["held_out"] == 0.2


def test_same_arguments_render_the_same_files_and_others_do_not(tmp_path):
    first, second = made(tmp_path / "a"), made(tmp_path / "b")
    assert first.fingerprint == second.fingerprint
    for row in range(len(first)):
        one, other = (root / path for root, path in (first.location(row), second.location(row)))
        assert one.read_bytes() == other.read_bytes()
    assert made(tmp_path / "a", partial(TINY, seed=1)).fingerprint != first.fingerprint


@pytest.mark.parametrize(("groups", "count"), [(1, 1), (1, 4), (2, 2)])
def test_groups_and_counts_can_be_fewer(tmp_path, groups, count):
    index = made(tmp_path, partial(TINY, groups=groups, count=count, held_out=0))
    known = {str(scene) for scene in scenes(groups, count)}
    assert {*captions(index, "train"), *captions(index, "test")} <= known


def test_draws_are_even():
    rng = np.random.default_rng(0)
    drawn = [draw(rng, 2, 4) for _ in range(4000)]
    assert np.mean([scene.second is None for scene in drawn]) == pytest.approx(0.5, abs=0.03)
    for scene in drawn:
        assert parse(str(scene)) == scene
    singles = [scene.first.colour for scene in drawn if scene.second is None]
    assert all(singles.count(one) / len(singles) == pytest.approx(0.2, abs=0.03) for one in COLOURS)


@pytest.mark.parametrize("size", [48, 96, 224])
def test_crowded_scenes_find_their_places_at_any_size(size):
    scene = parse("four blue squares left of four red circles on a grey background")
    for number in range(5):
        pixels = render(np.random.default_rng(number), scene, size)
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.uint8
        counts = {colour: len(parts) for colour, parts in seen(pixels)[1].items()}
        assert counts == {"blue": 4, "red": 4}


def test_held_out_captions_do_not_depend_on_the_seed_and_grow_with_the_share():
    every = list(scenes(1, 4))
    fifth, half = ({str(one) for one in every if is_held_out(one, share)} for share in (0.2, 0.5))
    assert fifth < half
    assert not any(is_held_out(one, 0) for one in every)
    assert isinstance(every[0], Scene)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 1}, "data.index.train=1: must be at least 2 images"),
        ({"size": 32}, "data.index.size=32: must be at least 48 pixels"),
        ({"groups": 3}, "data.index.groups=3: must be 1 or 2"),
        ({"count": 5}, "data.index.count=5: must be from 1 to 4"),
        ({"held_out": 0.6}, "data.index.held_out=0.6: must be from 0 to 0.5"),
        ({"held_out": 1e-6}, "data.index.held_out=1e-06 holds out none of the few captions there are"),
    ],
)
def test_arguments_out_of_range(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        TINY(tmp_path, **options)


def test_damaged_set_is_never_taken_for_a_whole_one(tmp_path):
    TINY(tmp_path)
    (place,) = (one for one in tmp_path.iterdir() if one.is_dir())
    shutil.copytree(place, tmp_path / "copy")
    (place / "train" / "000003.png").unlink()
    with pytest.raises(DataError, match=r"is not the synthetic set it was \(35 of 36 images\): remove the"):
        TINY(tmp_path)
    shutil.rmtree(place)
    (tmp_path / "copy").rename(place)
    (place / "synthetic_captions.json").write_text("{")
    with pytest.raises(DataError, match=r"can't be read .*: remove the folder"):
        TINY(tmp_path)
