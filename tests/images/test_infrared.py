"""Infrared: levels stay as stored until a map says what is black and what is white."""

import io
import pickle
import tarfile

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from tapetum.errors import ConfigError, DataError, ImageError
from tapetum.images.decode import Limits, decode
from tapetum.images.infrared import (
    Clahe,
    DatasetPercentile,
    FullRange,
    ImagePercentile,
    MinMax,
    Window,
    decode_levels,
    read_levels,
    to_image,
)

from images.handmade import encode, tiff

MONOTONE = (FullRange(), Window(20000, 40000), ImagePercentile(), ImagePercentile(0, 100), MinMax())
EVERY_LEVEL = np.arange(65536, dtype=np.uint16).reshape(256, 256)

frames = st.one_of(
    arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20))),
    arrays(np.uint16, st.tuples(st.integers(1, 20), st.integers(1, 20))),
    st.builds(
        lambda low, span, seed: np.random.default_rng(seed).integers(low, low + span, (9, 11), np.uint16),
        st.integers(0, 60000), st.integers(1, 5000), st.integers(0, 99),
    ),
)  # fmt: skip


def as_levels(values) -> torch.Tensor:
    return torch.from_numpy(np.array(values))[None]


def thermal_frame(bits=14, seed=0) -> np.ndarray:
    """A warm gradient, a hot target and noise, in counts of a camera."""
    rows, columns = np.mgrid[:48, :64]
    counts = 7000 + 8 * rows + 3 * columns + np.random.default_rng(seed).normal(0, 12, (48, 64))
    counts[20:26, 30:36] += 2500
    return (counts * 2.0 ** (bits - 14)).astype(np.uint16 if bits > 8 else np.uint8)


# --- levels ---


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}])
def test_fourteen_bits_in_a_sixteen_bit_tiff_are_read_as_written(tmp_path, options):
    frame = thermal_frame()
    assert frame.max() < 2**14
    Image.fromarray(frame).save(tmp_path / "a.tiff", **options)
    found = read_levels(tmp_path, "a.tiff")
    assert found.dtype == torch.uint16
    assert found.shape == (1, 48, 64)
    assert np.array_equal(found[0], frame)


def test_every_level_survives_png_and_tiff():
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode_levels(encode(EVERY_LEVEL, kind))[0], EVERY_LEVEL)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "JPEG"])
def test_eight_bit_grey_is_read_as_pillow_reads_it(kind):
    frame = (thermal_frame() >> 6).astype(np.uint8)
    data = encode(frame, kind, **({"lossless": True} if kind == "WEBP" else {}))
    found = decode_levels(data)
    assert found.dtype == torch.uint8
    assert np.array_equal(found[0], np.asarray(Image.open(io.BytesIO(data)).convert("L")))


def test_levels_come_out_of_an_archive_and_are_limited(tmp_path):
    data = encode(thermal_frame(), "TIFF")
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        member = tarfile.TarInfo("day/a.tiff")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    assert np.array_equal(read_levels(tmp_path, "all.tar::day/a.tiff")[0], thermal_frame())
    with pytest.raises(ImageError, match="more than the 100 of Limits"):
        read_levels(tmp_path, "all.tar::day/a.tiff", limits=Limits(max_pixels=100))
    with pytest.raises(ImageError, match="does not exist"):
        read_levels(tmp_path, "day/a.tiff")


@pytest.mark.parametrize("quality", [20, 75, 95])
def test_grey_stored_as_colour_jpeg_is_infrared(quality):
    grey = Image.fromarray((thermal_frame() >> 6).astype(np.uint8)).convert("RGB")
    tinted = Image.fromarray((np.asarray(grey) * [0.99, 1.0, 0.98]).astype(np.uint8))  # a sensor's cast
    for image in (grey, tinted):
        data = encode(image, "JPEG", quality=quality)
        assert torch.equal(decode_levels(data), decode(data, channels=1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_visible_image_is_not_infrared(kind):
    street = np.zeros((40, 40, 3), np.uint8) + np.array([90, 110, 140], np.uint8)
    with pytest.raises(
        ImageError, match=r"a visible image where infrared is expected .* on 100% of its pixels"
    ):
        decode_levels(encode(street, kind))
    false_colours = cv2.applyColorMap((thermal_frame() >> 6).astype(np.uint8), cv2.COLORMAP_INFERNO)
    with pytest.raises(ImageError, match="infrared in false colours"):
        decode_levels(encode(Image.fromarray(false_colours).convert("P"), "PNG"))


# --- maps against their definitions ---


def test_full_range_divides_by_the_last_level():
    assert np.array_equal(FullRange()(as_levels(EVERY_LEVEL))[0], EVERY_LEVEL.astype(np.float32) / 65535)
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(FullRange()(as_levels(grey))[0], grey.astype(np.float32) / 255)
    frame = thermal_frame()
    assert np.allclose(FullRange(bits=14)(as_levels(frame))[0], frame / 16383, atol=1e-7)
    assert float(FullRange(bits=14)(as_levels(np.full((2, 2), 16383, np.uint16))).max()) == 1


def test_full_range_refuses_what_it_cannot_hold():
    with pytest.raises(ImageError, match="its level 16384 is above 16383, the last of bits=14"):
        FullRange(bits=14)(as_levels(np.full((2, 2), 16384, np.uint16)))
    with pytest.raises(ImageError, match="levels of 8 bits under a range of 14"):
        FullRange(bits=14)(as_levels(np.full((2, 2), 9, np.uint8)))


def test_window_is_linear_between_its_ends():
    frame = thermal_frame()
    expected = np.clip((frame.astype(float) - 7100) / (9000 - 7100), 0, 1)
    assert np.allclose(Window(7100, 9000)(as_levels(frame))[0], expected, atol=1e-6)


def test_a_window_of_another_depth_is_an_error():
    with pytest.raises(
        ImageError, match="16 bits under the window low=0 high=255: nearly all of it would be wh"
    ):
        Window(0, 255)(as_levels(thermal_frame()))
    for window in (Window(7000, 9000), Window(0, 9000)):
        with pytest.raises(ImageError, match=r"8 bits under the window .* high=9000: 8 bits do not reach"):
            window(as_levels(np.zeros((2, 2), np.uint8)))
    assert float(Window(0, 255)(as_levels(np.full((2, 2), 255, np.uint8))).min()) == 1


@settings(max_examples=60, deadline=None)
@given(frame=frames, ends=st.tuples(st.floats(0, 49), st.floats(51, 100)))
def test_image_percentile_is_the_window_of_numpys_percentiles(frame, ends):
    low, high = np.percentile(frame.astype(np.float64), ends)
    found = ImagePercentile(*ends)(as_levels(frame))[0].numpy()
    if high - low > 1e-6:
        assert np.allclose(found, np.clip((frame - low) / (high - low), 0, 1), atol=1e-4)
    else:
        assert np.array_equal(found, frame > low)


@settings(max_examples=60, deadline=None)
@given(frame=frames)
def test_min_max_reaches_both_ends_and_a_constant_is_zero(frame):
    found = MinMax()(as_levels(frame))[0].numpy()
    span = int(frame.max()) - int(frame.min())
    assert np.allclose(found, (frame.astype(float) - frame.min()) / max(span, 1), atol=1e-6)
    assert found.min() == 0
    assert found.max() == (1 if span else 0)


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (14, np.uint16)])
def test_data_set_percentile_is_numpys_over_all_pixels(bits, dtype):
    every = [thermal_frame(seed=seed) >> (14 - bits) for seed in range(5)]
    every = [one[: 20 + 5 * n].astype(dtype) for n, one in enumerate(every)]  # sizes may differ
    window = DatasetPercentile(2, 97.5, images=3).fit(as_levels(one) for one in every)
    pixels = np.concatenate([one.ravel() for one in every[:3]])
    assert np.allclose([window.low, window.high], np.percentile(pixels, [2, 97.5]), rtol=1e-12)
    assert isinstance(window, Window)


def test_data_set_percentile_says_why_it_has_no_window():
    flat, grey = as_levels(np.full((4, 4), 900, np.uint16)), as_levels(np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="no image to fit on"):
        DatasetPercentile().fit([])
    with pytest.raises(DataError, match="levels of 8 and of 16 bits"):
        DatasetPercentile().fit([flat, grey])
    with pytest.raises(DataError, match="levels at 1 and 99 per cent of the data set are both 900"):
        DatasetPercentile().fit([flat, flat])
    with pytest.raises(
        DataError, match=r"in these 16-bit files lie up to 252.45: .* Take FullRange with bits=8"
    ):
        DatasetPercentile().fit([as_levels(np.arange(256, dtype=np.uint16).reshape(16, 16))])
    with pytest.raises(ConfigError, match=r"never fitted: call fit\(levels\)"):
        DatasetPercentile()(flat)


@pytest.mark.parametrize("tiles", [1, 4, 8])
@pytest.mark.parametrize("clip_limit", [0.5, 2.0, 40.0])
def test_clahe_is_opencvs_after_the_range_was_chosen(clip_limit, tiles):
    reference = cv2.createCLAHE(clip_limit, (tiles, tiles))
    grey = (thermal_frame() >> 6).astype(np.uint8)
    found = Clahe(clip_limit, tiles)(as_levels(grey))[0].numpy()
    assert np.array_equal(found, reference.apply(grey).astype(np.float32) / 255)
    frame = thermal_frame()
    stretched = cv2.normalize(frame.astype(np.float64), None, 0, 65535, cv2.NORM_MINMAX).round()
    found = Clahe(clip_limit, tiles)(as_levels(frame))[0].numpy()
    assert np.array_equal(found, reference.apply(stretched.astype(np.uint16)).astype(np.float32) / 65535)


def test_clahe_raises_local_contrast():
    frame = thermal_frame()
    plain, equalised = (one(as_levels(frame))[0, :16, :16].std() for one in (MinMax(), Clahe()))
    assert equalised > 3 * plain


# --- what holds for all ---


@settings(max_examples=150, deadline=None)
@given(frame=frames, which=st.integers(0, 4))
def test_no_map_leaves_zero_to_one(frame, which):
    low, high = (3, 200) if frame.dtype == np.uint8 else (3.25, 20000)
    map_ = (FullRange(), Window(low, high, clipped=1.0), ImagePercentile(), MinMax(), Clahe())[which]
    found = map_(as_levels(frame))
    assert found.dtype == torch.float32
    assert found.shape == (1, *frame.shape)
    assert bool(((found >= 0) & (found <= 1)).all())  # false for NaN as well


@pytest.mark.parametrize("map_", MONOTONE, ids=repr)
def test_all_levels_keep_their_order(map_):
    found = map_(as_levels(EVERY_LEVEL)).flatten().numpy()
    steps = np.diff(found)
    assert (steps >= 0).all()
    ends = {"Window": (20000, 40000), "ImagePercentile": (656, 64879)}.get(type(map_).__name__, (0, 65535))
    low, high = (0, 65535) if map_ == ImagePercentile(0, 100) else ends
    assert (steps[low:high] > 0).all()  # nothing is merged that lies inside the range


@pytest.mark.parametrize("map_", [ImagePercentile(), MinMax(), Clahe()], ids=repr)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_constant_image_is_black(map_, dtype, level):
    assert torch.equal(map_(as_levels(np.full((5, 6), level, dtype))), torch.zeros(1, 5, 6))


def test_a_hot_spot_on_a_constant_ground_is_seen_by_percentiles():
    frame = np.full((40, 40), 3000, np.uint16)
    frame[7, 9] = 9000
    found = ImagePercentile()(as_levels(frame))[0]
    assert float(found[7, 9]) == 1
    assert float(found.sum()) == 1


@pytest.mark.parametrize("map_", [*MONOTONE, Clahe(), DatasetPercentile(images=5)], ids=repr)
def test_maps_are_values(map_):
    assert pickle.loads(pickle.dumps(map_)) == map_
    assert eval(repr(map_)) == map_  # what a cache's key is made of


@pytest.mark.parametrize("map_", [*MONOTONE, Clahe()], ids=repr)
def test_what_is_no_level_is_refused(map_):
    for wrong in (torch.zeros(1, 2, 2), torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(1, 2, 2).int()):
        with pytest.raises(ImageError, match=r"levels are uint8 or uint16 \[1, H, W\], these are"):
            map_(wrong)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: FullRange(bits=0), "bits=0 is no depth"),
        (lambda: FullRange(bits=17), "bits=17 is no depth"),
        (lambda: Window(5, 5), "low=5 and high=5 are no window of raw counts"),
        (lambda: Window(-1, 5), "low=-1 and high=5"),
        (lambda: Window(0, 65536), "low=0 and high=65536"),
        (lambda: Window(float("nan"), 5), "low=nan and high=5"),
        (lambda: ImagePercentile(99, 1), "low=99 and high=1 are no percentiles in order"),
        (lambda: DatasetPercentile(0, 101), "low=0 and high=101"),
        (lambda: DatasetPercentile(images=0), "images=0 is nothing to fit on"),
        (lambda: Clahe(clip_limit=0), "clip_limit=0 limits nothing"),
        (lambda: Clahe(tiles=0), "tiles=0 is no number of tiles"),
    ],
)
def test_impossible_maps_are_config_errors(make, reason):
    with pytest.raises(ConfigError, match=reason):
        make()


# --- what a network is fed ---


def test_sixteen_bits_without_a_map_name_the_maps():
    with pytest.raises(ImageError, match=r"16 bits, and data.radiometry is null.*FullRange, Window, .*Clahe"):
        to_image(as_levels(thermal_frame()), None, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_one_channel_is_repeated(channels):
    grey, frame = as_levels((thermal_frame() >> 6).astype(np.uint8)), as_levels(thermal_frame())
    plain, mapped = to_image(grey, None, channels), to_image(frame, MinMax(), channels)
    assert plain.dtype == torch.uint8
    assert mapped.dtype == torch.float32
    assert torch.equal(plain, grey.expand(channels, -1, -1))
    assert torch.equal(mapped, MinMax()(frame).expand(channels, -1, -1))
    mapped[0, 0, 0] = 0.5  # memory of its own, which transforms may write to
    assert channels == 1 or float(mapped[1, 0, 0]) != 0.5


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (lambda levels: levels, r"returned uint8 \[1, 4, 4\], expected float32 \[1, 4, 4\]"),
        (lambda levels: levels.float(), "returned 9 to 9, expected 0 to 1"),
        (lambda levels: levels.float() * torch.nan, "returned nan to nan"),
        (lambda levels: levels[:, :2].float(), r"returned float32 \[1, 2, 4\]"),
    ],
)
def test_a_map_of_ones_own_is_held_to_the_same(own, reason):
    with pytest.raises(DataError, match=reason):
        to_image(as_levels(np.full((4, 4), 9, np.uint8)), own, 1)


def test_a_tiff_by_hand_with_white_at_zero_is_hot_where_it_is_white():
    counts = np.array([[0, 16383]], "<u2")
    found = FullRange()(decode_levels(tiff(counts, bits=16, photometric=0)))
    assert found[0, 0, 0] == 1
    assert found[0, 0, 1] < 1
