"""A trained model in Python: `tapetum.load(run).predict(paths)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import DataError, ImageError
from ..images.decode import Backend, decode
from ..images.geometry import prepare
from ..modules.detection import DetectionModule
from ..runs.loading import Which, load_module
from .detect import detect

Item = str | Path | Image.Image | NDArray[np.uint8]


def load(
    run_or_file: str | Path, which: Which = "best", device: str | torch.device | None = None
) -> Predictor:
    """The model of a run or checkpoint, ready to predict.

    device: where it runs; None takes cuda, then mps, then cpu. Raises CheckpointError for a damaged, pickled or
    foreign file.
    """
    loaded = load_module(run_or_file, which)
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

        items: paths, PIL images or uint8 arrays [H, W] or [H, W, 3]. Raises DataError naming the item that can't be
        read.
        """
        module = cast(DetectionModule, self.module)
        images = [self._prepared(number, item) for number, item in enumerate(items)]
        batches = [
            {
                "images": _stacked(images[start : start + batch_size]),
                "index": torch.arange(start, min(start + batch_size, len(images))),
            }
            for start in range(0, len(images), batch_size)
        ]
        found = detect(module, batches, device=self.device)
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

    def _prepared(self, number: int, item: Item) -> Tensor:
        spec = cast(DetectionModule, self.module).input_spec
        backend: Backend = self.config["data"]["decoder"]
        try:
            if isinstance(item, str | Path):
                image = decode(Path(item).read_bytes(), channels=spec.channels, backend=backend)
            else:
                image = _from_memory(item, spec.channels)
        except (ImageError, OSError) as error:
            raise DataError(
                f"item {number} ({item if isinstance(item, str | Path) else type(item).__name__}): {error}"
            ) from error
        return prepare(image, spec, backend=backend)


def best_device() -> torch.device:
    """cuda, then mps, then cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _from_memory(item: Image.Image | NDArray[np.uint8], channels: int) -> Tensor:
    if isinstance(item, Image.Image):
        item = np.asarray(item.convert("RGB" if channels == 3 else "L"))
    if item.dtype != np.uint8 or item.ndim not in (2, 3) or item.size == 0:
        raise ImageError(
            f"an array must be uint8 [H, W] or [H, W, 3], this one is {item.dtype} {list(item.shape)}"
        )
    array = np.ascontiguousarray(item if item.ndim == 3 else item[..., None])
    if array.shape[2] == 1 and channels == 3:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] != channels:
        raise ImageError(f"an array of {array.shape[2]} channels, where the network takes {channels}")
    return torch.from_numpy(array).permute(2, 0, 1)


def _stacked(images: list[Tensor]) -> Tensor | list[Tensor]:
    same = all(image.shape == images[0].shape for image in images)
    return torch.stack(images) if same else images
