"""A small residual network from scratch, for thermal thumbnails such as single solar modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.residual import init_residual, stages
from ..errors import ConfigError
from ..images.geometry import InputSpec
from .head import EmbeddingHead


class SmallEmbedder(nn.Module):
    """Standardised pixels -> 3x3 convolution -> residual stages -> mean and maximum -> `EmbeddingHead`.

    size: (height, width) that images are squashed to. width: channels of the first stage, each further one
    has twice as many at half the resolution. stride: of the first convolution, 3x3 with 1 and 4x4 with 2:
    twice the width costs about the same there. blocks: residual blocks a stage. dimension, bnneck: see
    `EmbeddingHead`. dropout: share of the pooled features that training drops. flip_average: outside
    training, the mean over the image and its three mirror images, four times the work; for data that has no
    up and no left. standardise: every image to mean 0 and deviation 1, for what shows itself in differences
    and not in levels.
    """

    def __init__(
        self,
        *,
        size: Sequence[int] = (40, 24),
        width: int = 32,
        stride: Literal[1, 2] = 1,
        blocks: Sequence[int] = (1, 1, 1),
        dimension: int = 128,
        bnneck: bool = False,
        dropout: float = 0.0,
        flip_average: bool = False,
        standardise: bool = True,
        channels: Literal[1, 3] = 1,
    ) -> None:
        super().__init__()
        _check(size, width, blocks, dropout)
        self.input_spec = InputSpec(size=(size[0], size[1]), resize="squash", channels=channels)
        self.flip_average = flip_average
        self.standardise = standardise
        self.stem = nn.Sequential(
            nn.Conv2d(
                channels, width, kernel_size=3 if stride == 1 else 4, stride=stride, padding=1, bias=False
            ),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.stages = stages(width, blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = EmbeddingHead(width * 2 ** len(blocks), dimension, bnneck=bnneck)  # mean and maximum
        self.dimension = self.head.dimension
        init_residual(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W], uint8 or float in [0, 1] -> float32 [B, dimension] of length 1."""
        embedding = self._embedding(images)
        if self.flip_average and not self.training:
            for sides in ((-1,), (-2,), (-2, -1)):
                embedding = embedding + self._embedding(images.flip(sides))
            embedding = F.normalize(embedding, dim=1)
        return embedding

    def _embedding(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        if self.standardise:
            mean, deviation = pixels.mean((1, 2, 3), keepdim=True), pixels.std((1, 2, 3), keepdim=True)
            pixels = (pixels - mean) / (deviation + 1e-3)
        else:
            pixels = (pixels - 0.5) * 4
        x = self.stages(self.stem(pixels))
        pooled = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        found: Tensor = self.head(self.dropout(pooled))
        return found


def _check(size: Sequence[int], width: int, blocks: Sequence[int], dropout: float) -> None:
    """Raise one ConfigError with everything that no network can be built from."""
    problems = []
    if len(size) != 2 or min(size) < 8:
        problems.append(f"model.net.size={list(size)} must be height and width, at least 8 each: [40,24]")
    if width < 1:
        problems.append(f"model.net.width={width} is no number of channels: 1 or more, for example 32")
    if not blocks or min(blocks) < 1:
        problems.append(
            f"model.net.blocks={list(blocks)} must give every stage at least one block, for example [1,1,1]"
        )
    if not 0 <= dropout < 1:
        problems.append(f"model.net.dropout={dropout} is no share to drop: at least 0 and below 1")
    if problems:
        raise ConfigError(problems)
