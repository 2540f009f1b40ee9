"""Any timm model under a small head: with EfficientNet-B0, the detector of the product-photo study."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..backbones import freezing, timm_tower
from ..backbones.frozen import weights_hash
from ..errors import ConfigError
from ..images.normalize import Normalize


class TimmBackbone(freezing.KeepsFrozen):
    """Backbone features -> Linear, BatchNorm, ReLU, Dropout -> Linear to the logit.

    name, pretrained: see `backbones.timm_tower.create`.
    freeze: train the head alone (657,409 parameters on EfficientNet-B0); the backbone stays in `eval()`.
    hidden, dropout: width of the hidden layer and share of it that is dropped in training.
    size: side in pixels of the crop that the network sees; None for what the weights were trained with. The
        shorter side is first scaled to size / crop_pct (256 for 224), as timm evaluates.
    classes: 1 for one logit (positive means generated), k > 1 for k-way attribution with class 0 = real.
    channels: 3 for RGB, 1 for grey or infrared.
    """

    def __init__(
        self,
        *,
        name: str = "efficientnet_b0",
        pretrained: bool | str,
        freeze: bool = False,
        hidden: int = 512,
        dropout: float = 0.3,
        size: int | None = None,
        classes: int = 1,
        channels: Literal[1, 3] = 3,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ConfigError(
                f"model.net.classes={classes} is no number of outputs: 1 (a logit) or more (k-way)"
            )
        config = timm_tower.pretrained_config(name)
        self.name = name
        self.pretrained = pretrained
        self.input_spec = timm_tower.geometry(config, size, channels)
        self.normalize = Normalize(*timm_tower.statistics(config, channels))
        self.backbone = timm_tower.create(name, pretrained=pretrained, in_chans=channels, image_size=size)
        self.classifier = nn.Sequential(
            nn.Linear(timm_tower.width(self.backbone), hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )
        self.classes = classes
        if freeze:
            freezing.freeze(self.backbone)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W], uint8 or float in [0, 1] -> logits float32 [B], or [B, classes] when k-way."""
        if freezing.is_frozen(self.backbone):
            return self.forward_features(self.frozen_features(images))
        return self.forward_features(self.backbone(self.normalize(images)))

    def frozen_features(self, images: Tensor) -> Tensor:
        """As `FrozenFeatures`: what the backbone returns, [B, D]."""
        self._check_frozen()
        with torch.no_grad():
            features: Tensor = self.backbone(self.normalize(images))
        return features

    def forward_features(self, features: Tensor) -> Tensor:
        """As `FrozenFeatures`: the head alone."""
        logits: Tensor = self.classifier(features).float()
        return logits.squeeze(1) if self.classes == 1 else logits

    def cache_key(self) -> str:
        """As `FrozenFeatures`."""
        self._check_frozen()
        normalized = (self.normalize.mean, self.normalize.std)
        return weights_hash(self.backbone.state_dict().items(), self.name, normalized)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters that may learn at a rate of their own (`optim.groups`)."""
        return list(self.backbone.parameters())

    def stored_elsewhere(self) -> frozenset[str]:
        """Names in the state dict that no checkpoint need hold: frozen, and loaded from `pretrained`."""
        if self.pretrained is False or not freezing.is_frozen(self.backbone):
            return frozenset()
        return frozenset(f"backbone.{name}" for name in self.backbone.state_dict())

    def _check_frozen(self) -> None:
        if not freezing.is_frozen(self.backbone):
            raise ConfigError(
                "nothing of TimmBackbone is frozen as it stands, so there are no features to keep: type "
                "model.net.freeze=true, or data.cache=decoded"
            )
