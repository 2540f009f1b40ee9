"""Any timm model as an embedder: with ResNet-50, that of the infrared study."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..backbones import freezing, timm_tower
from ..backbones.frozen import weights_hash
from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..images.normalize import Normalize
from .head import EmbeddingHead


class TimmEmbedder(freezing.KeepsFrozen):
    """Backbone features -> `EmbeddingHead`.

    name, pretrained: see `backbones.timm_tower.create`. freeze: train the head alone; the backbone stays in
    `eval()`. dimension: of the embedding, None for the backbone's own width. bnneck: see `EmbeddingHead`.
    size: side in pixels of the crop that the network sees; None for what the weights were trained with.
    channels: 3 for RGB, 1 for grey or infrared; the first convolution is then the sum over RGB, which sees
        what three equal channels would show it.
    """

    def __init__(
        self,
        *,
        name: str = "resnet50",
        pretrained: bool | str,
        freeze: bool = False,
        dimension: int | None = 512,
        bnneck: bool = False,
        size: int | None = None,
        channels: Literal[1, 3] = 1,
    ) -> None:
        super().__init__()
        config = timm_tower.pretrained_config(name)
        self.name = name
        self.pretrained = pretrained
        self.input_spec: InputSpec = timm_tower.geometry(config, size, channels)
        self.normalize = Normalize(*timm_tower.statistics(config, channels))
        self.backbone = timm_tower.create(name, pretrained=pretrained, in_chans=channels, image_size=size)
        self.head = EmbeddingHead(timm_tower.width(self.backbone), dimension, bnneck=bnneck)
        self.dimension = self.head.dimension
        if freeze:
            freezing.freeze(self.backbone)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W], uint8 or float in [0, 1] -> float32 [B, dimension] of length 1."""
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
        embedding: Tensor = self.head(features)
        return embedding

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
                "nothing of TimmEmbedder is frozen as it stands, so there are no features to keep: type "
                "model.net.freeze=true, or data.cache=decoded"
            )
