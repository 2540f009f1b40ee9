"""A detector over a loader: logits, with timings. The only place that runs a network outside of training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backbones.precision import autocast
from ..modules.detection import binary_logit


@dataclass(frozen=True)
class Detected:
    """rows int64 [n], logits float32 [n], and how long it took (seconds; images per second)."""

    rows: NDArray[np.int64]
    logits: NDArray[np.float32]
    seconds: float

    @property
    def images_per_second(self) -> float:
        """NaN for an empty run."""
        return len(self.rows) / self.seconds if self.seconds else float("nan")


def detect(
    module: nn.Module,
    batches: Iterable[dict[str, Any]],
    *,
    device: torch.device,
    precision: str = "32-true",
    progress: Callable[[int, int | None], None] | None = None,
) -> Detected:
    """Run a detector (images uint8 → logits [B] or [B, k]) over batches with `images` and `index`.

    Batches may have `features` that were kept instead of images; the module's `net` goes on from there.
    precision follows the Trainer's names: `bf16-mixed` and `16-mixed` autocast, anything else runs as it is.
    The module is moved to the device and left in eval mode.
    """
    module.to(device).eval()
    rows: list[Tensor] = []
    logits: list[Tensor] = []
    total = len(batches) if isinstance(batches, Sized) else None
    began = time.perf_counter()
    with torch.inference_mode(), autocast(device, precision):
        for number, batch in enumerate(batches, start=1):
            if not len(batch["index"]):  # none of its images could be read
                continue
            if "features" in batch:
                found = _from_features(module, batch["features"], device)
            else:
                found = answers(module, batch["images"], device)
            logits.append(found.cpu())
            rows.append(batch["index"])
            if progress is not None:
                progress(number, total)
    seconds = time.perf_counter() - began
    if not rows:
        return Detected(np.empty(0, np.int64), np.empty(0, np.float32), seconds)
    return Detected(torch.cat(rows).numpy(), torch.cat(logits).numpy(), seconds)


def answers(module: nn.Module, images: Tensor | list[Tensor], device: torch.device) -> Tensor:
    """Logits float32 [B] on the device, of images uint8 [B, C, H, W] or a list of [C, h, w] anywhere."""
    moved = (
        [one.to(device) for one in images]
        if isinstance(images, list)
        else images.to(device, non_blocking=True)
    )
    return binary_logit(module(moved)).float()


def _from_features(module: Any, features: Tensor, device: torch.device) -> Tensor:
    """The same of features that were kept (`data.cache=features`)."""
    return binary_logit(module.net.forward_features(features.to(device, non_blocking=True))).float()
