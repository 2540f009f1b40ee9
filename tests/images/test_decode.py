"""Decoding: any file ends in the right pixels or in an ImageError."""

import io
import random
import struct
import threading
import zlib

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps
from tapetum.errors import ConfigError, ImageError
from tapetum.images.decode import Limits, decode, decode_stored, sniff

from images.handmade import encode, png, tiff

BACKENDS = ("fast", "pillow")


def picture(height=54, width=43, seed=0):
    """Smooth colours with a little noise, so that no two pixels or orientations look the same."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [rows * 255 / height, columns * 255 / width, (rows + 2 * columns) * 80 / (height + width)]
    return (np.stack(planes, -1) + rng.normal(0, 6, (height, width, 3))).clip(0, 255).astype(np.uint8)


def hwc(tensor):
    return tensor.permute(1, 2, 0).numpy()


# --- the plain case, and bit identity ---


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
    ],
)
def test_lossless_formats_give_back_the_pixels(kind, options, backend):
    pixels = picture()
    image = decode(encode(pixels, kind, **options), backend=backend)
    assert image.dtype == torch.uint8
    assert np.array_equal(hwc(image), pixels)


@settings(max_examples=120, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from([0, 1, 2]),
    progressive=st.booleans(),
    restart=st.sampled_from([0, 1]),
    channels=st.sampled_from([1, 3]),
    grey=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_fast_jpeg_is_bit_identical_to_pillow(
    height, width, quality, subsampling, progressive, restart, channels, grey, seed
):
    image = Image.fromarray(picture(height, width, seed))
    data = encode(
        image.convert("L") if grey else image,
        "JPEG",
        quality=quality,
        subsampling=subsampling,
        progressive=progressive,
        restart_marker_rows=restart,
    )
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB" if channels == 3 else "L"))
    fast = decode(data, channels=channels)
    assert fast.shape == (channels, height, width)
    assert np.array_equal(hwc(fast), expected.reshape(height, width, channels))
    assert torch.equal(fast, decode(data, channels=channels, backend="pillow"))


@pytest.mark.parametrize("subsampling", ["440", "411"])
@pytest.mark.parametrize("size", [(33, 47), (64, 64), (1, 9)])
def test_rare_jpeg_subsamplings_equal_pillow(subsampling, size):
    data = simplejpeg.encode_jpeg(picture(*size), 80, "RGB", subsampling)
    assert np.array_equal(hwc(decode(data)), np.asarray(Image.open(io.BytesIO(data))))


def test_rgb_jpeg_without_colour_transform_equals_pillow():
    data = encode(picture(), "JPEG", keep_rgb=True, quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(hwc(decode(data)), expected)
    assert np.abs(expected.astype(int) - picture()).mean() < 5


def test_fast_backend_does_not_ask_pillow_for_plain_jpeg(monkeypatch):
    data = encode(picture(), "JPEG")
    expected = decode(data, backend="pillow")

    def refuse(self):
        raise AssertionError("Pillow decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    assert torch.equal(decode(data), expected)
    with pytest.raises(ImageError, match="Pillow decoded"):
        decode(data, backend="pillow")


# --- kinds of pixels ---


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpeg_has_the_right_colours(backend, adobe):
    flat = np.zeros((16, 32, 3), np.uint8)
    flat[:, :16], flat[:, 16:] = (220, 40, 30), (20, 60, 200)
    data = encode(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data[:200]
    if not adobe:  # without the marker, the same inverted values must be read the same way
        start = data.index(b"\xff\xee")
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    image = hwc(decode(data, backend=backend))
    assert np.abs(image.astype(int) - flat)[:, [4, 28]].max() <= 6


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_palette_gives_its_colours(kind):
    flat = Image.fromarray(picture()).quantize(32)
    assert flat.mode == "P"
    assert np.array_equal(hwc(decode(encode(flat, kind))), np.asarray(flat.convert("RGB")))


def test_transparent_palette_entry_is_white():
    flat = Image.new("P", (4, 3), 1)
    flat.putpalette([10, 20, 30, 200, 100, 50])
    flat.putpixel((2, 1), 0)
    image = decode(encode(flat, "PNG", transparency=0))
    assert image[:, 1, 2].tolist() == [255, 255, 255]
    assert image[:, 0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_alpha_is_composited_over_white(kind, options):
    pixels = np.dstack([picture(), np.arange(54 * 43, dtype=np.uint32).reshape(54, 43) % 256]).astype(
        np.uint8
    )
    image = hwc(decode(encode(Image.fromarray(pixels, "RGBA"), kind, **options))).astype(float)
    alpha = pixels[:, :, 3:] / 255
    assert np.abs(image - (pixels[:, :, :3] * alpha + 255 * (1 - alpha))).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_with_alpha_is_composited_over_white(channels):
    pixels = np.dstack([picture()[:, :, 0], picture()[:, :, 1]])
    image = hwc(decode(encode(Image.fromarray(pixels, "LA"), "PNG"), channels=channels)).astype(float)
    alpha = pixels[:, :, 1:] / 255.0
    assert image.shape[2] == channels
    assert np.abs(image - (pixels[:, :, :1] * alpha + 255 * (1 - alpha))).max() <= 1


def test_colour_key_transparency_is_white():
    rows = [bytes([9, 9, 9, 200, 100, 50])]
    body = b"tRNS" + struct.pack(">HHH", 9, 9, 9)
    chunk = struct.pack(">I", 6) + body + struct.pack(">I", zlib.crc32(body))
    image = decode(png(2, 1, 8, 2, rows, extra=chunk))
    assert image[:, 0].T.tolist() == [[255, 255, 255], [200, 100, 50]]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit_is_black_and_white(kind):
    bits = picture()[:, :, 0] > 128
    image = decode(encode(Image.fromarray(bits), kind), channels=1)
    assert np.array_equal(image[0].numpy(), bits * 255)


def test_sixteen_bit_grey_png_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    expected = np.round(values / 257).astype(np.uint8)
    image = decode(encode(Image.fromarray(values), "PNG"))
    assert np.array_equal(image.numpy(), np.broadcast_to(expected, (3, 20, 20)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_grey_tiff_is_scaled_in_both_byte_orders(order):
    values = np.linspace(0, 65535, 400).astype(order + "u2").reshape(20, 20)
    image = decode(tiff(values, bits=16, order=order), channels=1)
    assert np.array_equal(image[0].numpy(), np.round(values / 257).astype(np.uint8))


def test_sixteen_bit_tiff_where_zero_is_white_is_inverted():
    values = np.linspace(0, 65535, 400).astype("<u2").reshape(20, 20)
    image = decode(tiff(values, bits=16, photometric=0), channels=1)
    assert np.array_equal(image[0].numpy(), 255 - np.round(values / 257).astype(np.uint8))


def test_twelve_bit_tiff_uses_the_whole_range():
    packed = np.frombuffer(bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x00]), np.uint8)  # 000, FFF, 800, 000
    data = bytearray(tiff(packed.reshape(1, 6), bits=12))
    at = data.index(struct.pack("<HHI", 256, 3, 1)) + 8
    data[at : at + 2] = struct.pack("<H", 4)
    assert decode(bytes(data), channels=1).flatten().tolist() == [0, 255, 128, 0]


@pytest.mark.parametrize("color", [2, 6])
def test_sixteen_bit_colour_png_keeps_the_high_byte(color):
    count = 3 if color == 2 else 4
    values = np.full((2, 3, count), 65535, ">u2")
    values[:, :, :3] = np.arange(18).reshape(2, 3, 3) * 3800
    image = decode(png(3, 2, 16, color, [row.tobytes() for row in values]))
    assert np.array_equal(hwc(image), values[:, :, :3] >> 8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(np.ones((4, 4), "<f4"), bits=32, sample_format=3), "Pillow mode F"),
        (tiff(np.ones((4, 4), "<u4"), bits=32), "Pillow mode I"),
        (tiff(np.ones((4, 4), "<i4"), bits=32, sample_format=2), "signed 32-bit"),
        (tiff(np.ones((4, 4), "<i2"), bits=16, sample_format=2), "signed 16-bit"),
        (tiff(np.ones((4, 4), "i1"), bits=8, sample_format=2), "signed 8-bit"),
        (encode(Image.new("LAB", (4, 4)), "TIFF"), "Pillow mode LAB"),
    ],
)
def test_pixels_without_a_fixed_range_are_refused(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data)


def test_animation_gives_its_first_frame():
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    for kind in ("PNG", "TIFF"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.array_equal(hwc(decode(data)), picture(seed=0))
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(hwc(decode(data)), picture(seed=0))


# --- as stored ---


@pytest.mark.parametrize("name", ["png 16", "jpeg grey", "bmp", "tiff lzw", "webp lossless", "png palette"])
def test_stored_pixels_are_those_that_pillow_reads(name):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(SAMPLES[name])))
    expected = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    found = decode_stored(SAMPLES[name])
    assert found.dtype == (torch.uint16 if name == "png 16" else torch.uint8)
    assert np.array_equal(hwc(found), expected if expected.ndim == 3 else expected[..., None])


@pytest.mark.parametrize(("order", "photometric"), [("<", 1), (">", 1), ("<", 0)])
def test_stored_sixteen_bit_tiff_keeps_every_level_and_more_is_brighter(order, photometric):
    values = np.arange(65536, dtype=order + "u2").reshape(256, 256)
    found = decode_stored(tiff(values, bits=16, order=order, photometric=photometric))[0].numpy()
    assert np.array_equal(found, values if photometric else 65535 - values)


@pytest.mark.parametrize("photometric", [0, 1])
def test_stored_eight_bits_where_zero_is_white_are_inverted(photometric):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = decode_stored(tiff(grey, bits=8, photometric=photometric))[0].numpy()
    assert np.array_equal(found, grey if photometric else 255 - grey)


def test_stored_twelve_bits_stay_twelve():
    packed = np.frombuffer(bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x00]), np.uint8)  # 000, FFF, 800, 000
    data = bytearray(tiff(packed.reshape(1, 6), bits=12))
    at = data.index(struct.pack("<HHI", 256, 3, 1)) + 8
    data[at : at + 2] = struct.pack("<H", 4)
    assert decode_stored(bytes(data)).flatten().tolist() == [0, 4095, 2048, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_levels_are_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    levels = Image.fromarray(np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000)
    data = encode(levels, "PNG", exif=exif)
    assert np.array_equal(decode_stored(data)[0], ImageOps.exif_transpose(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(1, 1, 16, 2, [bytes(6)]), "16-bit RGB, of which only the high byte can be read"),
        (png(1, 1, 16, 6, [bytes(8)]), "16-bit RGBA, of which only the high byte"),
        (png(1, 1, 16, 4, [bytes(4)]), "16-bit .*, of which only the high byte"),
        (encode(Image.new("LA", (2, 2), (90, 254)), "PNG"), "some of its pixels are transparent"),
        (encode(Image.new("RGBA", (2, 2), (9, 9, 9, 0)), "WEBP", lossless=True), "are transparent"),
        (tiff(np.ones((4, 4), "<f4"), bits=32, sample_format=3), "Pillow mode F"),
        (tiff(np.ones((4, 4), "<i2"), bits=16, sample_format=2), "signed 16-bit"),
    ],
)
def test_stored_pixels_that_would_not_be_all_of_the_file_are_refused(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode_stored(data)


def test_opaque_alpha_is_no_transparency():
    assert decode_stored(encode(Image.new("LA", (2, 2), (90, 255)), "PNG")).tolist() == [[[90, 90]] * 2]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning", "ignore:Truncated File Read:UserWarning")
@pytest.mark.parametrize("name", ["jpeg", "png 16", "webp", "bmp", "tiff lzw"])
def test_stored_files_are_checked_as_all_are(name):
    data = SAMPLES[name]
    for wrong in (b"", data[:9], data[: len(data) // 2], data[:-5], b"GIF89a" + data):
        with pytest.raises(ImageError):
            decode_stored(wrong)
    for limits in (Limits(max_pixels=779), Limits(max_bytes=len(data) - 1)):
        with pytest.raises(ImageError, match="more than the"):
            decode_stored(data, limits=limits)


# --- orientation ---


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, kind, backend):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(picture(), kind, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image = hwc(decode(data, backend=backend))
    assert image.shape == ((43, 54, 3) if orientation >= 5 else (54, 43, 3))
    assert np.array_equal(image, np.asarray(upright.convert("RGB")))


@pytest.mark.parametrize("backend", BACKENDS)
def test_xmp_orientation_is_applied(backend):
    data = encode(picture(), "JPEG", xmp=b'<x tiff:Orientation="6"/>')
    assert decode(data, backend=backend).shape == (3, 43, 54)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x05"])
def test_mangled_exif_leaves_the_image_as_stored(exif, backend):
    assert decode(encode(picture(), "JPEG", exif=exif), backend=backend).shape == (3, 54, 43)


# --- bad files ---


def samples():
    image = Image.fromarray(picture(30, 26))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "jpeg": encode(image, "JPEG"),
        "jpeg progressive": encode(image, "JPEG", progressive=True),
        "jpeg restart": encode(image, "JPEG", restart_marker_rows=1, exif=exif),
        "jpeg grey": encode(image.convert("L"), "JPEG"),
        "jpeg cmyk": encode(image.convert("CMYK"), "JPEG"),
        "png": encode(image, "PNG"),
        "png palette": encode(image.convert("P"), "PNG", exif=exif),
        "png 16": encode(Image.fromarray(picture(30, 26)[:, :, 0].astype(np.uint16) * 257), "PNG"),
        "webp": encode(image, "WEBP"),
        "webp lossless": encode(image, "WEBP", lossless=True),
        "webp alpha": encode(image.convert("RGBA"), "WEBP", exif=exif),
        "bmp": encode(image, "BMP"),
        "bmp palette": encode(image.convert("P"), "BMP"),
        "tiff": encode(image, "TIFF", exif=exif),
        "tiff lzw": encode(image, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encode(image, "TIFF", compression="jpeg"),
        "tiff packbits": encode(image, "TIFF", compression="packbits"),
    }


SAMPLES = samples()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning", "ignore:Truncated File Read:UserWarning")
@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_file_is_an_error_wherever_it_ends(name, lenient, monkeypatch):
    """`lenient`: some package has told Pillow to accept truncated files."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    data = SAMPLES[name]
    whole = decode(data)
    padding = 2 if name.startswith("bmp") else 0  # a BMP may end in filler after its last pixel
    ends = [*range(0, len(data) - padding, 13), *range(len(data) - padding - 20, len(data) - padding)]
    for end in ends:
        for backend in BACKENDS:
            with pytest.raises(ImageError):
                decode(data[:end], backend=backend)
    assert torch.equal(decode(data), whole)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "jpeg restart", "jpeg grey", "jpeg cmyk"])
@pytest.mark.parametrize("tail", ["zeros", "end marker"])
def test_jpeg_with_its_end_missing_but_filled_is_an_error(name, tail, backend):
    """What broken downloads and repair tools leave behind; Pillow alone fills the rest with grey.

    A progressive file that ends after a whole scan is a complete, coarser JPEG, so cuts there are left out.
    """
    data = SAMPLES[name]
    start = data.index(b"\xff\xda")
    for end in range(start + 20, len(data) - 20, 29):
        if any(marker in data[end - 1 : end + 2] for marker in (b"\xff\xc4", b"\xff\xda")):
            continue
        cut = data[:end] + (bytes(len(data) - end) if tail == "zeros" else b"\xff\xd9")
        with pytest.raises(ImageError):
            decode(cut, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_harmless_stray_bytes_in_a_jpeg_are_accepted(backend):
    data = encode(picture(), "JPEG")
    at = data.index(b"\xff\xc4")
    with_stray = data[:at] + b"\0\0\0" + data[at:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(with_stray)
    assert torch.equal(decode(with_stray, backend=backend), decode(data))


def test_flipped_bit_in_png_data_is_an_error():
    data = bytearray(SAMPLES["png"])
    data[-30] ^= 1
    with pytest.raises(ImageError, match="checksum in its b'IDAT' chunk"):
        decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"<!DOCTYPE html>", "not a JPEG, PNG, WebP, BMP or TIFF file: it begins with b'<!DOCTYPE ht'"),
        (b"GIF89a" + bytes(50), "it begins with b'GIF89a"),
        (bytes(100), "not a JPEG"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"BM", "BMP file is truncated or damaged"),
    ],
)
def test_files_that_are_no_image_say_what_they_begin_with(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data)


def test_format_is_told_by_the_first_bytes():
    kinds = {name.split()[0]: sniff(data) for name, data in SAMPLES.items()}
    assert kinds == {"jpeg": "JPEG", "png": "PNG", "webp": "WebP", "bmp": "BMP", "tiff": "TIFF"}


def test_too_many_bytes_are_refused_before_decoding():
    data = SAMPLES["png"]
    with pytest.raises(ImageError, match=f"{len(data)} bytes, more than the {len(data) - 1}"):
        decode(data, limits=Limits(max_bytes=len(data) - 1))
    decode(data, limits=Limits(max_bytes=len(data)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SAMPLES)
def test_too_many_pixels_are_refused_before_decoding(name, backend, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **options: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="= 780 pixels, more than the 779"):
        decode(SAMPLES[name], backend=backend, limits=Limits(max_pixels=779))


def test_pixel_limit_is_inclusive():
    assert decode(SAMPLES["png"], limits=Limits(max_pixels=780)).shape == (3, 30, 26)


def huge_webp():
    body = bytes([0, 0, 0, 0]) + (2**24 - 1).to_bytes(3, "little") + (200).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + body


@pytest.mark.parametrize(
    "data",
    [
        png(50000, 50000, 8, 2, [b"\0"]),
        huge_webp(),
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 50000, 50000, 1, 24, 0, 0, 0, 0, 0, 0),
    ],
)
def test_decompression_bomb_is_refused_by_its_header(data, recwarn):
    with pytest.raises(ImageError, match=r"more than the 134217728 of Limits\.max_pixels"):
        decode(data)
    assert not recwarn.list


def test_pillows_own_bomb_limit_plays_no_part(monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    for name, data in SAMPLES.items():
        if "tiff" not in name:  # Pillow's TIFF warns of large tiles itself
            decode(data)
    assert not recwarn.list
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(SAMPLES["png"]))


def test_jpeg_without_pixels_is_refused():
    data = bytearray(SAMPLES["jpeg"])
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 2] = b"\0\0"
    with pytest.raises(ImageError, match="JPEG"):
        decode(bytes(data))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAMPLES)
def test_mutated_file_ends_in_pixels_or_an_image_error(name):
    rng = random.Random(name)
    data = SAMPLES[name]
    outcomes = set()
    for _ in range(60):
        mutated = bytearray(data)
        for _ in range(rng.choice((1, 3, 20))):
            mutated[rng.randrange(min(len(data), rng.choice((40, 200, 10**9))))] = rng.randrange(256)
        if rng.random() < 0.2:
            start = rng.randrange(len(data))
            del mutated[start : start + rng.randrange(1, 50)]
        results = []
        for backend in BACKENDS:
            try:
                image = decode(bytes(mutated), backend=backend, limits=Limits(max_pixels=10**6))
            except ImageError:
                results.append(None)
            else:
                assert image.dtype == torch.uint8
                assert image.shape[0] == 3
                assert image[0].numel() > 0
                results.append(image)
        outcomes.add(results[0] is None)
        assert (results[0] is None) == (results[1] is None)
        assert results[0] is None or torch.equal(results[0], results[1])
    assert True in outcomes


def test_lenient_flag_of_another_package_returns_after_concurrent_decoding(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    accepted = []

    def work():
        for _ in range(30):
            try:
                decode(SAMPLES["bmp"][:-700])
            except ImageError:
                continue
            accepted.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not accepted
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_unknown_backend_and_channels_are_config_errors():
    with pytest.raises(ConfigError, match="unknown value backend=pilow: did you mean pillow"):
        decode(SAMPLES["png"], backend="pilow")
    with pytest.raises(ConfigError, match="channels=4"):
        decode(SAMPLES["png"], channels=4)
