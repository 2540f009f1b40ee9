"""How long an image takes, stage by stage: what most of them need, and what the slow ones do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .intervals import bootstrap

Seconds = NDArray[np.float64]
STAGES = ("load", "prepare", "embed", "search")
"""Of one image: bytes from the disk; decoding, radiometry and geometry; the network; the gallery."""


@dataclass(frozen=True)
class Stage:
    """Seconds an image. share: of the mean total, in [0, 1]."""

    name: str
    p50: float
    p95: float
    max: float
    share: float


@dataclass(frozen=True)
class Latency:
    """The stages, and all of them together. images: how many were timed. p95_low, p95_high: the 95 %
    interval of total.p95 (bootstrap over images).
    """

    images: int
    stages: tuple[Stage, ...]
    total: Stage
    p95_low: float
    p95_high: float

    @property
    def slowest(self) -> Stage:
        """The stage that takes most of the time."""
        return max(self.stages, key=lambda stage: stage.share)


def latency(seconds: Mapping[str, Seconds]) -> Latency:
    """Stage of STAGES → float64 [n], n at least 1: the times of the same n images, one after another."""
    total = np.sum([seconds[stage] for stage in STAGES], axis=0)
    whole = float(total.mean())
    low, high = bootstrap(_p95, (total,))
    return Latency(
        images=len(total),
        stages=tuple(_stage(stage, seconds[stage], whole) for stage in STAGES),
        total=_stage("total", total, whole),
        p95_low=low,
        p95_high=high,
    )


def _stage(name: str, seconds: Seconds, whole: float) -> Stage:
    share = float(seconds.mean()) / whole if whole else 0.0
    return Stage(name, float(np.quantile(seconds, 0.5)), _p95(seconds), float(seconds.max()), share)


def _p95(seconds: Seconds) -> float:
    return float(np.quantile(seconds, 0.95))
