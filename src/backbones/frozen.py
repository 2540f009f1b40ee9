"""What a network with a frozen tower promises, so that its features are computed once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class FrozenFeatures(Protocol):
    """A network whose lower part is frozen: `forward(images) == forward_features(frozen_features(images))`.

    What is kept is whatever leaves the frozen part: pooled features [B, D] under a head, hidden states
    [B, N, D] below the first block that trains.
    """

    def frozen_features(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W], uint8 or float in [0, 1] -> float [B, …], normalised and under `no_grad`.

        Raises ConfigError where nothing of the network is frozen.
        """

    def forward_features(self, features: Tensor) -> Tensor:
        """What `frozen_features` returned -> logits float32 [B], or [B, k]."""

    def cache_key(self) -> str:
        """Hexadecimal, the same for the same frozen weights, normalisation and place of the cut.

        Geometry, precision and the images are not in it. Raises ConfigError as `frozen_features` does.
        """


@runtime_checkable
class FeatureBank(FrozenFeatures, Protocol):
    """A network that compares images with those of a train split, whose features it keeps in its buffers."""

    def bank_is_empty(self) -> bool:
        """Whether there is nothing yet that an image could be compared with."""

    def remember(self, features: Tensor, labels: Tensor) -> None:
        """Fill the bank: features [N, …] of `frozen_features`, labels int64 [N] (0 real, 1 generated).

        Raises DataError for a split from which no image can be judged.
        """

    def make_room(self, weights: Mapping[str, Tensor]) -> None:
        """Shape the bank like the one in a state dict that is about to be loaded."""


def weights_hash(weights: Iterable[tuple[str, Tensor]], *facts: object) -> str:
    """sha256 over names, shapes, types and bytes of tensors, and over the repr of other facts."""
    hashed = hashlib.sha256(repr(facts).encode())
    for name, value in weights:
        hashed.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        plain = value.detach().cpu().contiguous()
        hashed.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def untrained(network: nn.Module, prefix: str) -> frozenset[str]:
    """Names below `prefix` in the state dict of what does not train, so that no checkpoint need hold it."""
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    return frozenset(name for name in network.state_dict() if name.startswith(prefix) and name not in trained)
