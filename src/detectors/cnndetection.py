"""CNNDetection (Wang et al., "CNN-generated images are surprisingly easy to spot... for now", CVPR 2020).

An ImageNet ResNet-50 with one logit in place of its classifier. What made it carry over from ProGAN to other
generators is the training: every image blurred and JPEG-compressed with probability 0.5 or 0.1
(`augment=cnndetection`). Adam 1e-4, batch 64, learning rate / 10 whenever five epochs bring nothing.
Parameter names are torchvision's, as in the published files (PeterWang512/CNNDetection).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..backbones import timm_tower
from ..backbones.resnet import init_kaiming, stage
from ..backbones.weights import load_state
from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..images.normalize import IMAGENET, Normalize

IMAGENET_WEIGHTS = "resnet50.tv_in1k"
"""timm's name for torchvision's first ImageNet weights, from which the published detectors were trained."""


class CNNDetection(nn.Module):
    """ResNet-50 with one logit, 23,510,081 parameters.

    pretrained: False for random weights, True for ImageNet's as published, or the path of a ResNet-50 file.
    size: side in pixels of the central crop, 224 in the published evaluation, which resizes nothing and puts
        black around smaller images; None feeds every image whole, one a batch (its `--no_crop`, more
        accurate).
    classes: 1 for one logit (positive means generated), k > 1 for k-way attribution with class 0 = real.
    """

    def __init__(self, *, pretrained: bool | str = False, size: int | None = 224, classes: int = 1) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise ConfigError(
                f"model.net.size={size} is no side of a crop: give pixels, for example 224, or null"
            )
        if classes < 1:
            raise ConfigError(
                f"model.net.classes={classes} is no number of outputs: 1 (a logit) or more (k-way)"
            )
        crop = None if size is None else (size, size)
        self.input_spec = InputSpec(size=None, resize="none", crop=crop)
        self.normalize = Normalize(*IMAGENET)
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = stage(64, width=64, blocks=3)
        self.layer2 = stage(256, width=128, blocks=4, stride=2)
        self.layer3 = stage(512, width=256, blocks=6, stride=2)
        self.layer4 = stage(1024, width=512, blocks=3, stride=2)
        self.fc = nn.Linear(2048, classes)
        init_kaiming(self)
        nn.init.normal_(self.fc.weight, std=0.02)
        if pretrained is not False and not self.fc.weight.is_meta:
            self._load_imagenet(pretrained)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B], or [B, classes] when k-way."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.normalize(images)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3))).float()
        return logits.squeeze(1) if self.fc.out_features == 1 else logits

    def _load_imagenet(self, pretrained: bool | str) -> None:
        tower = timm_tower.create(IMAGENET_WEIGHTS, pretrained=pretrained)
        source = IMAGENET_WEIGHTS if pretrained is True else str(pretrained)
        with torch.no_grad():
            load_state(self, tower.state_dict(), source=source, elsewhere=("fc.weight", "fc.bias"))
