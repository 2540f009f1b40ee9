"""A vision-language model over a loader: what it answers, and how likely it holds the right answer."""

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
class Answered:
    """rows int64 [n]; of each the answer that was written, its right answer, that answer's negative
    log-likelihood float64 [n] and tokens int64 [n]; of a question with two answers their log-likelihoods,
    float32 [n, 2], else None; and how long it took (seconds; images per second).
    """

    rows: NDArray[np.int64]
    texts: list[str]
    answers: list[str]
    nll: NDArray[np.float64]
    tokens: NDArray[np.int64]
    log_likelihoods: NDArray[np.float32] | None
    seconds: float

    @property
    def images_per_second(self) -> float:
        """NaN for an empty run."""
        return len(self.rows) / self.seconds if self.seconds else float("nan")


def answer(
    module: Any, batches: Iterable[dict[str, Any]], *, device: torch.device, precision: str = "32-true"
) -> Answered:
    """Run a `VLMModule` over `VLMBatch`es: each image once through the tower, then judged and answered.

    The module is moved to the device and left in eval mode. precision: see `detect`. Raises TrainingError for
    a likelihood that is not finite.
    """
    module.to(device).eval()
    texts: list[str] = []
    answers: list[str] = []
    rows: list[Tensor] = [torch.empty(0, dtype=torch.int64)]
    nll: list[Tensor] = [torch.empty(0, dtype=torch.float64)]
    tokens: list[Tensor] = [torch.empty(0, dtype=torch.int64)]
    scores: list[Tensor] = []
    began = time.perf_counter()
    with torch.inference_mode(), autocast(device, precision):
        for batch in batches:
            if not len(batch["index"]):  # none of its images could be read
                continue
            moved = on_device(batch, device)
            visual, prompts = module.outputs(moved), moved["prompts"]
            totals, counts = module.compute_loss(visual, moved["inputs"])
            if "labels" in batch:
                scores.append(module.log_likelihoods(visual, prompts).float().cpu())
            texts += module.net.generate(visual, prompts, module.generation).texts
            answers += batch["texts"]
            rows.append(batch["index"])
            nll.append(totals.double().cpu())
            tokens.append(counts.cpu())
    found = Answered(
        torch.cat(rows).numpy(),
        texts,
        answers,
        torch.cat(nll).numpy(),
        torch.cat(tokens).numpy(),
        torch.cat(scores).numpy() if scores else None,
        time.perf_counter() - began,
    )
    _check_finite(found, precision)
    return found


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors of a batch, and those in its mappings, on a device."""
    return {name: _moved(value, device) for name, value in batch.items()}


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: one.to(device) for name, one in value.items()}
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value


def _check_finite(found: Answered, precision: str) -> None:
    broken = ~np.isfinite(found.nll)
    if found.log_likelihoods is not None:
        broken |= ~np.isfinite(found.log_likelihoods).all(1)
    if broken.any():
        raise TrainingError(
            f"the answers of {int(broken.sum())} of {len(found.rows)} images have no finite likelihood, the "
            f"first is row {int(found.rows[broken][0])} of the index: the weights, or the precision "
            f"{precision}, are unusable"
        )
