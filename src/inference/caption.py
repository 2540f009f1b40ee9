"""A captioner over a loader: what it says of each image, with timings."""

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
class Captioned:
    """rows int64 [n], their texts, and how long it took (seconds).

    nll float64 [n]: negative log-likelihood of all of an image's references together, over `tokens` int64
    [n].
    """

    rows: NDArray[np.int64]
    texts: list[str]
    nll: NDArray[np.float64]
    tokens: NDArray[np.int64]
    seconds: float

    @property
    def images_per_second(self) -> float:
        """NaN for an empty run."""
        return len(self.rows) / self.seconds if self.seconds else float("nan")


def caption(
    module: Any, batches: Iterable[dict[str, Any]], *, device: torch.device, precision: str = "32-true"
) -> Captioned:
    """Run a captioner over batches of `CaptioningBatch`: a caption an image, and what its references cost.

    precision follows the Trainer's names, as in `detect`. The module is moved to the device and left in eval
    mode. Raises TrainingError for a likelihood that is not finite.
    """
    module.to(device).eval()
    texts: list[str] = []
    rows: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    nll: list[NDArray[np.float64]] = [np.empty(0)]
    tokens: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    began = time.perf_counter()
    with torch.inference_mode(), autocast(device, precision):
        for batch in batches:
            if not len(batch["index"]):  # none of its images could be read
                continue
            visual = visual_of(module, batch, device)
            owners = batch["owners"].to(device)
            inputs = {name: value.to(device) for name, value in batch["inputs"].items()}
            totals, counts = module.compute_loss(visual[owners], inputs)
            texts += module.net.generate(visual, module.generation).texts
            images, of = len(batch["index"]), batch["owners"].numpy()
            rows.append(batch["index"].numpy())
            nll.append(np.bincount(of, totals.cpu().double().numpy(), images).astype(np.float64))
            tokens.append(np.bincount(of, counts.cpu().numpy(), images).astype(np.int64))
    found = Captioned(
        np.concatenate(rows), texts, np.concatenate(nll), np.concatenate(tokens), time.perf_counter() - began
    )
    broken = ~np.isfinite(found.nll)
    if broken.any():
        raise TrainingError(
            f"the captions of {int(broken.sum())} of {len(found.rows)} images have no finite likelihood, the "
            f"first is row {int(found.rows[broken][0])} of the index: the weights, or the precision "
            f"{precision}, are unusable"
        )
    return found


def visual_of(module: Any, batch: dict[str, Any], device: torch.device) -> Tensor:
    """float [B, P, W] of a batch's images or features, anywhere."""
    if "features" in batch:
        visual: Tensor = module.net.forward_features(batch["features"].to(device, non_blocking=True))
        return visual
    images = batch["images"]
    moved = [one.to(device) for one in images] if isinstance(images, list) else images.to(device)
    return module(moved)  # type: ignore[no-any-return]
