"""A residual network for images of 32x32 pixels that trains on two CPU cores in ten minutes.

He et al. (CVPR 2016) with squeeze-and-excitation (Hu et al., CVPR 2018), on a fixed cosine transform in place
of learned first filters. Generators betray themselves in the fine detail (Frank et al., "Leveraging Frequency
Analysis for Deep Fake Image Recognition", ICML 2020), which has a thousandth of the variance of the shading,
so that a convolution on pixels learns it last. Here every frequency enters with variance 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        stages: list[nn.Module] = []
        channels = width
        for number, count in enumerate(blocks):
            for block in range(count):
                out_channels = width * 2**number
                stages.append(Block(channels, out_channels, stride=2 if number > 0 and block == 0 else 1))
                channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, classes)
        _init(self)

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


class Block(nn.Module):
    """Two 3x3 convolutions, squeeze-and-excitation, and a shortcut that averages where it has to shrink.

    [B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.excite = SqueezeExcite(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True),
                nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)]."""
        shortcut = self.shortcut(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.excite(self.bn2(self.conv2(x)))
        out: Tensor = self.relu(x + shortcut)
        return out


class SqueezeExcite(nn.Module):
    """Each channel times a gate in (0, 1) that all channels' means decide; shape unchanged."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, max(1, channels // reduction))
        self.excite = nn.Linear(self.squeeze.out_features, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        gate = self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3))))).sigmoid()
        out: Tensor = x * gate[:, :, None, None]
        return out


def dct_matrix(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) as a matrix, float32 [size, size]; row 0 is the mean."""
    steps = torch.arange(size, dtype=torch.float32)
    matrix = torch.cos(math.pi / (2 * size) * (2 * steps[None, :] + 1) * steps[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def _init(network: nn.Module) -> None:
    """He initialisation over the fan-out; every block starts as its shortcut (Goyal et al., 2017)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Block):
            nn.init.zeros_(module.bn2.weight)


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
