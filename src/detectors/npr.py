"""NPR: neighbouring pixel relationships (Tan et al., "Rethinking the Up-Sampling Operations", CVPR 2024).

Generators enlarge feature maps, so that pixels of one 2x2 block are related in a way that cameras do not
produce. The network sees only how each pixel differs from the top-left pixel of its block, through the first
half of a ResNet-50. Trained from scratch: Adam 2e-4, batch 32, learning rate x0.9 every 10 epochs, 50 epochs.
Parameter names are those of the published files (chuangchuangtan/NPR-DeepfakeDetection).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.resnet import init_kaiming, stage
from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..images.normalize import IMAGENET, Normalize


class NPR(nn.Module):
    """The NPR detector, 1,437,761 parameters with one logit.

    size: side in pixels to which images are squashed, 256 in the published evaluation; None feeds every image
        as it is (the published protocol for AIGCDetectBenchmark, one image a batch).
    classes: 1 for one logit (positive means generated), k > 1 for k-way attribution with class 0 = real.
    """

    def __init__(self, *, size: int | None = 256, classes: int = 1) -> None:
        super().__init__()
        if size is not None and size < 2:
            raise ConfigError(
                f"model.net.size={size} leaves NPR no 2x2 block of pixels: give at least 2, or null"
            )
        if classes < 1:
            raise ConfigError(
                f"model.net.classes={classes} is no number of outputs: 1 (a logit) or more (k-way)"
            )
        if size is None:
            self.input_spec = InputSpec(size=None, resize="none")
        else:
            self.input_spec = InputSpec(size=(size, size), resize="squash", strict=True)
        self.normalize = Normalize(*IMAGENET)
        self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = stage(64, width=64, blocks=3)
        self.layer2 = stage(256, width=128, blocks=4, stride=2)
        self.fc1 = nn.Linear(512, classes)
        init_kaiming(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B], or [B, classes] when k-way."""
        residual = pixel_residual(self.normalize(images))
        x = self.maxpool(self.relu(self.bn1(self.conv1(residual * 2 / 3))))
        x = self.layer2(self.layer1(x))
        logits: Tensor = self.fc1(x.mean(dim=(2, 3))).float()
        return logits.squeeze(1) if self.fc1.out_features == 1 else logits


def pixel_residual(x: Tensor) -> Tensor:
    """What halving and doubling by nearest neighbour loses: pixels minus the top-left one of their 2x2 block.

    Float [B, C, H, W] -> [B, C, H', W'], where an odd last row or column is dropped first, as published.
    """
    x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
    halved = F.interpolate(x, scale_factor=0.5, mode="nearest", recompute_scale_factor=True)
    return x - F.interpolate(halved, scale_factor=2.0, mode="nearest", recompute_scale_factor=True)
