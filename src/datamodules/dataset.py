"""Keys in, batches out: the only place where pixels and columns of the Index meet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..errors import DataError, ImageError
from ..images.augment import Augment, sample_seed
from ..images.geometry import InputSpec
from .captions import Columns
from .decoded import DecodedCache
from .features import FeatureCache
from .reading import Reader, SeveralImages

OnBadImage = Literal["raise", "skip"]


@dataclass
class LoadedBatch:
    """A batch and what could not be read (row → reason); or, out of a worker process, why there is none.

    failure: message of the DataError that a worker met. Were it raised there, the DataLoader would raise it
        again with the worker's traceback as its message.
    """

    batch: dict[str, Any]
    bad: dict[int, str]
    failure: str | None = None

    def pin_memory(self) -> LoadedBatch:
        """The DataLoader's hook for page-locked memory."""
        batch = {name: _pinned(value) for name, value in self.batch.items()}
        return LoadedBatch(batch, self.bad, self.failure)


def identity(loaded: Any) -> Any:
    """Collation already happened in the dataset; a module-level function so that it pickles."""
    return loaded


class ImageDataset(Dataset[LoadedBatch]):
    """Whole batches by key: `dataset.__getitems__([(epoch, row), …])`.

    reader: the Index's rows as images, before geometry.
    columns: int64 [len(index)] each, copied into the batch by row under their names. texts: what else a batch
        of readable (epoch, row) keys has.
    on_bad_image: `raise` a DataError that names the file, or `skip` it: the batch is smaller by one, down to
        an empty list of images, and the row and its reason are in `bad`.
    features: a cache out of which batches have `features` instead of `images`.
    """

    def __init__(
        self,
        reader: Reader,
        spec: InputSpec,
        augment: Augment,
        *,
        seed: int,
        columns: Mapping[str, NDArray[np.int64]],
        on_bad_image: OnBadImage = "raise",
        decoded: DecodedCache | None = None,
        features: FeatureCache | None = None,
        texts: Columns | None = None,
    ) -> None:
        if on_bad_image not in ("raise", "skip"):
            raise DataError(f"unknown value data.on_bad_image={on_bad_image}: raise, skip")
        self.reader = reader
        self.spec = spec
        self.augment = augment
        self.seed = seed
        self.columns = dict(columns)
        self.on_bad_image = on_bad_image
        self.decoded = decoded
        self.features = features
        self.texts = texts

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> LoadedBatch:
        try:
            return self._load(keys)
        except DataError as error:
            if get_worker_info() is None:
                raise
            return LoadedBatch({}, {}, str(error))

    def resized(self, row: int) -> Tensor:
        """[C, h, w] in the reader's dtype, after the resize rule, before augmentation and crop.

        Raises ImageError where the image can't be read.
        """
        if self.decoded is not None:
            return self.decoded.image(row)
        return self.augment.resize(self.reader(row), self.spec, self.reader.backend)

    def _load(self, keys: Sequence[tuple[int, int]]) -> LoadedBatch:
        rows: list[int] = []
        bad: dict[int, str] = {}
        batch: dict[str, Any]
        if self.features is None:
            images = self._images(keys, rows, bad)
            at_most = len(keys)
            if isinstance(self.reader, SeveralImages):
                images, at_most = iter(several := list(images)), max(1, len(several))
            batch = {"images": _gather(images, at_most)}
        else:
            batch = {"features": self._kept(self.features, keys, rows, bad)}
        batch["index"] = torch.tensor(rows, dtype=torch.int64)
        for name, values in self.columns.items():
            batch[name] = torch.from_numpy(values[rows])
        if self.texts is not None:
            batch |= self.texts([key for key in keys if key[1] not in bad])
        return LoadedBatch(batch, bad)

    def _images(
        self, keys: Sequence[tuple[int, int]], rows: list[int], bad: dict[int, str]
    ) -> Iterator[Tensor]:
        """The readable images one by one; their rows go to `rows`, the others with their reason to `bad`.

        A row with several images is left out whole where one of them can't be read.
        """
        for epoch, row in keys:
            try:
                images = [self.resized(row)]
                if isinstance(self.reader, SeveralImages):
                    images += [
                        self.augment.resize(one, self.spec, self.reader.backend)
                        for one in self.reader.further(row)
                    ]
            except ImageError as error:
                bad[row] = self._left_out(row, error)
                continue
            rows.append(row)
            for image in images:
                yield self.augment(image, self.spec, sample_seed(self.seed, epoch, row))

    def _kept(
        self, cache: FeatureCache, keys: Sequence[tuple[int, int]], rows: list[int], bad: dict[int, str]
    ) -> Tensor:
        """The features of the readable images; rows and bad as in `_images`."""
        for _, row in keys:
            if row in cache.bad:
                bad[row] = self._left_out(row, ImageError(cache.bad[row]))
            else:
                rows.append(row)
        return cache.take(rows)

    def _left_out(self, row: int, error: ImageError) -> str:
        """The reason for which a row is left out; DataError where none may be."""
        if self.on_bad_image == "skip":
            return str(error)
        root, path = self.reader.index.location(row)
        raise DataError(
            f"image {root / path} can't be used: {error}. Mend or remove it, or leave such images out (they "
            f"are counted and listed in the run) with data.on_bad_image=skip"
        ) from error


def _pinned(value: Any) -> Any:
    if isinstance(value, list):
        return [_pinned(one) for one in value]
    if isinstance(value, dict):
        return {name: _pinned(one) for name, one in value.items()}
    return value.pin_memory() if isinstance(value, Tensor) else value


def _gather(images: Iterator[Tensor], at_most: int) -> Tensor | list[Tensor]:
    """One tensor where all sizes agree, else a list.

    Each image is copied to its place as it comes, while it is in the processor's cache, and its memory serves
    the next one.
    """
    several: list[Tensor] = []
    out: Tensor | None = None
    for number, image in enumerate(images):
        if out is None:
            out = _empty((at_most, *image.shape), image.dtype)
        if not several and image.shape == out.shape[1:]:
            out[number].copy_(image)
            continue
        several = several or list(out[:number])
        several.append(image)
    return several if several or out is None else out[: number + 1]


def _empty(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """In shared memory inside a worker, so that a batch is copied once only."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=dtype)
    length = math.prod(size) * dtype.itemsize
    storage = torch.UntypedStorage._new_shared(length)  # type: ignore[no-untyped-call]
    empty = torch.tensor([], dtype=dtype)
    return empty.set_(storage, 0, size)  # type: ignore[call-overload,no-any-return]
