"""LaDeDa and Tiny-LaDeDa (Cavia et al., "Real-Time Deepfake Detection in the Real-World", 2024).

A ResNet-50 whose 3x3 convolutions are 1x1 but for three, so that each place of its last feature map has seen
9x9 pixels and no more: it judges patches, and an image by the mean of its patches. Tiny-LaDeDa is a student
of four convolutions. LaDeDa: Adam 2e-4, batch 32; the student learns LaDeDa's patch scores by squared error.
Parameter names are those of the published files (barcavia/RealTime-DeepfakeDetection-in-the-RealWorld).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.resnet import EXPANSION, init_kaiming
from ..errors import ConfigError, ImageError, did_you_mean
from ..images.geometry import InputSpec
from ..images.normalize import IMAGENET, Normalize
from .npr import pixel_residual

Gradient = Literal["right_diag", "npr"]

RIGHT_DIAGONAL = ((-2.0, -1.0, 0.0), (-1.0, 0.0, 1.0), (0.0, 1.0, 2.0))


class LaDeDa(nn.Module):
    """The 9x9 LaDeDa on NPR's pixel residual, 13,641,793 parameters with one logit.

    size: side in pixels to which images are squashed, 256 in the published evaluation; None feeds every image
        as it is, one a batch.
    residual_scale: factor on the residual. The published WildRF file was trained with 1, the ForenSynths file
        with 2/3 (0.6666666666666666), NPR's own factor (issue 3 of the original).
    classes: 1 for one logit (positive means generated), k > 1 for k-way attribution with class 0 = real.
    """

    patch, stride, least = 9, 8, 10

    def __init__(self, *, size: int | None = 256, residual_scale: float = 1.0, classes: int = 1) -> None:
        super().__init__()
        _check(size, self.least, classes)
        if not residual_scale > 0:
            raise ConfigError(
                f"model.net.residual_scale={residual_scale} must be above 0: 1.0, or 0.6666666666666666 for "
                "the file that was trained on ForenSynths"
            )
        self.input_spec = _input_spec(size)
        self.residual_scale = residual_scale
        self.normalize = Normalize(*IMAGENET)
        self.conv1 = nn.Conv2d(3, 64, kernel_size=1, bias=False)
        self.conv2 = nn.Conv2d(64, 64, kernel_size=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64, momentum=0.001)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(64, width=64, blocks=3, stride=2, kernel_size=3)
        self.layer2 = _stage(256, width=128, blocks=4, stride=2, kernel_size=3)
        self.layer3 = _stage(512, width=256, blocks=6, stride=2)
        self.layer4 = _stage(1024, width=512, blocks=3)
        self.fc = nn.Linear(2048, classes)
        init_kaiming(self)
        nn.init.normal_(self.fc.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B], or [B, classes] when k-way."""
        return _image_logits(self.fc, self._features(images))

    def patch_logits(self, images: Tensor) -> Tensor:
        """A logit a patch, float32 [B, h, w] or [B, classes, h, w]: a map of where an image looks generated.

        Place (i, j) has seen the 9x9 pixels from (8i, 8j); the mean over a map is the logit of the image.
        Images as in `forward`; 256x256 of them give 31x31 places.
        """
        return _patch_logits(self.fc, self._features(images))

    def _features(self, images: Tensor) -> Tensor:
        _check_sides(images, self.least)
        x = pixel_residual(self.normalize(images)) * self.residual_scale
        x = self.relu(self.bn1(self.conv2(self.conv1(x))))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features


class TinyLaDeDa(nn.Module):
    """The student: four convolutions of 8 channels, 1,297 parameters with one logit.

    gradient: what it sees. `right_diag` is the diagonal difference that the original trains its student on,
        `npr` the pixel residual that LaDeDa sees.
    size, classes: as for LaDeDa.
    """

    stride, least = 2, 6

    kernel: Tensor

    def __init__(
        self, *, gradient: Gradient = "right_diag", size: int | None = 256, classes: int = 1
    ) -> None:
        super().__init__()
        _check(size, self.least, classes)
        if gradient not in get_args(Gradient):
            raise ConfigError(
                f"unknown value model.net.gradient={gradient}{did_you_mean(gradient, get_args(Gradient))} "
                f"({', '.join(get_args(Gradient))})"
            )
        self.input_spec = _input_spec(size)
        self.gradient = gradient
        self.normalize = Normalize(*IMAGENET)
        self.register_buffer("kernel", torch.tensor(RIGHT_DIAGONAL).expand(3, 1, 3, 3), persistent=False)
        self.conv1 = nn.Conv2d(3, 8, kernel_size=1, bias=False)
        self.conv2 = nn.Conv2d(8, 8, kernel_size=3, bias=False)
        self.bn1 = nn.BatchNorm2d(8, momentum=0.001)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(TinyBlock(8, stride=2))
        self.fc = nn.Linear(8, classes)
        init_kaiming(self)
        nn.init.normal_(self.fc.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B], or [B, classes] when k-way."""
        return _image_logits(self.fc, self._features(images))

    def patch_logits(self, images: Tensor) -> Tensor:
        """A logit a patch, float32 [B, h, w] (or [B, classes, h, w]); 256x256 pixels give 126x126 places.

        Place (i, j) has seen the 5x5 gradients from (2i, 2j), which reach one pixel further on each side; the
        mean over a map is the logit of the image.
        """
        return _patch_logits(self.fc, self._features(images))

    def _features(self, images: Tensor) -> Tensor:
        _check_sides(images, self.least)
        x = self.normalize(images)
        if self.gradient == "npr":
            x = pixel_residual(x)
        else:
            x = F.conv2d(x, self.kernel.to(x.dtype), padding=1, groups=3)
        x = self.relu(self.bn1(self.conv2(self.conv1(x))))
        features: Tensor = self.layer1(x)
        return features


class Bottleneck(nn.Module):
    """ResNet-50's bottleneck without padding: a 3x3 convolution shrinks, and the shortcut is cut to fit.

    [B, in_channels, H, W] -> [B, 4 * width, (H - kernel_size) // stride + 1, …]. Cut are the last rows and
    columns, as published, so that place i of the result stays with place stride * i.
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1, kernel_size: int = 1) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=kernel_size, stride=stride, bias=False)
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
        """[B, in_channels, H, W] -> [B, 4 * width, (H - kernel_size) // stride + 1, …]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        out: Tensor = self.relu(x + shortcut[..., : x.shape[-2], : x.shape[-1]])
        return out


class TinyBlock(nn.Module):
    """1x1, then 3x3 without padding, each with BatchNorm and ReLU; no shortcut."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, stride=stride, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, (H - 3) // stride + 1, (W - 3) // stride + 1]."""
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(x)))
        return out


def _stage(in_channels: int, width: int, blocks: int, stride: int = 1, kernel_size: int = 1) -> nn.Sequential:
    """A stage whose first block alone has the stride and the 3x3 convolution."""
    first = Bottleneck(in_channels, width, stride, kernel_size)
    return nn.Sequential(first, *(Bottleneck(width * EXPANSION, width) for _ in range(blocks - 1)))


def _image_logits(fc: nn.Linear, features: Tensor) -> Tensor:
    logits: Tensor = fc(features.mean(dim=(2, 3))).float()
    return logits.squeeze(1) if fc.out_features == 1 else logits


def _patch_logits(fc: nn.Linear, features: Tensor) -> Tensor:
    logits: Tensor = fc(features.movedim(1, -1)).float()
    return logits.squeeze(-1) if fc.out_features == 1 else logits.movedim(-1, 1)


def _input_spec(size: int | None) -> InputSpec:
    if size is None:
        return InputSpec(size=None, resize="none")
    return InputSpec(size=(size, size), resize="squash", strict=True)


def _check(size: int | None, least: int, classes: int) -> None:
    if size is not None and size < least:
        raise ConfigError(
            f"model.net.size={size} holds no whole patch: give at least {least}, for example 256, or null"
        )
    if classes < 1:
        raise ConfigError(f"model.net.classes={classes} is no number of outputs: 1 (a logit) or more (k-way)")


def _check_sides(images: Tensor, least: int) -> None:
    height, width = images.shape[-2:]
    if min(height, width) < least:
        raise ImageError(
            f"an image of {height}x{width} pixels (height x width) holds no whole patch: at least "
            f"{least}x{least} are needed; model.net.size=256 enlarges every image"
        )
