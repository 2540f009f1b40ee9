"""Thermal augmentation: what each change does, on both dtypes, and only by the seed."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tapetum.config.build import build
from tapetum.errors import ConfigError
from tapetum.images.geometry import InputSpec
from tapetum.images.thermal import RandomDeadPixels, RandomFixedPattern, RandomGainOffset

CONF = Path(__file__).parents[2] / "conf" / "augment" / "thermal.yaml"
CHANGES = (
    RandomGainOffset(p=1, gain=(0.5, 2.0), offset=(-0.4, 0.4)),
    RandomFixedPattern(p=1, row=0.3, column=0.3),
    RandomDeadPixels(p=1, share=0.5),
)
DTYPES = (torch.uint8, torch.float32)


def picture(dtype, channels=3, height=40, width=24, seed=0):
    shares = torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed))
    image = shares if dtype == torch.float32 else (shares * 255).round().to(torch.uint8)
    return image.repeat(channels, 1, 1)


def grey(dtype, share=0.5, channels=1):
    image = torch.full((channels, 30, 50), share)
    return image if dtype == torch.float32 else (image * 255).round().to(torch.uint8)


def in_shares(image):
    return image.double() / (255 if image.dtype == torch.uint8 else 1)


def drawn(change, image, seed=0):
    torch.manual_seed(seed)
    return change(image)


@pytest.mark.parametrize("change", CHANGES, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_dtype_shape_range_and_equal_channels_are_kept(change, dtype, channels):
    image = picture(dtype, channels)
    before = image.clone()
    seen = set()
    for seed in range(20):
        found = drawn(change, image, seed)
        assert found.dtype == dtype
        assert found.shape == image.shape
        assert bool(((in_shares(found) >= 0) & (in_shares(found) <= 1)).all())
        assert bool((found == found[:1]).all())
        seen.add(found.numpy().tobytes())
    assert len(seen) == 20
    assert torch.equal(image, before)


@pytest.mark.parametrize("change", CHANGES, ids=lambda one: type(one).__name__)
def test_both_dtypes_are_changed_alike(change):
    """The same seed means the same amounts: floats of the bytes' values differ by their rounding only."""
    for seed in range(10):
        levels = drawn(change, picture(torch.uint8), seed)
        shares = drawn(change, picture(torch.uint8).float() / 255, seed)
        assert float((in_shares(levels) - shares).abs().max()) <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("kind", [RandomGainOffset, RandomFixedPattern, RandomDeadPixels])
def test_probability_is_how_often_something_changes(kind):
    image = picture(torch.float32)
    assert all(drawn(kind(p=0.0), image, seed) is image for seed in range(50))
    changed = sum(drawn(kind(p=0.25), image, seed) is not image for seed in range(400))
    assert 70 <= changed <= 130  # 4.6 standard deviations around 100


# --- gain and offset ---


@settings(max_examples=50, deadline=None)
@given(
    gain=st.floats(0.25, 4),
    offset=st.floats(-0.5, 0.5),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_one_gain_and_offset_are_a_saturated_line(gain, offset, dtype, seed):
    image = picture(dtype, 1, seed=seed)
    found = drawn(RandomGainOffset(1, (gain, gain), (offset, offset)), image)
    expected = np.clip(in_shares(image).numpy() * gain + offset, 0, 1)
    assert np.allclose(in_shares(found), expected, atol=1e-5 if dtype == torch.float32 else 0.5 / 255 + 1e-5)


def test_gain_and_offset_fill_their_intervals():
    change = RandomGainOffset(1, (0.5, 2.0), (-0.1, 0.1))
    ramp = torch.tensor([[[0.2, 0.4]]])
    gains, offsets = [], []
    for seed in range(400):
        low, high = drawn(change, ramp, seed).flatten().double().tolist()
        gains.append((high - low) / 0.2)
        offsets.append(low - 0.2 * gains[-1])
    kept = [(gain, offset) for gain, offset in zip(gains, offsets, strict=True) if 0.3 - offset > 0]
    assert len(kept) == 400
    assert 0.499 <= min(gains) < 0.55
    assert 1.85 < max(gains) <= 2.001
    assert abs(np.mean(np.array(gains) < 1) - 0.5) < 0.1  # half and double are alike
    assert -0.1001 <= min(offsets) < -0.09
    assert 0.09 < max(offsets) <= 0.1001


# --- fixed-pattern noise ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_offset_along_their_whole_length_and_columns_along_theirs(dtype):
    rows = in_shares(drawn(RandomFixedPattern(1, row=0.05, column=0.0), grey(dtype)))[0]
    assert float(rows.std(dim=1).max()) == 0
    assert float(rows[:, 0].std()) > 0
    columns = in_shares(drawn(RandomFixedPattern(1, row=0.0, column=0.05), grey(dtype)))[0]
    assert float(columns.std(dim=0).max()) == 0
    assert float(columns[0].std()) > 0


def test_rows_and_columns_add_up():
    """What is left of a flat frame without its rows' and columns' means is nothing."""
    found = drawn(RandomFixedPattern(1, row=0.03, column=0.03), grey(torch.float32))[0].double()
    residual = found - found.mean(0, keepdim=True) - found.mean(1, keepdim=True) + found.mean()
    assert float(residual.abs().max()) < 1e-6
    assert float(found.std()) > 0.005


def test_stripes_are_as_strong_as_told():
    change = RandomFixedPattern(1, row=0.02, column=0.0)
    image = torch.full((1, 400, 2), 0.5)
    spread = [float(drawn(change, image, seed)[0, :, 0].std()) for seed in range(200)]
    assert max(spread) < 0.0225  # 0.02, and what a sample of 400 may miss
    assert abs(np.mean(spread) - 0.01) < 0.0015


# --- dead pixels ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_dead_pixels_are_black_or_white_and_the_others_untouched(dtype):
    image = grey(dtype, channels=3)
    counts, white = [], 0
    for seed in range(100):
        found = drawn(RandomDeadPixels(1, share=0.1), image, seed)
        dead = (found != image)[0]
        counts.append(int(dead.sum()))
        assert set(in_shares(found)[0][dead].tolist()) <= {0.0, 1.0}
        white += int((in_shares(found)[0][dead] == 1).sum())
    assert max(counts) <= 150
    assert abs(np.mean(counts) - 75) < 12
    assert abs(white / sum(counts) - 0.5) < 0.03


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: RandomGainOffset(p=1.5), "p=1.5 is out of range: use 0 to 1"),
        (lambda: RandomGainOffset(gain=[0, 1]), r"gain=\[0, 1\] must be two factors in order"),
        (lambda: RandomGainOffset(gain=[2, 1]), "must be two factors in order"),
        (lambda: RandomGainOffset(offset=[0.2, 0.1]), "must be two shares of the range in order"),
        (lambda: RandomGainOffset(offset=[0.2]), "must be two shares of the range in order"),
        (lambda: RandomFixedPattern(row=-0.1), "row=-0.1 is out of range"),
        (lambda: RandomFixedPattern(column=2), "column=2 is out of range"),
        (lambda: RandomDeadPixels(share=2), "share=2 is out of range"),
        (lambda: RandomDeadPixels(p=float("nan")), "p=nan is out of range"),
    ],
)
def test_impossible_amounts_are_config_errors(make, reason):
    with pytest.raises(ConfigError, match=reason):
        make()


# --- the group ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_group_keeps_dtype_and_size_and_is_a_function_of_the_seed(dtype, channels):
    augment = build(yaml.safe_load(CONF.read_text()))
    spec = InputSpec((40, 24), channels=channels)
    image = augment.resize(picture(dtype, channels, 60, 50), spec)
    first = [augment(image, spec, seed) for seed in range(40)]
    for found in first:
        assert found.dtype == dtype
        assert found.shape == (channels, 40, 24)
        assert bool((found == found[:1]).all())  # no colour, and all channels alike
    assert all(torch.equal(augment(image, spec, seed), one) for seed, one in enumerate(first))
    assert len({one.numpy().tobytes() for one in first}) == 40


def test_polarity_is_left_alone_unless_asked_for():
    config = yaml.safe_load(CONF.read_text())
    invert = config["after_crop"][-1]
    assert invert == {"_target_": "torchvision.transforms.v2.RandomInvert", "p": 0.0}
    spec = InputSpec((40, 24), channels=1)
    config |= {"before_crop": [], "enlarge": 0, "after_crop": [invert | {"p": 1.0}]}
    for dtype in DTYPES:
        image = picture(dtype, 1)
        found = build(config)(image, spec, 3)
        assert torch.equal(found, (255 if dtype == torch.uint8 else 1) - image)
