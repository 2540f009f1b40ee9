"""Damaged image files, the same for the same seed: what arrives when downloads break and strangers play."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import numpy as np
from PIL import Image


def originals() -> list[tuple[str, bytes]]:
    """(ending, whole file) of every format that is read, in several kinds each."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :40]
    planes = np.stack([rows * 5, columns * 6, (rows + columns) * 2], axis=2)
    photo = Image.fromarray((planes + rng.normal(0, 9, planes.shape)).clip(0, 255).astype(np.uint8))
    alpha = photo.copy()
    alpha.putalpha(photo.convert("L"))
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, Image.Image, str, dict[str, object]]] = [
        (".jpg", photo, "JPEG", {"quality": 90, "exif": exif}),
        (".jpg", photo, "JPEG", {"progressive": True}),
        (".jpg", photo.convert("L"), "JPEG", {"restart_marker_rows": 1}),
        (".jpg", photo.convert("CMYK"), "JPEG", {}),
        (".png", photo, "PNG", {}),
        (".png", photo.quantize(32), "PNG", {}),
        (".png", alpha, "PNG", {}),
        (".png", deep, "PNG", {}),
        (".webp", photo, "WEBP", {}),
        (".webp", alpha, "WEBP", {"lossless": True}),
        (".webp", photo, "WEBP", {"save_all": True, "append_images": [photo.rotate(90)], "duration": 9}),
        (".bmp", photo, "BMP", {}),
        (".bmp", photo.quantize(16), "BMP", {}),
        (".tif", photo, "TIFF", {}),
        (".tif", photo, "TIFF", {"compression": "tiff_lzw"}),
        (".tif", photo, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (".tif", photo, "TIFF", {"compression": "jpeg"}),
        (".tif", photo, "TIFF", {"save_all": True, "append_images": [alpha]}),
        (".tif", deep, "TIFF", {"compression": "packbits"}),
    ]
    return [(ending, _encoded(image, kind, options)) for ending, image, kind, options in kinds]


def mutated(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(ending, bytes): flipped bits, cut ends, bytes put in or taken out, parts of two files joined."""
    random_source = random.Random(seed)
    whole = originals()
    for number in range(count):
        ending, data = whole[number % len(whole)]
        damage = bytearray(data)
        for _ in range(random_source.choice((1, 1, 1, 2, 4, 16))):
            _DAMAGES[random_source.randrange(len(_DAMAGES))](damage, random_source, whole)
        yield ending, bytes(damage)


def _place(data: bytearray, source: random.Random) -> int:
    """Headers, where the sizes stand, are hit as often as pixels."""
    end = len(data) if source.random() < 0.5 else min(len(data), 64)
    return source.randrange(end) if end else 0


def _flip(data: bytearray, source: random.Random, whole: object) -> None:
    if data:
        data[_place(data, source)] ^= 1 << source.randrange(8)


def _overwrite(data: bytearray, source: random.Random, whole: object) -> None:
    place = _place(data, source)
    value = source.choice((b"\x00", b"\xff", b"\x7f", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x80\x00"))
    data[place : place + len(value)] = value


def _cut(data: bytearray, source: random.Random, whole: object) -> None:
    del data[_place(data, source) :]


def _put_in(data: bytearray, source: random.Random, whole: object) -> None:
    place = _place(data, source)
    data[place:place] = source.randbytes(source.randrange(1, 64))


def _take_out(data: bytearray, source: random.Random, whole: object) -> None:
    place = _place(data, source)
    del data[place : place + source.randrange(1, 64)]


def _join(data: bytearray, source: random.Random, whole: list[tuple[str, bytes]]) -> None:
    _, other = whole[source.randrange(len(whole))]
    start = source.randrange(len(other))
    data[_place(data, source) :] = other[start:]


_DAMAGES = (_flip, _overwrite, _cut, _put_in, _take_out, _join)


def _encoded(image: Image.Image, kind: str, options: dict[str, object]) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
