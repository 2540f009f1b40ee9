"""The bottleneck stages of ResNet-50 (He et al., CVPR 2016), which many published detectors cut short.

The stride sits in the 3x3 convolution ("v1.5"), and the parameter names are torchvision's, so that published
files load.
"""

from __future__ import annotations

from torch import Tensor, nn

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand, each with BatchNorm, around a shortcut.

    Images [B, in_channels, H, W] become [B, 4 * width, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, 4 * width, ceil(H / stride), ceil(W / stride)]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        out: Tensor = self.relu(x + shortcut)
        return out


def stage(in_channels: int, width: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """One ResNet stage (torchvision's `layer1` to `layer4`): `blocks` bottlenecks, stride in the first."""
    first = Bottleneck(in_channels, width, stride)
    return nn.Sequential(first, *(Bottleneck(width * EXPANSION, width) for _ in range(blocks - 1)))


def init_kaiming(network: nn.Module) -> None:
    """He initialisation over the fan-out of every convolution, in place; BatchNorm starts as the identity."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
