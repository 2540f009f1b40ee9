"""Keys in, batches out: the only place where pixels and columns of the Index meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..errors import DataError, ImageError
from ..images.augment import Augment, sample_seed
from ..images.decode import Backend
from ..images.geometry import InputSpec
from ..images.sources import read_image
from ..indexes.table import Index
from .decoded import DecodedCache

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

    columns: int64 [len(index)] each, copied into the batch by row under their names.
    on_bad_image: `raise` a DataError that names the file, or `skip` it: the batch is smaller by one, down to
        an empty list of images, and the row and its reason are in `bad`.
    """

    def __init__(
        self,
        index: Index,
        spec: InputSpec,
        augment: Augment,
        *,
        seed: int,
        columns: Mapping[str, NDArray[np.int64]],
        backend: Backend = "fast",
        on_bad_image: OnBadImage = "raise",
        decoded: DecodedCache | None = None,
    ) -> None:
        if on_bad_image not in ("raise", "skip"):
            raise DataError(f"unknown value data.on_bad_image={on_bad_image}: raise, skip")
        self.index = index
        self.spec = spec
        self.augment = augment
        self.seed = seed
        self.columns = dict(columns)
        self.backend = backend
        self.on_bad_image = on_bad_image
        self.decoded = decoded

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> LoadedBatch:
        try:
            return self._load(keys)
        except DataError as error:
            if get_worker_info() is None:
                raise
            return LoadedBatch({}, {}, str(error))

    def resized(self, row: int) -> Tensor:
        """uint8 [C, h, w] after the resize rule, before augmentation and crop.

        Raises ImageError where the image can't be read.
        """
        if self.decoded is not None:
            return self.decoded.image(row)
        root, path = self.index.location(row)
        image = read_image(root, path, channels=self.spec.channels, backend=self.backend)
        return self.augment.resize(image, self.spec, self.backend)

    def _load(self, keys: Sequence[tuple[int, int]]) -> LoadedBatch:
        images: list[Tensor] = []
        rows: list[int] = []
        bad: dict[int, str] = {}
        for epoch, row in keys:
            try:
                image = self.resized(row)
            except ImageError as error:
                if self.on_bad_image == "raise":
                    raise DataError(self._explain(row, error)) from error
                bad[row] = str(error)
                continue
            images.append(self.augment(image, self.spec, sample_seed(self.seed, epoch, row)))
            rows.append(row)
        batch: dict[str, Any] = {"images": _stack(images), "index": torch.tensor(rows, dtype=torch.int64)}
        for name, values in self.columns.items():
            batch[name] = torch.from_numpy(values[rows])
        return LoadedBatch(batch, bad)

    def _explain(self, row: int, error: ImageError) -> str:
        root, path = self.index.location(row)
        return (
            f"image {root / path} can't be used: {error}. Mend or remove it, or leave such images out (they "
            f"are counted and listed in the run) with data.on_bad_image=skip"
        )


def _pinned(value: Any) -> Any:
    return [tensor.pin_memory() for tensor in value] if isinstance(value, list) else value.pin_memory()


def _stack(images: list[Tensor]) -> Tensor | list[Tensor]:
    """One tensor where all sizes agree, in shared memory inside a worker so that it is copied once only."""
    if not images or any(image.shape != images[0].shape for image in images):
        return images
    size = (len(images), *images[0].shape)
    if get_worker_info() is None:
        out = torch.empty(size, dtype=torch.uint8)
    else:
        storage = torch.UntypedStorage._new_shared(len(images) * images[0].numel())  # type: ignore[no-untyped-call]
        out = torch.tensor([], dtype=torch.uint8).set_(storage, 0, size)  # type: ignore[call-overload]
    return torch.stack(images, out=out)
