"""A trained model in Python: `tapetum.load(run).predict(paths)`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import DataError, ImageError
from ..images.decode import Backend, decode
from ..images.geometry import prepare
from ..images.sources import read_image
from ..modules.detection import DetectionModule
from ..runs.loading import Which, load_module
from .detect import detect

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")

Item = str | Path | Image.Image | NDArray[np.uint8]


def load(
    run_or_file: str | Path,
    which: Which = "best",
    device: str | torch.device | None = None,
    allow_targets: Sequence[str] = (),
) -> Predictor:
    """The model of a run or checkpoint, ready to predict.

    device: where it runs; None takes cuda, then mps, then cpu. allow_targets: packages of yours that the
    run was built from; a checkpoint can't allow them itself. Raises CheckpointError for a damaged, pickled
    or foreign file, ConfigError for a `_target_` that is not allowed.
    """
    loaded = load_module(run_or_file, which, allow=allow_targets)
    chosen = torch.device(device) if device is not None else best_device()
    return Predictor(loaded.module.to(chosen), loaded.config, loaded.metadata, chosen)


@dataclass(frozen=True)
class Predictor:
    """A module with its config and metadata (epoch, step, metrics, best value, the Index's fingerprint)."""

    module: lightning.LightningModule = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    metadata: dict[str, Any]
    device: torch.device

    def predict(self, items: Sequence[Item], batch_size: int = 64) -> pa.Table:
        """`item, logit, probability, verdict, band` of images, in order.

        items: paths (`photos.tar::a.jpg` is a member of an archive), PIL images as a file of the same pixels
        would be read, or uint8 arrays [H, W] or [H, W, 3]. Raises DataError naming the item that can't be
        read.
        """
        module = cast(DetectionModule, self.module)
        found = detect(module, self._batches(items, batch_size), device=self.device)
        probability = 1.0 / (1.0 + np.exp(-found.logits.astype(np.float64)))
        return pa.table(
            {
                "item": [
                    str(item) if isinstance(item, str | Path) else f"item {n}" for n, item in enumerate(items)
                ],
                "logit": found.logits,
                "probability": probability.astype(np.float32),
                "verdict": module.thresholds.verdict(probability),
                "band": module.thresholds.band(probability),
            }
        )

    def _batches(self, items: Sequence[Item], batch_size: int) -> Iterator[dict[str, Any]]:
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            images = [self._prepared(start + number, item) for number, item in enumerate(part)]
            yield {"images": _stacked(images), "index": torch.arange(start, start + len(images))}

    def _prepared(self, number: int, item: Item) -> Tensor:
        spec = cast(DetectionModule, self.module).input_spec
        backend: Backend = self.config["data"]["decoder"]
        try:
            if isinstance(item, str | Path):
                image = read_image(Path(), str(item), channels=spec.channels, backend=backend)
            elif isinstance(item, Image.Image):
                image = decode(_encoded(item), channels=spec.channels, backend=backend)
            else:
                image = _from_array(item, spec.channels)
            return prepare(image, spec, backend=backend)
        except ImageError as error:
            name = item if isinstance(item, str | Path) else type(item).__name__
            raise DataError(f"item {number} ({name}) can't be used: {error}") from error


def best_device() -> torch.device:
    """cuda, then mps, then cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _encoded(image: Image.Image) -> bytes:
    """A file of the same pixels, so that orientation, transparency and 16 bits are read as from the disk."""
    buffer = BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in _PNG_MODES:
            upright.save(buffer, "PNG", compress_level=1)
        else:
            upright.save(buffer, "TIFF")
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"Pillow can't give its pixels ({image.mode}): {error}") from error
    return buffer.getvalue()


def _from_array(item: NDArray[np.uint8], channels: int) -> Tensor:
    if not isinstance(item, np.ndarray):
        raise ImageError("an item is a path, a PIL image or a uint8 array")
    if item.dtype != np.uint8 or item.ndim not in (2, 3) or item.size == 0:
        raise ImageError(
            f"an array must be uint8 [H, W] or [H, W, 3], this one is {item.dtype} {list(item.shape)}"
        )
    array = np.array(item if item.ndim == 3 else item[..., None])
    if array.shape[2] == 1 and channels == 3:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] != channels:
        raise ImageError(f"an array of {array.shape[2]} channels, where the network takes {channels}")
    return torch.from_numpy(array).permute(2, 0, 1)


def _stacked(images: list[Tensor]) -> Tensor | list[Tensor]:
    same = all(image.shape == images[0].shape for image in images)
    return torch.stack(images) if same else images
