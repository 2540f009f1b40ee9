"""An embedder over a loader: unit vectors, with timings."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..backbones.precision import autocast
from ..errors import TrainingError


@dataclass(frozen=True)
class Embedded:
    """rows int64 [n], embeddings float32 [n, D] of length 1, and how long it took (seconds)."""

    rows: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    seconds: float

    @property
    def images_per_second(self) -> float:
        """NaN for an empty run."""
        return len(self.rows) / self.seconds if self.seconds else float("nan")


def embed(
    module: Any, batches: Iterable[dict[str, Any]], *, device: torch.device, precision: str = "32-true"
) -> Embedded:
    """Run an embedder over batches with `images` (or `features` that were kept of them) and `index`.

    precision follows the Trainer's names, as in `detect`. The module is moved to the device and left in eval
    mode. Raises TrainingError for a vector that is not finite.
    """
    module.to(device).eval()
    rows: list[Tensor] = []
    found: list[Tensor] = []
    began = time.perf_counter()
    with torch.inference_mode(), autocast(device, precision):
        for batch in batches:
            if not len(batch["index"]):  # none of its images could be read
                continue
            if "features" in batch:
                features = batch["features"].to(device, non_blocking=True)
                vectors = module.net.forward_features(features)
            else:
                vectors = embeddings(module, batch["images"], device)
            found.append(vectors.float().cpu())
            rows.append(batch["index"])
    seconds = time.perf_counter() - began
    if not rows:
        return Embedded(np.empty(0, np.int64), np.empty((0, module.net.dimension), np.float32), seconds)
    vectors = torch.cat(found)
    index = torch.cat(rows)
    broken = ~torch.isfinite(vectors).all(dim=1)
    if bool(broken.any()):
        raise TrainingError(
            f"the embeddings of {int(broken.sum())} of {len(index)} images are not finite, the first is row "
            f"{int(index[broken][0])} of the index: the weights, or the precision {precision}, are unusable"
        )
    return Embedded(index.numpy(), vectors.numpy(), seconds)


def embeddings(module: Any, images: Tensor | list[Tensor], device: torch.device) -> Tensor:
    """float32 [B, D] on the device, of images [B, C, H, W] or a list of [C, h, w] anywhere."""
    moved = (
        [one.to(device) for one in images]
        if isinstance(images, list)
        else images.to(device, non_blocking=True)
    )
    vectors: Tensor = module(moved).float()
    return vectors
