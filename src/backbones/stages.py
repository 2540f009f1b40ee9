"""A vision transformer as what runs one after another: stem, blocks, pooling.

Whatever lies below the first parameter that trains runs under `no_grad`, and its output can be kept. A
transformer of Hugging Face's CLIP and one of timm look alike from here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..errors import ConfigError
from .frozen import weights_hash


class Stages(Protocol):
    """A view on a tower: it holds no weights of its own and is made anew where it is needed."""

    named: Sequence[tuple[str, nn.Parameter]]
    """All parameters of the image tower."""
    blocks: Sequence[nn.Module]
    above: Sequence[nn.Module]
    """Modules behind the last block."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> tokens [B, N, D] that enter the first block."""

    @abstractmethod
    def run(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] through one block."""

    @abstractmethod
    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] that left the last block -> features [B, W]."""


class ClipStages(Stages):
    """The image half of transformers' CLIPModel, or CLIPVisionModelWithProjection."""

    def __init__(self, tower: Any) -> None:
        self._vision = tower.vision_model
        self._projection = tower.visual_projection
        self.named = [
            (f"{half}.{name}", value)
            for half in ("vision_model", "visual_projection")
            for name, value in getattr(tower, half).named_parameters()
        ]
        self.blocks = list(self._vision.encoder.layers)
        self.above = [self._vision.post_layernorm, self._projection]

    def embed(self, images: Tensor) -> Tensor:
        """Raises ConfigError for images of another size than the position embeddings are for."""
        side = self._vision.config.image_size
        if tuple(images.shape[2:]) != (side, side):
            raise ConfigError(
                f"this CLIP takes images of {side}x{side} pixels, not {images.shape[2]}x{images.shape[3]}: "
                f"leave model.geometry as it is, or give a crop of [{side},{side}]"
            )
        tokens: Tensor = self._vision.pre_layrnorm(self._vision.embeddings(images))
        return tokens

    def run(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """As CLIPEncoder does."""
        out: Tensor = block(tokens, None)
        return out

    def pool(self, tokens: Tensor) -> Tensor:
        """The class token, normalised and projected: `image_embeds`."""
        features: Tensor = self._projection(self._vision.post_layernorm(tokens[:, 0]))
        return features


class TimmStages(Stages):
    """timm's VisionTransformer, as which it also has the towers of open_clip."""

    def __init__(self, vit: Any) -> None:
        self._vit = vit
        self.named = list(vit.named_parameters())
        self.blocks = list(vit.blocks)
        self.above = [vit.norm, vit.fc_norm, vit.head, *([vit.attn_pool] if vit.attn_pool else [])]

    def embed(self, images: Tensor) -> Tensor:
        """As VisionTransformer.forward_features does before its blocks."""
        vit = self._vit
        tokens: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        return tokens

    def run(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """As VisionTransformer.forward_features does."""
        out: Tensor = block(tokens)
        return out

    def pool(self, tokens: Tensor) -> Tensor:
        """Pooled as the tower was trained, and projected where it has a head."""
        features: Tensor = self._vit.forward_head(self._vit.norm(tokens))
        return features


def stages(tower: nn.Module) -> Stages:
    """The stages of a CLIP or timm tower, plain or inside a PEFT model.

    Raises ConfigError for what is no vision transformer.
    """
    wrapped: Any = tower
    plain = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
    if hasattr(plain, "visual_projection"):
        return ClipStages(plain)
    if isinstance(plain, VisionTransformer):
        return TimmStages(plain)
    raise ConfigError(
        f"{type(plain).__name__} is no vision transformer that can be cut between its blocks: for other "
        f"networks of timm type model=timm_backbone model.net.name=…"
    )


def stem(parts: Stages) -> list[tuple[str, nn.Parameter]]:
    """Parameters in front of the first block, by name."""
    later = {id(value) for module in (*parts.blocks, *parts.above) for value in module.parameters()}
    return [(name, value) for name, value in parts.named if id(value) not in later]


def first_trained(parts: Stages) -> int:
    """Where the autograd graph starts: 0 in the stem, i + 1 in block i, n + 1 behind, n + 2 nowhere."""
    groups = [
        [value for _, value in stem(parts)],
        *([*block.parameters()] for block in parts.blocks),
        [value for module in parts.above for value in module.parameters()],
    ]
    for place, group in enumerate(groups):
        if any(value.requires_grad for value in group):
            return place
    return len(groups)


def below(parts: Stages, images: Tensor, start: int) -> Tensor:
    """Normalised images through the stages in front of stage `start`, under `no_grad`.

    Images [B, 3, H, W] themselves for 0, tokens [B, N, D], or features [B, W] for n + 2.
    """
    with torch.no_grad():
        return _through(parts, images, 0, start)


def above(parts: Stages, tokens: Tensor, start: int) -> Tensor:
    """What `below` returned through the other stages: features [B, W]."""
    return _through(parts, tokens, start, len(parts.blocks) + 2)


def key_below(parts: Stages, start: int, *facts: object) -> str:
    """Hash of the weights in front of stage `start`, and of what else decides what they compute."""
    frozen = {id(value) for _, value in stem(parts)}
    frozen |= {id(value) for block in parts.blocks[: start - 1] for value in block.parameters()}
    if start > len(parts.blocks) + 1:
        frozen |= {id(value) for module in parts.above for value in module.parameters()}
    named = [(name, value) for name, value in parts.named if id(value) in frozen]
    return weights_hash(named, start, *facts)


def _through(parts: Stages, value: Tensor, start: int, stop: int) -> Tensor:
    for stage in range(start, stop):
        if stage == 0:
            value = parts.embed(value)
        elif stage <= len(parts.blocks):
            value = parts.run(parts.blocks[stage - 1], value)
        else:
            value = parts.pool(value)
    return value
