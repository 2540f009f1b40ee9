"""From what a vision tower sees to the prefix of a language model."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import ConfigError

Kind = Literal["linear", "mlp", "transformer"]

LONGEST = 257
"""Vectors of the longest prefix: all tokens of a ViT-L/14."""


def create(
    kind: Kind,
    *,
    features: int,
    tokens: int | None,
    width: int,
    prefix_length: int,
    layers: int = 8,
    heads: int = 8,
) -> nn.Module:
    """Features float [B, features], or [B, tokens, features], -> prefix float [B, prefix_length, width].

    tokens: how many a tower gives of an image, None for one pooled vector.
    kind: `linear`; `mlp`, as ClipCap's with a tanh between two layers, half as wide as its output; or
        `transformer`, in which learned queries and the features mix. The first two make the whole prefix of
        a pooled vector, and of tokens one vector each.
    layers, heads: of the transformer.
    Mokady et al. 2021 (ClipCap), section 3.2. Raises ConfigError for lengths that don't fit.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"unknown value model.net.adapter={kind}: {', '.join(get_args(Kind))}")
    if not 1 <= prefix_length <= LONGEST:
        raise ConfigError(f"model.net.prefix_length={prefix_length} is no length of a prefix: 1 to {LONGEST}")
    if kind == "transformer":
        return Mapper(features, tokens, width, prefix_length, layers, heads)
    if tokens is not None and tokens != prefix_length:
        fits = "" if tokens > LONGEST else f"type model.net.prefix_length={tokens}, or "
        raise ConfigError(
            f"model.net.prefix_length={prefix_length} does not fit model.net.visual=patches: "
            f"model.net.adapter={kind} makes one vector of each of the {tokens} tokens of this tower; {fits}"
            f"type model.net.adapter=transformer, which makes a prefix of any length"
        )
    vectors = prefix_length if tokens is None else 1
    out = width * vectors
    if kind == "linear":
        return PerVector(nn.Linear(features, out), vectors if tokens is None else None)
    mlp = nn.Sequential(nn.Linear(features, out // 2), nn.Tanh(), nn.Linear(out // 2, out))
    return PerVector(mlp, vectors if tokens is None else None)


class PerVector(nn.Module):
    """`layers` on each vector; of a pooled one its output is cut into `vectors`."""

    def __init__(self, layers: nn.Module, vectors: int | None) -> None:
        super().__init__()
        self.layers = layers
        self.vectors = vectors

    def forward(self, features: Tensor) -> Tensor:
        """Float [B, D], or [B, N, D], -> [B, vectors, W], or [B, N, W]."""
        prefix: Tensor = self.layers(features)
        return prefix if self.vectors is None else prefix.view(len(prefix), self.vectors, -1)


class Mapper(nn.Module):
    """ClipCap's transformer: features, mapped to the width of the prefix, in front of learned queries.

    A pooled vector is mapped to as many vectors as there are queries. What stands where the queries stood is
    the prefix.
    """

    def __init__(
        self, features: int, tokens: int | None, width: int, prefix_length: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ConfigError(f"model.net.adapter_layers={layers}: 1 or more, 8 are ClipCap's")
        if heads < 1 or width % heads:
            raise ConfigError(
                f"model.net.adapter_heads={heads} does not divide {width}, the width of the language model: "
                f"8 is usual"
            )
        self.vectors = prefix_length if tokens is None else None
        self.project = nn.Linear(features, width * (self.vectors or 1))
        self.queries = nn.Parameter(torch.randn(prefix_length, width) * width**-0.5)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        for parameter in self.layers.parameters():  # the layers are copies of one another
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Float [B, D], or [B, N, D], -> [B, prefix_length, W]."""
        seen: Tensor = self.project(features)
        if self.vectors is not None:
            seen = seen.view(len(seen), self.vectors, -1)
        queries = self.queries.to(seen.dtype).expand(len(seen), -1, -1)
        mixed: Tensor = self.layers(torch.cat([seen, queries], dim=1))
        return mixed[:, -len(self.queries) :]
