"""Readers: a row of an Index to pixels, whole or cut to its box, visible or infrared."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tapetum.datamodules.dataset import ImageDataset
from tapetum.datamodules.decoded import decoded_cache
from tapetum.datamodules.kept import identity_of
from tapetum.datamodules.reading import ImageReader, InfraredReader, boxed
from tapetum.errors import DataError, ImageError
from tapetum.images.augment import Augment
from tapetum.images.geometry import InputSpec, prepare
from tapetum.images.infrared import Clahe, FullRange, ImagePercentile, MinMax, Window, read_levels
from tapetum.images.sources import read_image
from tapetum.indexes.table import TYPES, Index, to_table
from torchvision.transforms import v2

SPEC = InputSpec((12, 16), channels=1)


@pytest.fixture
def root(tmp_path):
    """A 16-bit frame, a grey JPEG, a grey picture stored as colour, and a photograph."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :50]
    frame = (7000 + 60 * rows + 20 * columns + rng.normal(0, 9, rows.shape)).astype(np.uint16)
    Image.fromarray(frame).save(tmp_path / "frame.tiff")
    grey = Image.fromarray((frame >> 6).astype(np.uint8))
    grey.save(tmp_path / "grey.jpg")
    grey.convert("RGB").save(tmp_path / "colour.jpg")
    photograph = np.stack([rows * 6, columns * 5, 255 - rows * 6], -1).astype(np.uint8)
    Image.fromarray(photograph).save(tmp_path / "photograph.jpg")
    (tmp_path / "empty.png").write_bytes(b"")
    return tmp_path


def index_of(root, *paths, edition="0" * 32, **columns) -> Index:
    count = len(paths)
    table = to_table({"path": list(paths), "root": [0] * count, "split": ["train"] * count, **columns})
    return Index(table, (root,), "0" * 32, edition=edition)


# --- boxes ---


def cut(box, height=40, width=50):
    image = torch.arange(height * width).view(1, height, width)
    index = Index(pa.table({"box": pa.array([box], TYPES["box"])}), (), "0" * 32)
    return boxed(image, index, 0), image


@settings(max_examples=60, deadline=None)
@given(
    x=st.tuples(st.floats(0, 50, width=32), st.floats(0, 50, width=32)),
    y=st.tuples(st.floats(0, 40, width=32), st.floats(0, 40, width=32)),
)
def test_a_box_keeps_every_pixel_it_touches_and_no_other(x, y):
    (x0, x1), (y0, y1) = sorted(x), sorted(y)
    if x1 - x0 < 0.01 or y1 - y0 < 0.01:
        return
    found, image = cut([x0, y0, x1, y1])
    # A pixel n reaches from n to n + 1; less than a thousandth of it is rounding.
    columns = [n for n in range(50) if n + 1 > x0 + 5e-4 and n < x1 - 5e-4]
    rows = [n for n in range(40) if n + 1 > y0 + 5e-4 and n < y1 - 5e-4]
    assert torch.equal(found, image[:, rows][:, :, columns])


def test_a_box_may_be_the_whole_image_and_null_is():
    for box in ([0, 0, 50, 40], None, [0, 0, np.float32(20.1) + np.float32(29.9), 40]):
        found, image = cut(box)
        assert torch.equal(found, image)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (
            [0, 0, 51, 40],
            r"\[0, 0, 51, 40\] \(x0, y0, x1, y1\) leaves the image, which is 50 pixels wide and 40",
        ),
        ([-1, 0, 10, 10], "leaves the image"),
        ([0, -0.5, 10, 10], "leaves the image"),
        ([0, 0, 10, 40.01], "leaves the image"),
        ([60, 50, 70, 60], "leaves the image"),
        ([10, 10, 10, 20], "is empty"),
        ([20, 10, 10, 20], "is empty"),
        ([0, 0, float("nan"), 10], "leaves the image"),
        ([0, 0, float("inf"), 10], "leaves the image"),
    ],
)
def test_a_box_that_is_empty_or_leaves_the_image_is_an_error(box, reason):
    with pytest.raises(ImageError, match=reason):
        cut(box)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_cut_before_anything_else(root, channels):
    index = index_of(root, "photograph.jpg", "photograph.jpg", box=[[3, 4, 30, 20], None])
    reader, whole = ImageReader(index, channels), read_image(root, "photograph.jpg", channels=channels)
    assert torch.equal(reader(0), whole[:, 4:20, 3:30])
    assert torch.equal(reader(1), whole)
    spec = InputSpec((9, 9), channels=channels)
    live = ImageDataset(reader, spec, Augment(), seed=0, columns={})
    assert torch.equal(live.resized(0), prepare(whole[:, 4:20, 3:30].contiguous(), spec))


# --- infrared ---


@pytest.mark.parametrize(
    "map_", [FullRange(bits=14), Window(7000, 9000), ImagePercentile(), MinMax(), Clahe()]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_infrared_rows_go_through_the_map(root, map_, channels):
    index = index_of(root, "frame.tiff", modality=["infrared"])
    found = InfraredReader(index, channels, radiometry=map_)(0)
    assert found.dtype == torch.float32
    assert torch.equal(found, map_(read_levels(root, "frame.tiff")).expand(channels, -1, -1))


def test_the_map_sees_what_the_box_leaves(root):
    index = index_of(root, "frame.tiff", modality=["infrared"], box=[[5, 30, 20, 40]])
    reader = InfraredReader(index, 1, radiometry=MinMax())
    cut_out = read_levels(root, "frame.tiff")[:, 30:40, 5:20]
    assert torch.equal(reader.levels(0), cut_out)
    assert torch.equal(reader(0), MinMax()(cut_out))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("path", ["grey.jpg", "colour.jpg"])
def test_eight_bits_without_a_map_are_what_every_task_reads(root, path, channels):
    index = index_of(root, path, modality=["infrared"])
    found = InfraredReader(index, channels)(0)
    expected = read_image(root, path, channels=channels)
    assert torch.equal(found, expected)
    spec = InputSpec((17, 23), interpolation="bicubic", channels=channels)
    assert torch.equal(prepare(found, spec), prepare(expected, spec))


def test_a_visible_row_is_a_photograph_and_has_the_dtype_of_the_others(root):
    index = index_of(root, "photograph.jpg", "grey.jpg", modality=["visible", "infrared"])
    photograph = read_image(root, "photograph.jpg")
    assert torch.equal(InfraredReader(index, 3)(0), photograph)
    mapped = InfraredReader(index, 3, radiometry=MinMax())
    assert torch.equal(mapped(0), photograph.float() / 255)
    assert mapped(1).dtype == torch.float32
    assert [mapped.is_infrared(row) for row in range(2)] == [False, True]


def test_rows_that_do_not_say_what_they_are_follow_the_map(root):
    for columns in ({}, {"modality": [None]}):
        frame, photograph = (index_of(root, path, **columns) for path in ("frame.tiff", "photograph.jpg"))
        assert torch.equal(InfraredReader(photograph)(0), read_image(root, "photograph.jpg"))
        assert torch.equal(InfraredReader(frame)(0), read_image(root, "frame.tiff"))
        assert InfraredReader(frame, radiometry=MinMax())(0).dtype == torch.float32
        with pytest.raises(ImageError, match="a visible image where infrared is expected"):
            InfraredReader(photograph, radiometry=MinMax())(0)


@pytest.mark.parametrize(
    ("path", "map_", "reason"),
    [
        ("frame.tiff", None, "its levels have 16 bits, and data.radiometry is null"),
        ("frame.tiff", Window(0, 255), "an image of 16 bits under the window low=0 high=255"),
        ("grey.jpg", Window(7000, 9000), "an image of 8 bits under the window low=7000 high=9000"),
        ("photograph.jpg", MinMax(), "a visible image where infrared is expected"),
        ("photograph.jpg", None, "a visible image where infrared is expected"),
        ("empty.png", MinMax(), r"the file is empty \(0 bytes\)"),
    ],
)
def test_what_cannot_be_read_is_named_or_left_out_with_its_reason(root, path, map_, reason):
    index = index_of(root, path, "grey.jpg", modality=["infrared"] * 2)
    reader = InfraredReader(index, 1, radiometry=map_)
    with pytest.raises(DataError, match=f"{path} can't be used: {reason}"):
        ImageDataset(reader, SPEC, Augment(), seed=0, columns={}).__getitems__([(0, 0)])
    lenient = ImageDataset(reader, SPEC, Augment(), seed=0, columns={}, on_bad_image="skip")
    assert lenient.__getitems__([(0, 0)]).bad[0].startswith(reason.replace("\\", ""))


# --- batches and caches ---


@pytest.mark.parametrize("map_", [None, MinMax()])
def test_batches_have_the_readers_dtype(root, map_):
    index = index_of(root, "grey.jpg", "colour.jpg", modality=["infrared"] * 2)
    reader = pickle.loads(pickle.dumps(InfraredReader(index, 1, radiometry=map_)))
    flip = Augment(after_crop=[v2.RandomHorizontalFlip(1.0)])
    batch = ImageDataset(reader, SPEC, flip, seed=0, columns={}).__getitems__([(0, 0), (0, 1)]).batch
    assert batch["images"].dtype == (torch.uint8 if map_ is None else torch.float32)
    assert torch.equal(batch["images"][1], prepare(reader(1), SPEC).flip(2))


@pytest.mark.parametrize(("map_", "name"), [(None, "pixels.u8"), (ImagePercentile(), "pixels.f32")])
def test_the_decoded_cache_keeps_the_readers_dtype_bit_for_bit(root, tmp_path, map_, name):
    index = index_of(root, "grey.jpg", "empty.png", "colour.jpg", modality=["infrared"] * 3)
    reader = InfraredReader(index, 1, radiometry=map_)
    for _ in range(2):  # built, then read
        cache = decoded_cache(reader, SPEC, Augment(), cache=tmp_path / "cache")
        assert [file.name for file in cache.directory.glob("pixels.*")] == [name]
        cached = ImageDataset(reader, SPEC, Augment(), seed=0, columns={}, decoded=cache)
        live = ImageDataset(reader, SPEC, Augment(), seed=0, columns={})
        for row in (0, 2):
            assert cached.resized(row).dtype == live.resized(row).dtype
            assert torch.equal(cached.resized(row), live.resized(row))
        assert cache.bad == {1: "the file is empty (0 bytes)"}
    size = 3 * 12 * 16 * (1 if map_ is None else 4)
    assert (cache.directory / name).stat().st_size == size


def test_a_cache_of_which_nothing_can_be_read_says_so(root, tmp_path):
    reader = InfraredReader(index_of(root, "empty.png", modality=["infrared"]), 1, radiometry=MinMax())
    cache = decoded_cache(reader, SPEC, Augment(), cache=tmp_path / "cache")
    with pytest.raises(ImageError, match="the file is empty"):
        cache.image(0)


def test_every_map_and_value_has_a_key_of_its_own_and_plain_images_have_the_old_one(root):
    index = index_of(root, "grey.jpg")
    maps = (None, FullRange(), FullRange(14), Window(1, 2), Window(1, 3), MinMax(), Clahe(), Clahe(3.0))
    readers = [ImageReader(index, 1), *(InfraredReader(index, 1, radiometry=map_) for map_ in maps)]
    keys = [str(identity_of(reader, SPEC, Augment())) for reader in readers]
    assert len(set(keys)) == len(keys)
    assert list(identity_of(readers[0], SPEC, Augment())) == [
        "index", "images", "size", "enlarge", "resize", "interpolation", "channels", "decoder", "strict",
    ]  # fmt: skip
