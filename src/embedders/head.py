"""From features to a vector on the unit sphere."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError


class EmbeddingHead(nn.Module):
    """Features [B, width] -> Linear -> optional BNNeck -> float32 [B, dimension] of length 1.

    dimension: None keeps the features as they are. bnneck: batch normalisation without a shift before the
    vector is brought to length 1 (Luo et al., Bag of tricks for person re-identification, CVPRW 2019, where
    its output is what is searched with).
    """

    def __init__(self, width: int, dimension: int | None, *, bnneck: bool = False) -> None:
        super().__init__()
        if dimension is not None and dimension < 2:
            raise ConfigError(f"model.net.dimension={dimension}: an embedding takes at least 2, or null")
        self.dimension = width if dimension is None else dimension
        self.linear = nn.Identity() if dimension is None else nn.Linear(width, dimension)
        self.bnneck = nn.BatchNorm1d(self.dimension) if bnneck else nn.Identity()
        if bnneck:
            self.bnneck.bias.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """float [B, width] -> float32 [B, dimension]."""
        embedding: Tensor = self.bnneck(self.linear(features)).float()
        return F.normalize(embedding, dim=1)
