"""SAFE (Li et al., "Improving Synthetic Image Detection Towards Generalization: An Image Transformation
Perspective", KDD 2025).

Resizing smooths away what gives generated images away, so SAFE crops and never resizes. It sees only the
diagonal detail of one wavelet step, through NPR's trunk. Trained from scratch on crops that are rotated,
jittered and partly masked (`augment=safe`): AdamW, 1e-2 a 256 images, weight decay 0.01, batch 128, 20 epochs
of which one warms up, label smoothing 0.1.
Parameter names are those of the published files (Ouxiang-Li/SAFE); their head has two outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.resnet import init_kaiming, stage
from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..images.normalize import Normalize


class SAFE(nn.Module):
    """The SAFE detector, 1,438,274 parameters with the published two outputs.

    size: side in pixels of the central crop, 256 in the published evaluation, which resizes nothing and puts
        black around smaller images; None feeds every image whole, one a batch.
    classes: 2 for the published head, whose logit is z_generated - z_real; k > 2 for k-way attribution with
        class 0 = real.
    """

    def __init__(self, *, size: int | None = 256, classes: int = 2) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise ConfigError(
                f"model.net.size={size} is no side of a crop: give pixels, for example 256, or null"
            )
        if classes < 2:
            raise ConfigError(
                f"model.net.classes={classes}: SAFE's head has an output a class: 2 (real, generated) or more"
            )
        crop = None if size is None else (size, size)
        self.input_spec = InputSpec(size=None, resize="none", crop=crop)
        self.normalize = Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # pixels stay in [0, 1]
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
        x = self.normalize(images)
        x = F.interpolate(diagonal_detail(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        scores: Tensor = self.fc1(x.mean(dim=(2, 3))).float()
        return scores[:, 1] - scores[:, 0] if self.fc1.out_features == 2 else scores


def diagonal_detail(x: Tensor) -> Tensor:
    """The HH band of one step of the wavelet transform 'bior1.3', borders mirrored (PyWavelets' `symmetric`).

    Float [B, C, H, W] -> [B, C, (H + 5) // 2, (W + 5) // 2]. The high-pass filter of bior1.3 has six taps, of
    which only the middle two are not zero: -sqrt(1/2), sqrt(1/2). The band therefore is the difference of the
    diagonals of each 2x2 block, halved; the other taps only add blocks beyond the border.
    """
    rows, columns = (_blocks(side, x.device) for side in x.shape[-2:])
    x = x.index_select(-2, rows).index_select(-1, columns)
    top, bottom = x[..., ::2, :], x[..., 1::2, :]
    return (top[..., ::2] - top[..., 1::2] - bottom[..., ::2] + bottom[..., 1::2]) / 2


def _blocks(n: int, device: torch.device) -> Tensor:
    """int64 [2 * ((n + 5) // 2)]: positions of the pixels -2, -1, 0, 1, … of a side of n that is mirrored."""
    place = torch.arange(-2, 2 * ((n + 5) // 2) - 2, device=device) % (2 * n)
    return torch.where(place < n, place, 2 * n - 1 - place)
