"""FreqNet (Tan et al., "Frequency-Aware Deepfake Detection", AAAI 2024).

The network is kept away from low frequencies: they are cut from the image, and again from feature maps,
across space and across channels. Between the cuts it learns on the spectrum itself, amplitude and phase,
through 1x1 convolutions of its real and imaginary parts. Trained from scratch as NPR: Adam 2e-4, batch 32.
Parameter names are those of the published files (chuangchuangtan/FreqNet-DeepfakeDetection).

The original works on whole complex spectra. Feature maps are real, so half a spectrum holds all of it: the
functions below give the same numbers from real transforms in less than half the time.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.resnet import init_kaiming, stage
from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..images.normalize import IMAGENET, Normalize


class FreqNet(nn.Module):
    """The FreqNet detector, 1,850,433 parameters with one logit.

    size: side in pixels to which images are squashed, 256 in the published evaluation; None feeds every image
        as it is, one a batch.
    classes: 1 for one logit (positive means generated), k > 1 for k-way attribution with class 0 = real.
    """

    def __init__(self, *, size: int | None = 256, classes: int = 1) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise ConfigError(
                f"model.net.size={size} is no side of an image: give pixels, for example 256, or null"
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
        self.weight1, self.bias1 = _filters(3, 64)
        self.realconv1, self.imagconv1 = _pointwise(64), _pointwise(64)
        self.weight2, self.bias2 = _filters(64, 64)
        self.realconv2, self.imagconv2 = _pointwise(64), _pointwise(64)
        self.weight3, self.bias3 = _filters(256, 256)
        self.realconv3, self.imagconv3 = _pointwise(256), _pointwise(256)
        self.weight4, self.bias4 = _filters(256, 256)
        self.realconv4, self.imagconv4 = _pointwise(256), _pointwise(256)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = stage(64, width=64, blocks=3)
        self.layer2 = stage(256, width=128, blocks=4, stride=2)
        self.fc1 = nn.Linear(512, classes)
        init_kaiming(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B], or [B, classes] when k-way."""
        x = high_pass(self.normalize(images))
        x = F.relu(F.conv2d(x, self.weight1, self.bias1))
        x = frequency_conv(high_pass_channels(x), self.realconv1, self.imagconv1)
        x = F.relu(F.conv2d(high_pass(x), self.weight2, self.bias2, stride=2))
        x = frequency_conv(high_pass_channels(x), self.realconv2, self.imagconv2)
        x = self.layer1(self.maxpool(x))
        x = F.relu(F.conv2d(high_pass(x), self.weight3, self.bias3))
        x = frequency_conv(x, self.realconv3, self.imagconv3)
        x = F.relu(F.conv2d(high_pass(x), self.weight4, self.bias4, stride=2))
        x = frequency_conv(x, self.realconv4, self.imagconv4)
        x = self.layer2(x)
        logits: Tensor = self.fc1(x.mean(dim=(2, 3))).float()
        return logits.squeeze(1) if self.fc1.out_features == 1 else logits


def high_pass(x: Tensor) -> Tensor:
    """Low spatial frequencies cut out, then ReLU (HFRI on the image, HFRS on features); shape unchanged.

    Float [..., H, W]. Cut is where both -(n // 4) <= k < n // 4, k cycles along a side of n pixels. That band
    is not symmetric; since the original takes the real part afterwards, what lies on its lower edge only is
    halved, there and at the mirrored place.
    """
    x = _float(x)
    height, width = x.shape[-2:]
    rows, mirrored_rows = _low(height, x.device)
    columns, mirrored_columns = (low[: width // 2 + 1] for low in _low(width, x.device))
    cut = torch.outer(rows, columns) + torch.outer(mirrored_rows, mirrored_columns)
    spectrum = torch.fft.rfft2(x, norm="ortho") * (1 - cut / 2)
    return F.relu(torch.fft.irfft2(spectrum, s=(height, width), norm="ortho"))


def high_pass_channels(x: Tensor) -> Tensor:
    """Low frequencies along the channels cut out, then ReLU (HFRC); float [B, C, H, W], shape unchanged."""
    x = _float(x)
    channels = x.shape[1]
    low, mirrored = _low(channels, x.device)
    kept = (1 - (low + mirrored) / 2)[: channels // 2 + 1]
    spectrum = torch.fft.rfft(x, dim=1, norm="ortho") * kept[:, None, None]
    return F.relu(torch.fft.irfft(spectrum, n=channels, dim=1, norm="ortho"))


def frequency_conv(x: Tensor, real: nn.Conv2d, imaginary: nn.Conv2d) -> Tensor:
    """1x1 convolutions of the spectrum's real and imaginary parts, then ReLU (FCL); float [B, C, H, W]."""
    x = _float(x)
    # Spectra span many orders of magnitude, and half-precision complex numbers do not exist.
    with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        spectrum = torch.fft.rfft2(x, norm="ortho")
        spectrum = torch.complex(real(spectrum.real), imaginary(spectrum.imag))
        return F.relu(torch.fft.irfft2(spectrum, s=x.shape[-2:], norm="ortho"))


def _low(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Float [n] each, in the order of the transform: 1 where -(n // 4) <= k < n // 4, and the same of -k."""
    k = torch.fft.fftfreq(n, d=1 / n, device=device).round()
    quarter = n // 4
    return ((k >= -quarter) & (k < quarter)).float(), ((-k >= -quarter) & (-k < quarter)).float()


def _float(x: Tensor) -> Tensor:
    """Transforms exist in float32 and float64 only."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _filters(in_channels: int, out_channels: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of a 1x1 convolution from a standard normal, as the original starts them."""
    return nn.Parameter(torch.randn(out_channels, in_channels, 1, 1)), nn.Parameter(torch.randn(out_channels))


def _pointwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel_size=1, bias=False)
