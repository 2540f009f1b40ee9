"""A row of an Index to the pixels a network is fed, before any geometry: one reader a kind of image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..errors import ImageError
from ..images.decode import Backend, decode
from ..images.infrared import Radiometry, decode_levels, to_image
from ..images.sources import read_bytes
from ..indexes.table import Index


class Reader(Protocol):
    """Rows of one Index to tensors; picklable, and callable from several threads."""

    @property
    def index(self) -> Index:
        """Whose rows are read."""

    @property
    def channels(self) -> Literal[1, 3]:
        """Of every image."""

    @property
    def backend(self) -> Backend:
        """Decodes the images, and resizes them afterwards."""

    def __call__(self, row: int) -> Tensor:
        """[channels, H, W], uint8 or float32 in [0, 1], the same for every row.

        Raises ImageError where the image can't be read, DataError where its archive can't be.
        """

    def decoded(self, row: int, data: bytes) -> Tensor:
        """The same, of the bytes that the row's path holds."""

    def identity(self) -> str:
        """What decides the pixels besides images, channels and backend; in a cache's key unless empty."""


@dataclass(frozen=True, eq=False)
class ImageReader:
    """uint8 [channels, H, W] in 0..255 as `images.decode` has it, cut to the row's `box` where it has one."""

    index: Index
    channels: Literal[1, 3] = 3
    backend: Backend = "fast"

    def __call__(self, row: int) -> Tensor:
        """See Reader."""
        return self.decoded(row, read_bytes(*self.index.location(row)))

    def decoded(self, row: int, data: bytes) -> Tensor:
        """See Reader."""
        image = decode(data, channels=self.channels, backend=self.backend)
        return boxed(image, self.index, row)

    def identity(self) -> str:
        """Empty: boxes are part of the Index."""
        return ""


@dataclass(frozen=True, eq=False)
class SeveralImages:
    """The images of rows that may have several: `path` and the paths in `further_images`, as ImageReader."""

    index: Index
    channels: Literal[1, 3] = 3
    backend: Backend = "fast"

    def __call__(self, row: int) -> Tensor:
        """See Reader: the first image."""
        return self._one(row)

    def decoded(self, row: int, data: bytes) -> Tensor:
        """See Reader."""
        return self._one.decoded(row, data)

    def identity(self) -> str:
        """Empty: which images there are is part of the Index."""
        return ""

    def further(self, row: int) -> list[Tensor]:
        """uint8 [channels, H, W] of each image behind the first; ImageError names what can't be read."""
        root, _ = self.index.location(row)
        found = []
        for path in _cell(self.index, "further_images", row) or ():
            try:
                found.append(decode(read_bytes(root, path), channels=self.channels, backend=self.backend))
            except ImageError as error:
                raise ImageError(f"its further image {path}: {error}") from error
        return found

    @property
    def _one(self) -> ImageReader:
        return ImageReader(self.index, self.channels, self.backend)


@dataclass(frozen=True, eq=False)
class InfraredReader:
    """Infrared images, and the visible ones they are compared with, as uint8 or through a radiometric map.

    radiometry: None gives uint8, and ImageError for an infrared image of 16 bits; a map (`images.infrared`)
        gives float32 in [0, 1] for every row. It sees what the row's `box` leaves of the image, so that an
        image of its own and a part of a frame are read alike.

    `modality` tells what a row is: `infrared` is read as levels, and must be one grey picture; `visible` is
    read as ImageReader reads it, scaled to [0, 1] where there is a map; a row that does not say is infrared
    where there is a map, else read as by ImageReader.
    """

    index: Index
    channels: Literal[1, 3] = 3
    backend: Backend = "fast"
    radiometry: Radiometry | None = None

    def __call__(self, row: int) -> Tensor:
        """See Reader."""
        return self.decoded(row, read_bytes(*self.index.location(row)))

    def decoded(self, row: int, data: bytes) -> Tensor:
        """See Reader."""
        if self.is_infrared(row):
            return to_image(self._levels(row, data), self.radiometry, self.channels)
        image = ImageReader(self.index, self.channels, self.backend).decoded(row, data)
        return image if self.radiometry is None else image.to(torch.float32) / 255

    def is_infrared(self, row: int) -> bool:
        """Whether this row is read as levels."""
        modality = _cell(self.index, "modality", row)
        return self.radiometry is not None if modality is None else modality == "infrared"

    def levels(self, row: int) -> Tensor:
        """uint8 or uint16 [1, H, W] as stored, cut to the row's `box`: what a map is fitted on."""
        return self._levels(row, read_bytes(*self.index.location(row)))

    def _levels(self, row: int, data: bytes) -> Tensor:
        return boxed(decode_levels(data), self.index, row)

    def identity(self) -> str:
        """The map with its values."""
        return f"infrared {self.radiometry!r}"


def boxed(image: Tensor, index: Index, row: int) -> Tensor:
    """[C, H, W] cut to the row's `box` (x0, y0, x1, y1 in pixels, half open), rounded outwards; or whole.

    May share memory with `image`. Less than a thousandth of a pixel is rounding of the coordinates and does
    not count. Raises ImageError for a box that is empty or leaves the image.
    """
    box = _cell(index, "box", row)
    if box is None:
        return image
    height, width = image.shape[-2:]
    x0, y0, x1, y1 = (round(float(edge), 3) for edge in box)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        empty = x1 <= x0 or y1 <= y0
        raise ImageError(
            f"its box [{x0:g}, {y0:g}, {x1:g}, {y1:g}] (x0, y0, x1, y1) "
            f"{'is empty' if empty else f'leaves the image, which is {width} pixels wide and {height} high'}"
        )
    return image[..., math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)]


def _cell(index: Index, name: str, row: int) -> Any:
    """The value of a column that an Index may lack; None then."""
    place = index.table.schema.get_field_index(name)  # asked for every row: `column_names` makes a list
    return None if place < 0 else index.table.column(place)[row].as_py()
