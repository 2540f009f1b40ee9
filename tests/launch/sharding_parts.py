"""A tiny vision transformer with frozen weights and low-rank additions; allowed by `allow_targets`."""

from __future__ import annotations

import torch
from tapetum.images.geometry import InputSpec
from torch import Tensor, nn
from torch.nn import functional as F


class LowRank(nn.Linear):
    """A frozen layer, the same in every process and every run, and a trained addition of rank 2."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        draw = torch.Generator().manual_seed(width)
        with torch.no_grad():
            self.weight.copy_(torch.randn(width, width, generator=draw) / width**0.5)
        self.weight.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, width, generator=draw) / width**0.5)
        self.up = nn.Parameter(torch.zeros(width, 2))

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) + tokens @ self.down.T @ self.up.T


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = LowRank(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + torch.tanh(self.layer(self.norm(tokens)))


class LowRankViT(nn.Module):
    """Of an odd width, so that no tensor can be halved; `scale` is a number that no process can share."""

    def __init__(self, width: int = 9, depth: int = 2) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(32, 32), resize="squash")
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.head = nn.Linear(width, 1)
        self.scale = nn.Parameter(torch.tensor(2.0), requires_grad=False)

    def stored_elsewhere(self) -> frozenset[str]:
        return frozenset(name for name, value in self.named_parameters() if name.endswith("layer.weight"))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images.float() / 127.5 - 1).flatten(2).mT
        for block in self.blocks:
            tokens = block(tokens)
        return self.scale * F.linear(tokens.mean(1), self.head.weight, self.head.bias).squeeze(1)
