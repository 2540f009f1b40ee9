"""How much of a GPU ViT-L/14 uses: features of a frozen tower, LoRA on all blocks, full fine-tuning.

CLIP ViT-L/14 at 224 pixels with random weights, in bfloat16 (the frozen tower has bfloat16 weights; training
autocasts float32 ones), uint8 batches that lie on the device, fused AdamW. Once as it is and once under
torch.compile. The limits are those of an H200: 790 TFLOP/s, and 162.0, 329.7 and 485.8 GFLOP an image.

Needs one CUDA GPU, and torch (2.11 or newer), transformers, timm and peft; neither Hydra nor Lightning nor
W&B. Without a GPU it says so and judges nothing; `--quick` runs a tiny tower anywhere.

Goals: 60 % of the limit for frozen features, 50 % for LoRA, 45 % for full fine-tuning.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from _timing import Goal, conclude, console, quick, table
from tapetum.backbones import clip, tiny
from tapetum.detectors.clip import ClipFinetune, ClipLinear, ClipLoRA
from torch import Tensor
from torch.nn import functional as F

LARGE = "openai/clip-vit-large-patch14"


@dataclass(frozen=True)
class Regime:
    """One way of using the tower: its limit in images per second, the share to reach, and its batch."""

    name: str
    limit: float
    bar: float
    batch: int
    make: Callable[[str, torch.device], Callable[[Tensor], object]]


def main() -> int:
    """Images per second of the three regimes beside their limits."""
    small = quick(__doc__)
    if not small and not torch.cuda.is_available():
        console.print("not run: there is no CUDA GPU. On a machine with one: python benchmarks/gpu.py")
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with TemporaryDirectory() as place:
        backbone = str(tiny.clip(Path(place) / "clip")) if small else LARGE
        best: dict[str, float] = {}
        for compiled in (False,) if small else (False, True):
            found = _measure(backbone, device, compiled=compiled, small=small)
            best = {name: max(rate, best.get(name, 0.0)) for name, rate in found.items()}
    goals = [
        Goal(f"{one.name}, share of {one.limit:,.0f}", best[one.name] / one.limit, ">=", one.bar)
        for one in REGIMES
    ]
    return conclude(goals, quick=small)


def _measure(backbone: str, device: torch.device, *, compiled: bool, small: bool) -> dict[str, float]:
    """Images per second, regime by regime; prints them with the memory."""
    size = clip.preprocessing(backbone).input_spec.output_size
    assert size is not None, "a CLIP has one size"
    rates, rows = {}, []
    for regime in REGIMES:
        batch = 4 if small else regime.batch
        images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, device=device)
        step = regime.make(backbone, device)
        if compiled:
            torch.compiler.reset()
            step = partial(step, compiled=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        rate = batch / _seconds(partial(step, images), device, *((1, 2, 1) if small else (10, 20, 5)))
        memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if device.type == "cuda" else ""
        rates[regime.name] = rate
        rows.append(
            [
                regime.name,
                str(batch),
                f"{rate:,.0f}",
                f"{regime.limit:,.0f}",
                f"{rate / regime.limit:.1%}",
                memory,
            ]
        )
        del step, images
    name = torch.cuda.get_device_name() if device.type == "cuda" else "the CPU"
    table(
        f"{'a tiny tower' if small else 'ViT-L/14 at 224'}, bf16, {'compiled' if compiled else 'eager'}, "
        f"on {name}, torch {torch.__version__}",
        ["", "batch", "images/s", "limit", "share", "peak memory, GB"],
        rows,
    )
    return rates


def _seconds(work: Callable[[], object], device: torch.device, warm: int, steps: int, repeats: int) -> float:
    """Of one call: the median of `repeats` series of `steps`, each waited for once."""

    def series(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / count

    series(warm)
    return median(series(steps) for _ in range(repeats))


class _Features:
    """The frozen tower alone."""

    def __init__(self, backbone: str, device: torch.device) -> None:
        self.net = ClipLinear(backbone=backbone, pretrained=False).to(device, torch.bfloat16).eval()
        self._run: Callable[[Tensor], Tensor] = self.net.frozen_features

    def __call__(self, images: Tensor, *, compiled: bool = False) -> Tensor:
        if compiled and self._run == self.net.frozen_features:
            self._run = torch.compile(self.net.frozen_features)
        return self._run(images)


class _Training:
    """Forward, backward and a step of AdamW."""

    def __init__(self, kind: Any, backbone: str, device: torch.device) -> None:
        self.net = kind(backbone=backbone, pretrained=False).to(device).train()
        trained = [one for one in self.net.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
        self.device = device
        self._run: Any = self.net

    def __call__(self, images: Tensor, *, compiled: bool = False) -> None:
        if compiled and self._run is self.net:
            self._run = torch.compile(self.net)
        self.optimizer.zero_grad()
        with self._autocast():
            logits = self._run(images)
        labels = torch.arange(len(images), device=self.device) % 2.0
        F.binary_cross_entropy_with_logits(logits, labels).backward()
        self.optimizer.step()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16)


REGIMES = (
    Regime("frozen features", 4876, 0.60, 256, _Features),
    Regime("LoRA on all blocks", 2396, 0.50, 128, partial(_Training, ClipLoRA)),
    Regime("full fine-tuning", 1626, 0.45, 128, partial(_Training, ClipFinetune)),
)


if __name__ == "__main__":
    sys.exit(main())
