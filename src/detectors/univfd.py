"""UnivFD (Ojha et al., "Towards Universal Fake Image Detectors that Generalize Across Generative Models",
CVPR 2023).

A network that learns to tell fakes from real images learns one generator's fingerprint, and takes what lacks
it for real. CLIP's features were never taught that task: a linear layer on them carries over to other
generators. The tower is OpenAI's ViT-L/14 and stays as it is. Its projected features are not normalised
before the layer. Trained on images that are resized, blurred and JPEG-compressed (`augment=cnndetection`):
AdamW 1e-4, no weight decay, batch 256, learning rate / 10 whenever five epochs bring nothing.
Files are those of WisconsinAIVision/UniversalFakeDetect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..backbones import clip, freezing, frozen, openai_clip, stages
from ..backbones.weights import Published
from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..images.normalize import CLIP, Normalize

LARGE = "openai/clip-vit-large-patch14"


def _from_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return openai_clip.image_tower(state, prefix="model.")


class UnivFD(freezing.KeepsFrozen):
    """A linear layer on the projected features of a frozen CLIP, 769 trained parameters on ViT-L/14.

    backbone: a CLIP on the hub, or a directory with one; `openai/clip-vit-large-patch14` as published.
    pretrained: True for its weights, a path for others, False for random ones (see `backbones.clip`).
    classes: 1 for one logit (positive means generated), k > 1 for k-way attribution with class 0 = real.

    Images are cropped in the centre to the side that the tower takes (224), with black around smaller ones,
    and never resized.
    """

    published = (
        Published("weight", {"weight": "fc.weight", "bias": "fc.bias"}),  # fc_weights.pth: the layer alone
        Published(  # what its training stores: all of OpenAI's CLIP, text tower included
            "model.visual.",
            drop=(
                "model.transformer.",
                "model.token_embedding.weight",
                "model.positional_embedding",
                "model.ln_final.",
                "model.text_projection",
                "model.logit_scale",
            ),
            convert=_from_openai,
        ),
    )

    def __init__(self, *, backbone: str = LARGE, pretrained: bool | str, classes: int = 1) -> None:
        super().__init__()
        if classes < 1:
            raise ConfigError(
                f"model.net.classes={classes} is no number of outputs: 1 (a logit) or more (k-way)"
            )
        self.pretrained = pretrained
        self.model = clip.create_vision(backbone, pretrained=pretrained)
        config: Any = self.model.config
        side = config.image_size
        self.input_spec = InputSpec(size=None, resize="none", crop=(side, side))
        self.normalize = Normalize(*CLIP)
        freezing.freeze(self.model)
        self.fc = nn.Linear(config.projection_dim, classes)
        nn.init.normal_(self.fc.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B], or [B, classes] when k-way."""
        return self.forward_features(self.frozen_features(images))

    def frozen_features(self, images: Tensor) -> Tensor:
        """As `FrozenFeatures`: what OpenAI's `encode_image` returns, [B, D], not normalised."""
        parts = stages.ClipStages(self.model)
        return stages.below(parts, self.normalize(images), len(parts.blocks) + 2)

    def forward_features(self, features: Tensor) -> Tensor:
        """As `FrozenFeatures`."""
        logits: Tensor = self.fc(features).float()
        return logits.squeeze(1) if self.fc.out_features == 1 else logits

    def cache_key(self) -> str:
        """As `FrozenFeatures`."""
        parts = stages.ClipStages(self.model)
        return stages.key_below(parts, len(parts.blocks) + 2, self.normalize.mean, self.normalize.std)

    def stored_elsewhere(self) -> frozenset[str]:
        """Names in the state dict that no checkpoint need hold: frozen, and loaded from `pretrained`."""
        return frozenset() if self.pretrained is False else frozen.untrained(self, "model.")
