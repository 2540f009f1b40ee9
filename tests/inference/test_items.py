"""One infrared image of any kind, for `embed`: all of them end in the same pixels or in a reason."""

import numpy as np
import pytest
import torch
from PIL import Image
from tapetum.errors import ImageError
from tapetum.images.geometry import InputSpec, prepare
from tapetum.images.infrared import DatasetPercentile, FullRange, ImagePercentile, MinMax, Window
from tapetum.inference.items import read_infrared_item, read_item

WHOLE = InputSpec(None, "none", channels=1)
SMALL = InputSpec((11, 9), interpolation="bicubic", channels=3)


def frame(seed=0) -> np.ndarray:
    rows, columns = np.mgrid[:24, :20]
    return (7000 + 90 * rows + 30 * columns + np.random.default_rng(seed).normal(0, 9, rows.shape)).astype(
        "u2"
    )


def grey() -> np.ndarray:
    return (frame() >> 6).astype(np.uint8)


def every_kind(levels, folder):
    """The same levels as a path, a Path, PIL images and arrays of all shapes and layouts."""
    Image.fromarray(levels).save(folder / "a.png")
    Image.fromarray(levels).save(folder / "a.tiff")
    backwards = np.ascontiguousarray(levels[::-1, ::-1])[::-1, ::-1]
    return {
        "path": str(folder / "a.png"),
        "Path": folder / "a.tiff",
        "PIL": Image.fromarray(levels),
        "opened": Image.open(folder / "a.tiff"),
        "[H, W]": levels,
        "[H, W, 1]": levels[..., None],
        "[H, W, 3]": np.repeat(levels[..., None], 3, axis=2),
        "strided": backwards,
        "big-endian": levels.astype(levels.dtype.newbyteorder(">")),
        "Fortran": np.asfortranarray(levels),
    }


@pytest.mark.parametrize("spec", [WHOLE, SMALL])
@pytest.mark.parametrize("backend", ["fast", "pillow"])
@pytest.mark.parametrize("map_", [FullRange(bits=14), Window(7000, 9000), ImagePercentile()])
def test_sixteen_bits_are_mapped_whatever_holds_them(tmp_path, map_, spec, backend):
    mapped = map_(torch.from_numpy(frame())[None]).expand(spec.channels, -1, -1)
    expected = prepare(mapped, spec, backend=backend)
    for kind, item in every_kind(frame(), tmp_path).items():
        found = read_infrared_item(item, spec, map_, backend)
        assert found.dtype == torch.float32
        assert found.is_contiguous()
        assert torch.allclose(found, expected, atol=1e-6), kind


@pytest.mark.parametrize("spec", [WHOLE, SMALL])
def test_eight_bits_without_a_map_are_read_as_for_every_other_task(tmp_path, spec):
    expected = read_item(grey(), spec, "fast")
    for kind, item in every_kind(grey(), tmp_path).items():
        found = read_infrared_item(item, spec, None, "fast")
        assert found.dtype == torch.uint8
        assert torch.equal(found, expected), kind


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_mapped(dtype):
    shares = (np.random.default_rng(0).random((7, 5)) * 0.9).astype(dtype)
    shares[0, :2] = 0, 1
    for array in (shares, shares[..., None], np.repeat(shares[..., None], 3, axis=2)):
        found = read_infrared_item(array, WHOLE, MinMax(), "fast")
        assert found.dtype == torch.float32
        assert np.array_equal(found[0], shares.astype(np.float32))
        without = read_infrared_item(array, WHOLE, None, "fast")
        assert without.dtype == torch.uint8
        assert np.array_equal(without[0], np.round(shares.astype(np.float32) * 255))


def test_an_item_is_not_changed_and_does_not_change():
    for array in (frame(), grey(), frame() / 65535):
        before = array.copy()
        found = read_infrared_item(array, WHOLE, MinMax(), "fast")
        kept = found.clone()
        found.zero_()
        assert np.array_equal(array, before)
        array[:] = 0
        assert float(kept.max()) > 0


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (np.zeros((0, 5), np.uint8), r"an array without pixels, uint8 \[0, 5\]"),
        (np.zeros((5, 5, 0), np.float32), r"an array without pixels, float32 \[5, 5, 0\]"),
        (np.full((2, 2), np.nan), "4 of the array's 4 values are NaN or infinite"),
        (np.array([[0.5, np.inf]], np.float32), "1 of the array's 2 values are NaN or infinite"),
        (
            np.array([[0.5, -0.01]]),
            r"values lie in -0.01 to 0.5: floats are taken as already mapped to \[0, 1\]",
        ),
        (np.array([[0.5, 1e300]]), r"lie in 0.5 to 1e\+300.* give a camera's counts as uint16"),
        (np.zeros((2, 2), np.int32), r"uint8, uint16 or float, and \[H, W\].*this one is int32 \[2, 2\]"),
        (np.zeros((2, 2), np.uint32), "this one is uint32"),
        (np.zeros((2, 2), bool), "this one is bool"),
        (np.zeros((2, 2), complex), "this one is complex128"),
        (np.zeros(4, np.uint8), r"this one is uint8 \[4\]"),
        (np.zeros((2, 2, 4), np.uint8), r"this one is uint8 \[2, 2, 4\]"),
        (np.zeros((1, 2, 2, 1), np.uint8), r"this one is uint8 \[1, 2, 2, 1\]"),
        (np.full((4, 4, 3), [10, 200, 90], np.uint8), "a visible image where infrared is expected"),
        (
            np.full((4, 4, 3), [1, 2, 3], np.uint16),
            "a visible image where infrared is expected: its channels",
        ),
        (np.full((4, 4, 3), [0.1, 0.2, 0.3]), "a visible image where infrared is expected: its channels"),
        (torch.zeros(2, 2), "an item is a path, a PIL image or an array"),
        (None, "an item is a path, a PIL image or an array"),
        (Image.new("RGB", (4, 4), (10, 200, 90)), "a visible image where infrared is expected"),
        (Image.new("F", (4, 4)), "Pillow mode F"),
        ("no/such/file.tiff", "the file does not exist"),
        ("no/such/archive.tar::a.tiff", "archive.tar cannot be opened"),
        (frame(), "an image of 16 bits under the window low=0 high=255"),
    ],
)
def test_what_is_no_infrared_image_says_what_is_wrong(item, reason):
    with pytest.raises(ImageError, match=reason):
        read_infrared_item(item, WHOLE, Window(0, 255), "fast")


def test_sixteen_bits_without_a_map_are_an_error_for_every_kind(tmp_path):
    for item in every_kind(frame(), tmp_path).values():
        with pytest.raises(ImageError, match=r"its levels have 16 bits, and data.radiometry is null"):
            read_infrared_item(item, WHOLE, None, "fast")


def test_a_map_that_was_never_fitted_is_no_fault_of_the_item():
    from tapetum.errors import ConfigError

    with pytest.raises(ConfigError, match="never fitted"):
        read_infrared_item(frame(), WHOLE, DatasetPercentile(), "fast")
