"""From the bytes of an image file to its pixels, or to an `ImageError` that says why not.

Files come from the internet: the format is told by the first bytes, sizes are checked before anything is
allocated, and an incomplete file is an error even where the decoding library would fill the rest with grey.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import ConfigError, ImageError, did_you_mean

Backend = Literal["fast", "pillow"]
Format = Literal["JPEG", "PNG", "WebP", "BMP", "TIFF"]
_Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
_Channels = Literal[1, 3] | None  # None: as stored


@dataclass(frozen=True)
class Limits:
    """What one file may ask for, checked before it is decoded.

    max_bytes: length of the file (512 MiB). max_pixels: width times height (2**27, a 134-megapixel image).
    """

    max_bytes: int = 2**29
    max_pixels: int = 2**27

    def check_bytes(self, count: int) -> None:
        """Raise ImageError for a file that is empty or longer than `max_bytes`."""
        if count == 0:
            raise ImageError("the file is empty (0 bytes)")
        if count > self.max_bytes:
            raise ImageError(
                f"the file has {count} bytes, more than the {self.max_bytes} of Limits.max_bytes"
            )

    def check_pixels(self, width: int, height: int) -> None:
        """Raise ImageError for an image without pixels or with more than `max_pixels`."""
        if width < 1 or height < 1:
            raise ImageError(f"the header says {width}x{height} pixels")
        if width * height > self.max_pixels:
            raise ImageError(
                f"the header says {width}x{height} = {width * height} pixels, "
                f"more than the {self.max_pixels} of Limits.max_pixels"
            )


DEFAULT_LIMITS = Limits()


def decode(
    data: bytes, *, channels: Literal[1, 3] = 3, backend: Backend = "fast", limits: Limits = DEFAULT_LIMITS
) -> torch.Tensor:
    """One image file as uint8 [channels, H, W] in 0..255, upright; rows are stored HWC, seen as CHW.

    data: a whole JPEG, PNG, WebP, BMP or TIFF file; of animations and multi-page files the first picture.
    backend: `fast` lets simplejpeg decode JPEG, `pillow` lets Pillow decode everything. Both accept the same
        files and give the same bits.

    Colours become RGB (or Pillow's luma with channels=1) without colour management: ICC profiles are ignored.
    Transparency is composited over white. Grey of 16 bits is scaled to 8 by v / 257, of 12 bits by v / 16.06,
    both rounded; 16-bit colour keeps its high byte, as Pillow does. An EXIF (or XMP) orientation is applied;
    an EXIF block that cannot be read counts as absent, as viewers have it.

    Raises ImageError for an empty, truncated, damaged, too large or unknown file, and for pixels without a
    fixed range (32-bit, float, signed, LAB).
    """
    check_backend(backend)
    if channels not in (1, 3):
        raise ConfigError(f"channels={channels!r} cannot be decoded to: use 3 (RGB) or 1 (grey)")
    return _decoded(data, channels, backend, limits)


def decode_stored(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> torch.Tensor:
    """One image file as it is stored, for infrared: uint8 [1 or 3, H, W] or uint16 [1, H, W], upright.

    Files and errors are those of `decode`, but grey levels are neither scaled nor clipped: 16 bits stay 16,
    12 bits lie in 0..4095, and only fewer than 8 (PNG, TIFF) are spread over 0..255. A TIFF in which 0 is
    white is inverted, so that more is brighter everywhere. Palettes and other colours become RGB.

    Also raises ImageError for 16-bit colour, of which Pillow keeps the high byte, and for pixels that are
    partly transparent: what they would be over white is no level.
    """
    return _decoded(data, None, "fast", limits)


def _decoded(data: bytes, channels: _Channels, backend: Backend, limits: Limits) -> torch.Tensor:
    limits.check_bytes(len(data))
    kind = sniff(data)
    try:
        with _REFUSE_TRUNCATED:
            pixels, orientation = _DECODERS[kind](data, channels, backend, limits)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # the parsers of five formats, fed by strangers: each failure means a bad file
        if isinstance(error.__cause__ or error, (struct.error, IndexError)):
            raise ImageError(f"the {kind} file is truncated or damaged: its header ends early") from error
        raise ImageError(f"the {kind} file cannot be decoded: {error or type(error).__name__}") from error
    return _upright(torch.from_numpy(pixels).permute(2, 0, 1), orientation)


def sniff(data: bytes) -> Format:
    """The format that the first bytes tell, whatever the file is called; raises ImageError for any other."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    raise ImageError(f"not a JPEG, PNG, WebP, BMP or TIFF file: it begins with {bytes(data[:12])!r}")


def check_backend(backend: str) -> None:
    """Raise ConfigError for a backend that does not exist."""
    if backend not in ("fast", "pillow"):
        hint = did_you_mean(backend, ("fast", "pillow"))
        raise ConfigError(f"unknown value backend={backend}{hint or ': it is'} fast or pillow")


# --- one function a format: (data, channels, backend, limits) -> (HWC pixels, EXIF orientation) ---


def _decode_jpeg(data: bytes, channels: _Channels, backend: Backend, limits: Limits) -> tuple[_Pixels, int]:
    image = JpegImageFile(io.BytesIO(data))
    limits.check_pixels(*image.size)
    orientation = _orientation(image) if image.info.keys() & {"exif", "xmp"} else 1
    # Pillow keeps libjpeg's warnings to itself and fills missing blocks with grey: a download that ends in
    # zeros passes. simplejpeg reports them, so it reads every JPEG, at an eighth of the size where only its
    # verdict counts.
    fast = backend == "fast" and image.layers in (1, 3)
    grey = image.layers == 1 and channels != 3
    try:
        if fast:
            pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if grey else "RGB")
        else:
            simplejpeg.decode_jpeg(
                data, colorspace="CMYK" if image.layers == 4 else "GRAY", min_height=1, min_width=1
            )
    except ValueError as error:
        if _is_damage(str(error)):
            raise ImageError(f"the JPEG file is truncated or damaged: {error}") from error
        fast = False  # a rare kind (arithmetic coding, stray bytes between segments): Pillow decides
    if fast and pixels.shape[1::-1] == image.size:
        if channels == 1 and not grey:
            pixels = np.array(Image.fromarray(pixels).convert("L"))[:, :, None]
        return pixels, orientation
    image.load()
    return _pixels_of(image, channels), orientation


def _is_damage(warning: str) -> bool:
    """Whether libjpeg misses pixels; bytes too many before a marker are common and harmless."""
    text = warning.lower()
    return "premature end" in text or ("corrupt jpeg data" in text and "extraneous bytes" not in text)


def _decode_png(data: bytes, channels: _Channels, backend: Backend, limits: Limits) -> tuple[_Pixels, int]:
    image = PngImageFile(io.BytesIO(data))
    limits.check_pixels(*image.size)
    _check_png_chunks(data)
    image.load()
    return _pixels_of(image, channels, bits=16 if data[24] == 16 else 8), _orientation(image)


def _check_png_chunks(data: bytes) -> None:
    """Raise unless all chunks are there up to IEND and the critical ones have their checksum."""
    view = memoryview(
        data
    )  # Pillow looks at neither, and would pass a file whose last rows were flipped bits
    start = 8
    while True:
        if start + 12 > len(data):
            raise ImageError(f"the PNG file is truncated: {len(data)} bytes end before the IEND chunk")
        length = int.from_bytes(view[start : start + 4], "big")
        name = bytes(view[start + 4 : start + 8])
        end = start + 12 + length
        if end > len(data):
            raise ImageError(
                f"the PNG file is truncated: its {name!r} chunk needs {end} bytes of {len(data)}"
            )
        critical = not name[0] & 0x20
        if critical and zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ImageError(f"the PNG file is damaged: wrong checksum in its {name!r} chunk at byte {start}")
        if name == b"IEND":
            return
        start = end


def _decode_webp(data: bytes, channels: _Channels, backend: Backend, limits: Limits) -> tuple[_Pixels, int]:
    # Pillow's WebP allocates the canvas while opening: the size is read here first.
    expected = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < expected:
        raise ImageError(f"the WebP file is truncated: {len(data)} bytes of {expected}")
    limits.check_pixels(*_webp_size(data))
    image = WebPImageFile(io.BytesIO(data))
    limits.check_pixels(*image.size)
    image.load()
    return _pixels_of(image, channels), _orientation(image)


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the canvas: RFC 9649, sections 2.5 to 2.7."""
    name, body = data[12:16], data[20:30]
    if name == b"VP8X" and len(body) == 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if name == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == b"VP8 " and len(body) == 10:
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    raise ImageError(f"the WebP file is damaged: its first chunk is {name!r}")


def _decode_bmp(data: bytes, channels: _Channels, backend: Backend, limits: Limits) -> tuple[_Pixels, int]:
    image = BmpImageFile(io.BytesIO(data))
    limits.check_pixels(*image.size)
    image.load()
    return _pixels_of(image, channels), 1


def _decode_tiff(data: bytes, channels: _Channels, backend: Backend, limits: Limits) -> tuple[_Pixels, int]:
    image = TiffImageFile(io.BytesIO(data))
    limits.check_pixels(*image.size)
    bits = image.tag_v2.get(258, (1,))[0]
    inverted = image.tag_v2.get(262) == 0
    if 2 in image.tag_v2.get(339, ()):
        raise ImageError(f"its pixels are signed {bits}-bit numbers: save it as unsigned 8 or 16 bits")
    image.load()  # turns the pixels upright as well
    return _pixels_of(image, channels, bits=bits, inverted=inverted), 1


_DECODERS = {
    "JPEG": _decode_jpeg,
    "PNG": _decode_png,
    "WebP": _decode_webp,
    "BMP": _decode_bmp,
    "TIFF": _decode_tiff,
}


# --- pixels ---

_EIGHT_BIT_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}


def _pixels_of(image: Image.Image, channels: _Channels, *, bits: int = 8, inverted: bool = False) -> _Pixels:
    """Loaded Pillow image to HWC uint8, or to uint16 where that is what is stored and asked for.

    bits: of the file, where Pillow's mode does not tell. inverted: 0 is white; concerns 16-bit grey only.
    """
    if image.mode.startswith("I;16"):
        top = 4095 if bits == 12 else 65535
        if channels is None:
            levels = np.asarray(image).astype(np.uint16)
            return (top - levels if inverted else levels)[:, :, None]
        grey = _eight_bits(np.asarray(image), top)
        return np.repeat((255 - grey if inverted else grey)[:, :, None], channels, axis=2)
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(
            f"its pixels have Pillow mode {image.mode}, which has no fixed range: "
            "save it as 8 or 16 bits, RGB or grey"
        )
    if channels is None:
        _check_levels(image, bits)
        channels = 1 if image.mode in ("1", "L", "LA", "La") else 3
    flat = _over_white(image) if image.has_transparency_data else image
    pixels = np.array(flat.convert("RGB" if channels == 3 else "L"))
    return pixels if channels == 3 else pixels[:, :, None]


def _check_levels(image: Image.Image, bits: int) -> None:
    """Raise where an image of 8 bits is not all that the file holds."""
    if bits > 8:
        raise ImageError(
            f"its pixels are {bits}-bit {image.mode}, of which only the high byte can be read: "
            "save it as 16-bit grey, one channel"
        )
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise ImageError("some of its pixels are transparent, and have no level: save it without alpha")


def _eight_bits(levels: npt.NDArray[Any], top: int) -> npt.NDArray[np.uint8]:
    """0..top to 0..255, rounded."""
    return ((levels.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def _over_white(image: Image.Image) -> Image.Image:
    """What a viewer shows; colours under full transparency are leftovers that nobody was meant to see."""
    straight = image.convert("LA") if image.mode == "La" else image
    rgba = straight.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or the EXIF block cannot be read."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # a mangled EXIF block raises half a dozen kinds; the pixels beside it are sound
        return 1
    return value if value in range(1, 9) else 1


def _upright(image: torch.Tensor, orientation: int) -> torch.Tensor:
    """CHW turned as EXIF orientation 1..8 asks (EXIF 2.32, section 4.6.4 A)."""
    if orientation >= 5:
        image = image.transpose(1, 2)
    flipped = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(orientation)
    return image.flip(flipped) if flipped else image


class _RefuseTruncated:
    """Keeps PIL.ImageFile.LOAD_TRUNCATED_IMAGES off while any thread decodes; some packages switch it on."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._found = False

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._found = ImageFile.LOAD_TRUNCATED_IMAGES
            self._inside += 1
            ImageFile.LOAD_TRUNCATED_IMAGES = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._found


_REFUSE_TRUNCATED = _RefuseTruncated()
