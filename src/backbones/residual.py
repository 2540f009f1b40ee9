"""Basic residual blocks for small images, trained from scratch.

He et al. (CVPR 2016) with squeeze-and-excitation (Hu et al., CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def stages(width: int, blocks: Sequence[int]) -> nn.Sequential:
    """Residual stages, [B, width, H, W] -> [B, width * 2 ** (len(blocks) - 1), …]: each further stage has
    twice the channels at half the resolution.

    blocks: residual blocks a stage.
    """
    found: list[nn.Module] = []
    channels = width
    for number, count in enumerate(blocks):
        for block in range(count):
            out_channels = width * 2**number
            found.append(Block(channels, out_channels, stride=2 if number > 0 and block == 0 else 1))
            channels = out_channels
    return nn.Sequential(*found)


def init_residual(network: nn.Module) -> None:
    """He initialisation over the fan-out; every block starts as its shortcut (Goyal et al., 2017)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Block):
            nn.init.zeros_(module.bn2.weight)


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
