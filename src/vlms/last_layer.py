"""The last layer of a language model where few of its states are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def at_places(layer: nn.Module, places: Tensor, length: int) -> Iterator[None]:
    """Within it a last layer does at `places` alone what comes behind its attention.

    Nothing reads its other states any more: those at the places are what they are, the others mean nothing.
    layer: of transformers, with `self_attn.o_proj` and `mlp`, adapted or not. places: int64 [N, P], of texts
    [N, length, width].
    """
    rows = torch.arange(len(places), device=places.device)[:, None]

    def take(module: nn.Module, fed: tuple[Tensor, ...]) -> Tensor:
        return fed[0][rows, places]

    def put(module: nn.Module, fed: tuple[Tensor, ...], found: Tensor) -> Tensor:
        whole = found.new_zeros(len(places), length, found.shape[-1])  # what the residual is added to
        whole[rows, places] = found
        return whole

    parts: Any = layer
    handles = [
        handle
        for module in (parts.self_attn.o_proj, parts.mlp)
        for handle in (module.register_forward_pre_hook(take), module.register_forward_hook(put))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
