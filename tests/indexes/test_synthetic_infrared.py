import json
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image
from tapetum.errors import ConfigError, DataError
from tapetum.indexes import synthetic_infrared
from tapetum.indexes.build import build
from tapetum.indexes.roles import roles
from tapetum.indexes.synthetic_infrared import SHAPES, render

TINY = partial(synthetic_infrared.index, train=16, test=16, size=24)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """(index, levels uint16 [n, 48, 48]) at the defaults."""
    index = build(
        synthetic_infrared.index,
        root=tmp_path_factory.mktemp("set"),
        val_fraction=0,
        seed=0,
        cache=None,
        name="synthetic_infrared",
    )
    files = [root / path for root, path in map(index.location, range(len(index)))]
    return index, np.stack([np.asarray(Image.open(file)) for file in files])


def test_every_shape_is_as_often_there_and_files_are_counts_of_14_bits(rendered):
    index, levels = rendered
    assert index.counts() == {
        "train": dict.fromkeys(sorted(SHAPES), 100),
        "test": dict.fromkeys(sorted(SHAPES), 30),
    }
    assert levels.dtype == np.uint16
    assert levels.shape == (1040, 48, 48)
    assert 4000 < levels.min() < levels.max() < 16383, "nothing is clipped"
    assert 6500 < np.median(levels) < 9500
    assert index.notes == {}, "no image is there twice, and every query has its class in the gallery"


def test_the_nearest_pixel_is_above_chance_and_far_from_perfect(rendered):
    index, levels = rendered
    pixels = levels.reshape(len(levels), -1).astype(np.float32)
    pixels -= pixels.mean(1, keepdims=True)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    found = roles(index, "test")
    labels = index.column("label")
    nearest = found.gallery[(pixels[found.queries] @ pixels[found.gallery].T).argmax(1)]
    assert 0.3 < (labels[nearest] == labels[found.queries]).mean() < 0.75


def test_level_and_contrast_do_not_tell_the_classes_apart(rendered):
    index, levels = rendered
    labels = index.column("label")
    found = roles(index, "test")
    for figure in (levels.mean((1, 2)), levels.std((1, 2)).astype(float)):
        figure = (figure - figure.mean()) / figure.std()
        apart = np.abs(figure[found.queries][:, None] - figure[found.gallery][None])
        right = labels[found.gallery[apart.argmin(1)]] == labels[found.queries]
        assert right.mean() < 0.3, "chance is an eighth"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_lies_within_its_circle_and_has_a_pattern_of_its_own(shape):
    rows, columns = np.mgrid[-1.5:1.5:61j, -1.5:1.5:61j].astype(np.float32)
    drawn = {name: SHAPES[name](columns, rows, 0.05) for name in SHAPES}
    outside = np.hypot(rows, columns) > 1.2
    assert np.abs(drawn[shape][outside]).max() < 1e-6
    assert drawn[shape].max() > 0.5
    own = drawn[shape] / np.linalg.norm(drawn[shape])
    for name, other in drawn.items():
        if name != shape:
            assert (own * other).sum() / np.linalg.norm(other) < 0.95, name


def test_the_sensor_has_noise_and_a_pattern_of_rows_and_columns():
    """The spread of differences between neighbours in a flat scene is that of the stated noise."""
    images = [render(np.random.default_rng(n), "ring", 48, 0.0).astype(float) for n in range(40)]
    corners = np.stack([image[:10, :10] for image in images])
    noise = np.diff(np.diff(corners, axis=1), axis=2).std() / 2
    assert 8 < noise < 40
    flat = corners - corners.mean((1, 2), keepdims=True)
    across = flat.mean(1).std()
    assert across > noise / np.sqrt(10), "columns keep an offset of their own"


def test_difficulty_makes_the_nearest_pixel_worse():
    def nearest(difficulty):
        drawn = [
            [
                render(np.random.default_rng((n, part)), shape, 24, difficulty)
                for shape in SHAPES
                for n in range(8)
            ]
            for part in (0, 1)
        ]
        gallery, queries = (np.stack(part).reshape(64, -1).astype(float) for part in drawn)
        gallery, queries = (part - part.mean(1, keepdims=True) for part in (gallery, queries))
        gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
        labels = np.repeat(np.arange(8), 8)
        return (labels[(queries @ gallery.T).argmax(1)] == labels).mean()

    assert nearest(0.0) > 0.9
    assert nearest(0.0) > nearest(0.5) > nearest(1.0)


def test_pixels_are_a_function_of_the_arguments(tmp_path):
    def pixels(root, **arguments):
        listing = TINY(tmp_path / root, **arguments)
        return [(tmp_path / root / path).read_bytes() for path in listing.table.column("path").to_pylist()]

    first = pixels("a")
    assert pixels("b") == first
    assert set(first) < set(pixels("a", train=32)), "a larger set holds the smaller one"
    assert set(pixels("a", seed=1)).isdisjoint(first)
    assert len(set(first)) == 32
    assert len(set(map(len, first))) == 1, "no class has larger files"


def test_it_is_rendered_once_and_again_after_an_interruption(tmp_path):
    paths = TINY(tmp_path).table.column("path").to_pylist()
    place = tmp_path / paths[0].partition("/")[0]
    before = (tmp_path / paths[0]).stat().st_mtime_ns
    TINY(tmp_path)
    assert (tmp_path / paths[0]).stat().st_mtime_ns == before

    shutil.rmtree(place)
    unfinished = tmp_path / f".{place.name}.tmp" / "train"
    unfinished.mkdir(parents=True)
    (unfinished / "half.png").write_bytes(b"")
    assert TINY(tmp_path).table.column("path").to_pylist() == paths
    assert not unfinished.exists()


def test_a_set_that_lost_an_image_or_its_stamp_is_refused(tmp_path):
    path = TINY(tmp_path).table.column("path").to_pylist()[0]
    (tmp_path / path).unlink()
    with pytest.raises(DataError, match=r"\(31 of 32 images\): remove the folder"):
        TINY(tmp_path)
    stamp = tmp_path / path.partition("/")[0] / "synthetic_infrared.json"
    assert json.loads(stamp.read_text())["size"] == 24
    stamp.unlink()
    with pytest.raises(DataError, match=r"synthetic_infrared\.json can't be read"):
        TINY(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 20}, r"data\.index\.train=20: must be a multiple of 8"),
        ({"test": 8}, r"data\.index\.test=8: must be a multiple of 8, at least 16"),
        ({"size": 16}, r"data\.index\.size=16: must be at least 24"),
        ({"difficulty": 1.5}, r"data\.index\.difficulty=1\.5: must be from 0 to 1"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        synthetic_infrared.index(tmp_path, **arguments)
