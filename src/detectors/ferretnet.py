"""FerretNet (Liang et al., "Efficient Synthetic Image Detection via Local Pixel Dependencies", NeurIPS 2025).

A generated pixel follows from its neighbours more than a photographed one. The network sees what the median
of the neighbours does not explain, through a few depthwise-separable blocks. Trained from scratch on crops:
Adam 2e-4 with betas (0.937, 0.999) and weight decay 5e-4, batch 32, 100 epochs.
Parameter names are those of the published files (xigua7105/FerretNet).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..images.normalize import CLIP, Normalize

# Exchanges that sort eight values (Batcher's odd-even merge, Knuth volume 3, 5.3.4).
EXCHANGES = (
    *((0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (1, 2), (5, 6)),
    *((0, 4), (1, 5), (2, 6), (3, 7), (2, 4), (3, 5), (1, 2), (3, 4), (5, 6)),
)


class FerretNet(nn.Module):
    """The FerretNet detector: 126,289 parameters with dim 32 (S), 1,057,777 with dim 96 (B).

    dim: channels before the first stage; every stage doubles them and halves the sides. Even.
    depths: blocks a stage.
    size: side in pixels of the central crop, 256 in the published evaluation, which resizes nothing and puts
        black around smaller images; None feeds every image whole, one a batch.
    classes: 1 for one logit (positive means generated), k > 1 for k-way attribution with class 0 = real.
    """

    def __init__(
        self, *, dim: int = 96, depths: Sequence[int] = (2, 2), size: int | None = 256, classes: int = 1
    ) -> None:
        super().__init__()
        _check(dim, depths, size, classes)
        crop = None if size is None else (size, size)
        self.input_spec = InputSpec(size=None, resize="none", crop=crop)
        self.normalize = Normalize(*CLIP)
        self.cbr1 = _conv_bn_relu(3, dim // 2)
        self.cbr2 = _conv_bn_relu(dim // 2, dim, stride=2)
        stages: list[nn.Module] = []
        for depth in depths:
            rest = (DSBlock(2 * dim, 2 * dim) for _ in range(depth - 1))
            stages.append(nn.Sequential(DSBlock(dim, 2 * dim, stride=2), *rest))
            dim = 2 * dim
        self.feature = nn.Sequential(*stages, nn.Conv2d(dim, dim, kernel_size=1, bias=False))
        self.logit = nn.Sequential(nn.Dropout(0.2), nn.Linear(dim, classes))
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B], or [B, classes] when k-way."""
        x = self.normalize(images)
        x = self.feature(self.cbr2(self.cbr1(x - neighbour_median(x))))
        logits: Tensor = self.logit(x.mean(dim=(2, 3))).float()
        return logits.squeeze(1) if self.classes == 1 else logits


def neighbour_median(x: Tensor) -> Tensor:
    """Median of each 3x3 window with its centre put to 0 (the published "median" of lpd.py); shape unchanged.

    Float [B, C, H, W]; the border sees zeros too, which after normalisation are the mean colour. Of the nine
    values the fifth is taken: of the eight neighbours, sorted, the fourth and fifth, and 0, the middle one.
    Minima and maxima of shifted images give the same bits as torch.median in a tenth of the time.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1))
    around = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
    values = [padded[..., row : row + height, column : column + width] for row, column in around]
    for low, high in EXCHANGES:
        values[low], values[high] = (
            torch.minimum(values[low], values[high]),
            torch.maximum(values[low], values[high]),
        )
    return torch.maximum(values[3], values[4].clamp(max=0))


class DSBlock(nn.Module):
    """Two dilations of one depthwise convolution, then a separable one, around a shortcut.

    [B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            DilatedConv2d(in_channels, out_channels, stride),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            SeparableConv2d(out_channels),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)]."""
        return F.relu(self.layers(x) + self.shortcut(x))


class DilatedConv2d(nn.Module):
    """Depthwise 3x3 convolutions of dilation 1 and 2, added, then mixed by a 1x1 one."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size=3,
                stride=stride,
                padding=dilation,
                dilation=dilation,
                groups=in_channels,
                bias=False,
            )
            for dilation in (1, 2)
        )
        self.conv3 = nn.Conv2d(out_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)]."""
        mixed: Tensor = self.conv3(self.conv1(x) + self.conv2(x))
        return mixed


class SeparableConv2d(nn.Module):
    """A depthwise 3x3 convolution, then a 1x1 one; shape unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depth_wise = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False)
        self.point_wise = nn.Conv2d(channels, channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        mixed: Tensor = self.point_wise(self.depth_wise(x))
        return mixed


def _conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _check(dim: int, depths: Sequence[int], size: int | None, classes: int) -> None:
    """Raise one ConfigError with everything that no network can be built from."""
    problems = []
    if dim < 2 or dim % 2:
        problems.append(f"model.net.dim={dim} must be even and above 0: 32 (S) or 96 (B)")
    if not depths or min(depths) < 1:
        problems.append(
            f"model.net.depths={list(depths)} must give every stage at least one block, for example [2,2]"
        )
    if size is not None and size < 1:
        problems.append(f"model.net.size={size} is no side of a crop: give pixels, for example 256, or null")
    if classes < 1:
        problems.append(f"model.net.classes={classes} is no number of outputs: 1 (a logit) or more (k-way)")
    if problems:
        raise ConfigError(problems)
