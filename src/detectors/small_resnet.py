"""A residual network for images of 32x32 pixels that trains on two CPU cores in ten minutes.

Residual stages (`backbones.residual`) on a fixed cosine transform in place of learned first filters.
Generators betray themselves in the fine detail (Frank et al., "Leveraging Frequency Analysis for Deep Fake
Image Recognition", ICML 2020), which has a thousandth of the variance of the shading, so that a convolution
on pixels learns it last. Here every frequency enters with variance 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.residual import init_residual, stages
from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..images.normalize import Normalize, Statistics

# Of the training images; any others would do, since the coefficients are whitened.
CIFAKE = Statistics((0.4724, 0.4634, 0.4187), (0.2374, 0.2373, 0.2657))


class SmallResNet(nn.Module):
    """Whitened cosine transform at half resolution, then residual stages; 394,049 parameters as it stands.

    size: side in pixels to which images are squashed; at least 4.
    width: channels of the first stage; each further stage has twice as many at half the resolution.
    blocks: residual blocks a stage.
    dropout: share of the pooled features that training drops.
    flip_average: outside training, the logit is the mean over the image and its mirror image, twice the work;
        only for a network that was trained on both.
    classes: 1 for one logit (positive means generated), k > 1 for k-way attribution with class 0 = real.
    """

    def __init__(
        self,
        *,
        size: int = 32,
        width: int = 64,
        blocks: Sequence[int] = (2, 1),
        dropout: float = 0.0,
        flip_average: bool = True,
        classes: int = 1,
    ) -> None:
        super().__init__()
        _check(size, width, blocks, dropout, classes)
        self.input_spec = InputSpec(size=(size, size), resize="squash")
        self.flip_average = flip_average
        self.normalize = Normalize(*CIFAKE)
        self.dct = WhitenedDCT()
        self.mix = nn.Sequential(
            nn.Conv2d(self.dct.channels, width, kernel_size=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.stages = stages(width, blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width * 2 ** (len(blocks) - 1), classes)
        init_residual(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B], or [B, classes] when k-way."""
        logits = self._logits(images)
        if self.flip_average and not self.training:
            logits = (logits + self._logits(images.flip(-1))) / 2
        return logits.squeeze(1) if self.head.out_features == 1 else logits

    def _logits(self, images: Tensor) -> Tensor:
        x = self.stages(self.mix(self.dct(self.normalize(images))))
        logits: Tensor = self.head(self.dropout(x.mean(dim=(2, 3))))
        return logits.float()


class WhitenedDCT(nn.Module):
    """Cosine transform of overlapping 4x4 windows across space and colour, each coefficient with variance 1.

    Float [B, 3, H, W] -> float [B, 48, H // 2, W // 2]. A window every 2 pixels: 12 numbers would hold all
    there is, 48 also hold how neighbouring windows join. The basis is orthonormal and fixed; mean and
    variance are those of the batch in training, running ones otherwise (BatchNorm without weights).
    """

    window, stride, channels = 4, 2, 48
    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        space, colour = dct_matrix(self.window), dct_matrix(3)
        basis = torch.einsum("kc,iy,jx->kijcyx", colour, space, space)
        self.register_buffer(
            "basis", basis.reshape(self.channels, 3, self.window, self.window), persistent=False
        )
        self.whiten = nn.BatchNorm2d(self.channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, 3, H, W] -> float [B, 48, H // 2, W // 2], ordered (colour, vertical, horizontal)."""
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        # bfloat16 would round pixels by up to a byte step, the size of the finest coefficients.
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            coefficients = F.conv2d(x, self.basis, stride=self.stride)
        whitened: Tensor = self.whiten(coefficients)
        return whitened


def dct_matrix(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) as a matrix, float32 [size, size]; row 0 is the mean."""
    steps = torch.arange(size, dtype=torch.float32)
    matrix = torch.cos(math.pi / (2 * size) * (2 * steps[None, :] + 1) * steps[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def _check(size: int, width: int, blocks: Sequence[int], dropout: float, classes: int) -> None:
    """Raise one ConfigError with everything that no network can be built from."""
    problems = []
    if size < 4:
        problems.append(
            f"model.net.size={size} leaves no 4x4 window of pixels: give at least 4, for example 32"
        )
    if width < 1:
        problems.append(f"model.net.width={width} is no number of channels: 1 or more, for example 64")
    if not blocks or min(blocks) < 1:
        problems.append(
            f"model.net.blocks={list(blocks)} must give every stage at least one block, for example [2,1]"
        )
    if not 0 <= dropout < 1:
        problems.append(f"model.net.dropout={dropout} is no share to drop: at least 0 and below 1")
    if classes < 1:
        problems.append(f"model.net.classes={classes} is no number of outputs: 1 (a logit) or more (k-way)")
    if problems:
        raise ConfigError(problems)
