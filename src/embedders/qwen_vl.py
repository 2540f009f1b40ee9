"""The vision tower of a Qwen-VL as an embedder: with a frozen Qwen2-VL, that of the infrared study."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import freezing, qwen_vl
from ..backbones.frozen import weights_hash
from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..images.normalize import Normalize
from .head import EmbeddingHead


class QwenVLEmbedder(freezing.KeepsFrozen):
    """Mean over an image's merged tokens -> LayerNorm -> `EmbeddingHead`.

    The tokens are those that the language model would be given, as wide as it is, and far from unit scale:
    hence the LayerNorm. The tower sees three channels; of an infrared image the reader repeats its one.

    backbone, pretrained: see `backbones.qwen_vl.create_vision`. freeze: train what is above the tower alone;
    the tower stays in `eval()`. dimension: of the embedding, None for the tower's own width.
    size: side in pixels to which an image is brought, a multiple of 28 (Qwen2-VL, Qwen2.5-VL) or of 32
        (Qwen3-VL); model.geometry.size=[H,W] gives two. More pixels make more tokens.
    """

    def __init__(
        self,
        *,
        backbone: str = qwen_vl.DEFAULT,
        pretrained: bool | str,
        freeze: bool = True,
        dimension: int | None = 768,
        size: int = 224,
    ) -> None:
        super().__init__()
        self.backbone_name, self.pretrained = backbone, pretrained
        interpolation, statistics = qwen_vl.preprocessing(backbone)
        self.input_spec = InputSpec((size, size), "squash", interpolation=interpolation, channels=3)
        self.normalize = Normalize(*statistics)
        self.backbone = qwen_vl.create_vision(backbone, pretrained=pretrained)
        step = qwen_vl.unit(self.backbone)
        if size % step:
            raise ConfigError(
                f"model.net.size={size} is no multiple of {step}, the side of one token of "
                f"model.net.backbone={backbone}: type model.net.size={max(1, round(size / step)) * step}"
            )
        width = qwen_vl.width(self.backbone)
        self.norm = nn.LayerNorm(width)
        self.head = EmbeddingHead(width, dimension)
        self.dimension = self.head.dimension
        if freeze:
            freezing.freeze(self.backbone)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> float32 [B, dimension] of length 1."""
        if freezing.is_frozen(self.backbone):
            return self.forward_features(self.frozen_features(images))
        return self.forward_features(self._pooled(images))

    def frozen_features(self, images: Tensor) -> Tensor:
        """As `FrozenFeatures`: the mean over the tokens of each image, float32 [B, width]."""
        self._check_frozen()
        with torch.no_grad():
            return self._pooled(images)

    def forward_features(self, features: Tensor) -> Tensor:
        """As `FrozenFeatures`: LayerNorm and head."""
        embedding: Tensor = self.head(self.norm(features))
        return embedding

    def cache_key(self) -> str:
        """As `FrozenFeatures`."""
        self._check_frozen()
        config: Any = self.backbone.config
        figures = config.to_diff_dict()
        figures.pop("transformers_version", None)
        normalized = (self.normalize.mean, self.normalize.std)
        return weights_hash(self.backbone.state_dict().items(), sorted(figures.items()), normalized)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters that may learn at a rate of their own (`optim.groups`)."""
        return list(self.backbone.parameters())

    def stored_elsewhere(self) -> frozenset[str]:
        """Names in the state dict that no checkpoint need hold: frozen, and loaded from `pretrained`."""
        if self.pretrained is False or not freezing.is_frozen(self.backbone):
            return frozenset()
        return frozenset(f"backbone.{name}" for name in self.backbone.state_dict())

    def check_weights(self) -> None:
        """Raise CheckpointError where weights are neither here nor on the hub."""
        qwen_vl.check_weights(self.backbone_name, self.pretrained)

    def _pooled(self, images: Tensor) -> Tensor:
        return qwen_vl.encode(self.backbone, self.normalize(images)).float().mean(1)

    def _check_frozen(self) -> None:
        if not freezing.is_frozen(self.backbone):
            raise ConfigError(
                "nothing of QwenVLEmbedder is frozen as it stands, so there are no features to keep: type "
                "model.net.freeze=true, or data.cache=decoded"
            )
