"""Geometry against Pillow, torchvision and NPR's published loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tapetum.errors import ConfigError, ImageError
from tapetum.images.geometry import (
    InputSpec,
    center_crop,
    prepare,
    random_crop,
    resize,
    scale,
    with_geometry,
)
from torchvision.transforms import v2

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
sides = st.integers(1, 90)


def noise(height, width, channels=3, seed=0, stored="hwc"):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (height, width, channels), dtype=torch.uint8, generator=generator)
    image = image.permute(2, 0, 1)
    return image if stored == "hwc" else image.contiguous()


def photograph(height, width, rng):
    """Texture with the 1/f spectrum of natural images, mid-grey with a deviation of 45 levels."""
    spectrum = np.fft.fft2(rng.standard_normal((3, height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = 1
    texture = np.fft.ifft2(spectrum / frequency**1.15).real
    pixels = (texture - texture.mean()) / texture.std() * 45 + 128
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))


def with_pillow(image, height, width, interpolation):
    planes = [
        np.asarray(Image.fromarray(plane.numpy()).resize((width, height), FILTERS[interpolation]))
        for plane in image.contiguous()
    ]
    return torch.from_numpy(np.stack(planes))


def with_pillow_rows_first(image, height, width, interpolation):
    """Pillow 13 chooses the order of the two passes by the sizes; earlier ones and torch do not."""
    if interpolation == "nearest":
        return with_pillow(image, height, width, interpolation)
    return with_pillow(with_pillow(image, image.shape[1], width, interpolation), height, width, interpolation)


def difference(a, b):
    assert a.dtype == b.dtype == torch.uint8
    return (a.int() - b.int()).abs().max().item()


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(sides, sides),
    target=st.tuples(sides, sides),
    interpolation=st.sampled_from(list(FILTERS)),
    channels=st.sampled_from([1, 3]),
    stored=st.sampled_from(["hwc", "chw"]),
    seed=st.integers(0, 99),
)
def test_scaling_stays_close_to_pillow_and_pillow_backend_is_pillow(
    size, target, interpolation, channels, stored, seed
):
    image = noise(*size, channels, seed, stored)
    expected = with_pillow(image, *target, interpolation)
    assert torch.equal(scale(image, target, interpolation=interpolation, backend="pillow"), expected)
    rows_first = with_pillow_rows_first(image, *target, interpolation)
    allowed = {"bilinear": 2, "bicubic": 3, "nearest": 0}[interpolation]
    assert difference(scale(image, target, interpolation=interpolation), rows_first) <= allowed


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("seed", range(15))
def test_fast_resize_of_a_photograph_is_within_a_level_of_pillow(seed, interpolation):
    rng = np.random.default_rng(seed)
    height, width, short = (int(side) for side in rng.integers([120, 120, 20], [301, 301, 260]))
    image = photograph(height, width, rng)
    fast = resize(image, InputSpec((short, short), "shortest", interpolation=interpolation))
    pillow = with_pillow(image, *fast.shape[1:], interpolation)
    assert difference(fast, pillow) <= {"bilinear": 1, "bicubic": 2}[interpolation]
    assert (fast.float() - pillow.float()).abs().mean() < 0.1


@settings(max_examples=80, deadline=None)
@given(size=st.tuples(sides, sides), short=st.integers(1, 70), crop=st.tuples(sides, sides))
def test_shortest_and_centre_crop_round_as_torchvision(size, short, crop):
    image = noise(*size)
    spec = InputSpec((short, short + 5), "shortest", crop)
    expected = v2.functional.resize(image, [short], antialias=True)
    assert torch.equal(resize(image, spec), expected)
    assert torch.equal(prepare(image, spec), v2.functional.center_crop(expected, list(crop)))


@pytest.mark.parametrize("rule", ["none", "shortest", "squash", "pad", "tile"])
def test_an_image_smaller_than_the_crop_gets_a_black_border_whatever_the_rule(rule):
    image = noise(20, 17)
    spec = InputSpec(None if rule == "none" else (24, 24), rule, (64, 70))
    found = prepare(image, spec)
    assert found.shape == (3, 64, 70)
    assert torch.equal(found, v2.functional.center_crop(resize(image, spec), [64, 70]))


def test_prepare_with_pillow_backend_is_pillow_then_crop():
    image = noise(61, 83)
    spec = InputSpec((32, 32), "shortest", (28, 30))
    expected = with_pillow(image, 32, int(32 * 83 / 61), "bilinear")
    assert torch.equal(prepare(image, spec, backend="pillow"), v2.functional.center_crop(expected, [28, 30]))


def test_squash_changes_the_aspect_ratio():
    image = noise(40, 80)
    assert torch.equal(
        prepare(image, InputSpec((20, 24)), backend="pillow"), with_pillow(image, 20, 24, "bilinear")
    )


@settings(max_examples=80, deadline=None)
@given(size=st.tuples(sides, sides), box=st.tuples(sides, sides))
def test_pad_keeps_the_aspect_ratio_and_fills_with_black(size, box):
    image = torch.full((3, *size), 200, dtype=torch.uint8)
    padded = resize(image, InputSpec(box, "pad"))
    assert padded.shape == (3, *box)
    rows, columns = (padded[0] > 0).any(1).nonzero().flatten(), (padded[0] > 0).any(0).nonzero().flatten()
    height, width = len(rows), len(columns)
    assert (padded[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 200).all()
    assert height == box[0] or width == box[1]
    factor = min(box[0] / size[0], box[1] / size[1])
    assert abs(height - size[0] * factor) <= 1
    assert abs(width - size[1] * factor) <= 1
    assert 0 <= (box[0] - height) - 2 * int(rows[0]) <= 1
    assert 0 <= (box[1] - width) - 2 * int(columns[0]) <= 1


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(st.integers(1, 60), st.integers(1, 60)), side=st.integers(1, 50))
def test_tile_repeats_as_npr_translate_duplicate(size, side):
    image = noise(*size)
    if min(size) < side:
        height, width = size[0] * math.ceil(side / size[0]), size[1] * math.ceil(side / size[1])
        expected = torch.zeros(3, height, width, dtype=torch.uint8)
        for top in range(0, height, size[0]):
            for left in range(0, width, size[1]):
                expected[:, top : top + size[0], left : left + size[1]] = image
    else:
        expected = image
    assert torch.equal(resize(image, InputSpec((side, side), "tile")), expected)
    cropped = prepare(image, InputSpec((side, side), "tile", (side, side)))
    assert torch.equal(cropped, v2.functional.center_crop(expected, [side, side]))


def test_none_leaves_the_image():
    image = noise(17, 23)
    assert torch.equal(prepare(image, InputSpec(None, "none")), image)
    assert resize(image, InputSpec(None, "none"), enlarge=32).shape == (3, 17, 23)
    assert prepare(image, InputSpec(None, "none", (10, 30))).shape == (3, 10, 30)


@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(sides, sides),
    target=st.one_of(st.tuples(sides, sides), st.tuples(sides, st.just(1)), st.tuples(st.just(1), sides)),
    interpolation=st.sampled_from(list(FILTERS)),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_floats_are_scaled_as_pillow_scales_mode_f(size, target, interpolation, channels, seed):
    image = noise(*size, channels, seed).float() / 255
    expected = with_pillow(image, *target, interpolation).clamp(0, 1)
    assert torch.equal(scale(image, target, interpolation=interpolation, backend="pillow"), expected)
    fast = scale(image, target, interpolation=interpolation)
    assert fast.dtype == torch.float32
    assert torch.allclose(fast, expected, atol=1e-5)
    assert float(fast.min()) >= 0
    assert float(fast.max()) <= 1


@pytest.mark.parametrize("rule", ["none", "shortest", "squash", "pad", "tile"])
@pytest.mark.parametrize("backend", ["fast", "pillow"])
def test_floats_take_the_way_of_bytes_under_every_rule(rule, backend):
    image = noise(30, 41)
    spec = InputSpec(None if rule == "none" else (36, 36), rule, (32, 34))
    levels, shares = (prepare(one, spec, backend=backend) for one in (image, image.float() / 255))
    assert shares.dtype == torch.float32
    assert shares.shape == levels.shape
    assert float((levels.float() / 255 - shares).abs().max()) < 2.5 / 255  # see `resize`


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("squash", (42, 44)), ("shortest", (42, 84)), ("pad", (42, 44)), ("tile", (60, 60))],
)
def test_enlarge_adds_to_both_sides_of_the_size(rule, expected):
    assert resize(noise(30, 60), InputSpec((10, 12), rule), enlarge=32).shape == (3, *expected)


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(sides, sides), crop=st.tuples(sides, sides))
def test_random_crop_is_a_part_of_the_padded_image(size, crop):
    image = noise(*size).clamp(min=1)
    found = random_crop(image, crop, torch.Generator().manual_seed(1))
    padded = center_crop(image, (max(size[0], crop[0]), max(size[1], crop[1])))
    windows = padded.unfold(1, crop[0], 1).unfold(2, crop[1], 1)
    assert found.shape == (3, *crop)
    assert (windows == found[:, None, None]).all(-1).all(-1).all(0).any()


def test_random_crop_reaches_every_place_equally():
    image = torch.arange(5 * 4, dtype=torch.uint8).reshape(1, 5, 4)
    generator = torch.Generator().manual_seed(0)
    counts = np.zeros(20)
    for _ in range(3000):
        counts[int(random_crop(image, (3, 3), generator)[0, 0, 0])] += 1
    reached = counts[[0, 1, 4, 5, 8, 9]]
    assert reached.sum() == 3000
    assert np.abs(reached - 500).max() < 100  # five standard deviations


def test_random_crop_draws_from_the_given_generator_only():
    image = noise(50, 50)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = random_crop(image, (8, 8), torch.Generator().manual_seed(7))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, random_crop(image, (8, 8), torch.Generator().manual_seed(7)))


def test_extreme_aspect_ratio_is_an_error_not_a_huge_allocation():
    with pytest.raises(ImageError, match=r"1x60000 pixels .* would become 256x15360000"):
        resize(torch.zeros(3, 1, 60000, dtype=torch.uint8), InputSpec((256, 256), "shortest"))


def test_lists_of_a_config_become_tuples():
    spec = InputSpec(size=[20, 24], crop=[10, 12])
    assert spec == InputSpec((20, 24), crop=(10, 12))
    assert hash(spec) == hash(InputSpec((20, 24), crop=(10, 12)))
    assert spec.output_size == (10, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 224}, r"input_spec.size is 224: give height and width in pixels, size=\[224,224\]"),
        ({"size": (224, 0)}, r"input_spec.size is \(224, 0\)"),
        ({"size": (224, 224), "crop": (1, 2, 3)}, "input_spec.crop is"),
        ({"size": (224, 224), "crop": (True, 2)}, "input_spec.crop is"),
        ({"size": None}, "input_spec.size is null, but resize=squash needs one"),
        (
            {"size": (8, 8), "resize": "squish"},
            "unknown value input_spec.resize=squish: did you mean squash?",
        ),
        ({"size": (8, 8), "interpolation": "area"}, "input_spec.interpolation=area"),
        ({"size": (8, 8), "channels": 4}, "input_spec.channels is 4: use 3"),
    ],
)
def test_impossible_input_spec_is_a_config_error(arguments, message):
    with pytest.raises(ConfigError, match=message):
        InputSpec(**arguments)


def test_all_problems_of_an_input_spec_are_reported_together():
    with pytest.raises(ConfigError) as error:
        InputSpec(size=224, resize="x", channels=2)
    assert len(error.value.problems) == 3


def test_unknown_backend_is_a_config_error():
    with pytest.raises(ConfigError, match="backend=fats: did you mean fast"):
        resize(noise(4, 4), InputSpec((2, 2)), backend="fats")


def test_a_users_geometry_replaces_fields_of_the_networks_own():
    spec = InputSpec(size=(256, 256), resize="shortest", crop=(224, 224), interpolation="bicubic")
    changed = with_geometry(spec, {"resize": "squash", "size": [48, 40], "crop": 32})
    assert changed == InputSpec(size=(48, 40), resize="squash", crop=(32, 32), interpolation="bicubic")
    assert with_geometry(spec, {}) == spec
    with pytest.raises(ConfigError, match=r"unknown key model.geometry.sise: it takes size, resize, crop"):
        with_geometry(spec, {"sise": 3})
