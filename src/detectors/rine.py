"""RINE (Koutlis and Papadopoulos, "Leveraging Representations from Intermediate Encoder-blocks for Synthetic
Image Detection", ECCV 2024).

CLIP's last layer keeps what an image shows and drops how it was made; the blocks before it still know. RINE
takes the class token of every block of the frozen tower, projects it, weighs the blocks feature by feature,
and judges the sum. Trained with the sum of cross-entropies plus xi times a supervised contrastive loss on the
vector that is judged (`modules.supcon`): Adam 1e-3, batch 128, one epoch.
Parameter names are those of the published files (mever-team/rine), which hold all but the tower.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import clip, freezing, frozen, stages
from ..backbones.weights import check_loaded, expect_weights
from ..errors import ConfigError, ImageError
from ..images.geometry import InputSpec
from ..images.normalize import CLIP, Normalize

LARGE = "openai/clip-vit-large-patch14"


class RINE(freezing.KeepsFrozen):
    """All blocks of a frozen CLIP under a trained head.

    backbone: a CLIP on the hub, or a directory with one; `openai/clip-vit-large-patch14` as published.
    pretrained: True for its weights, a path for others, False for random ones (see `backbones.clip`).
    nproj, proj_dim: layers and width of the two projections, q and d' of the paper. Trained parameters on
        ViT-L/14: 10,521,601 with 4 and 1024, 6,323,201 with 2 and 1024, 283,009 with 4 and 128.
    ten_crop: for prediction, judge an image by the mean of the logits of its corners and centre, each
        mirrored too, as the published evaluation of the LDM-trained model does; images then come whole, one
        a batch where their sizes differ. Otherwise they are cropped in the centre to the side that the tower
        takes (224), with black around smaller ones. Nothing is ever resized.
    """

    def __init__(
        self,
        *,
        backbone: str = LARGE,
        pretrained: bool | str,
        nproj: int = 4,
        proj_dim: int = 1024,
        ten_crop: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("nproj", nproj), ("proj_dim", proj_dim)):
            if value < 1:
                raise ConfigError(f"model.net.{name}={value} must be at least 1")
        self.pretrained = pretrained
        self.clip = clip.create_vision(backbone, pretrained=pretrained)
        config: Any = self.clip.config
        self.side: int = config.image_size
        crop = None if ten_crop else (self.side, self.side)
        self.input_spec = InputSpec(size=None, resize="none", crop=crop)
        self.ten_crop = ten_crop
        self.normalize = Normalize(*CLIP)
        freezing.freeze(self.clip)
        self.alpha = nn.Parameter(torch.randn(1, config.num_hidden_layers, proj_dim))
        self.proj1 = _projection(config.hidden_size, proj_dim, nproj)
        self.proj2 = _projection(proj_dim, proj_dim, nproj)
        self.head = nn.Sequential(
            nn.Linear(proj_dim, proj_dim),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(proj_dim, proj_dim),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(proj_dim, 1),
        )
        if ten_crop:
            expect_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B].

        Raises ImageError for an image that is smaller than one of ten crops, CheckpointError where a network
        that predicts from ten has no weights, and ConfigError where it is trained.
        """
        if self.ten_crop:
            if self.training:
                raise ConfigError(
                    "model.net.ten_crop=true is for prediction: train with model.net.ten_crop=false"
                )
            check_loaded(self)
        return self.forward_features(self.frozen_features(images))

    def frozen_features(self, images: Tensor) -> Tensor:
        """As `FrozenFeatures`: class tokens [B, blocks, width], of ten crops [B, 10, blocks, width]."""
        parts = stages.ClipStages(self.clip)
        if not self.ten_crop:
            return block_tokens(parts, self.normalize(images))
        crops = ten_crops(images, self.side).flatten(0, 1)
        tokens = block_tokens(parts, self.normalize(crops))
        return tokens.view(-1, 10, *tokens.shape[1:])

    def forward_features(self, features: Tensor) -> Tensor:
        """As `FrozenFeatures`."""
        if features.ndim == 4:
            return self.forward_features(features.flatten(0, 1)).view(-1, 10).mean(dim=1)
        logits: Tensor = self.head(self.representation(features)).float()
        return logits.squeeze(1)

    def cache_key(self) -> str:
        """As `FrozenFeatures`."""
        parts = stages.ClipStages(self.clip)
        facts = ("layer_norm2", self.ten_crop, self.normalize.mean, self.normalize.std)
        return stages.key_below(parts, len(parts.blocks) + 2, *facts)

    def representation(self, tokens: Tensor) -> Tensor:
        """Class tokens [B, blocks, width] -> z [B, proj_dim], the vector that the head judges."""
        blocks = torch.softmax(self.alpha, dim=1) * self.proj1(tokens)
        z: Tensor = self.proj2(blocks.sum(dim=1))
        return z

    def stored_elsewhere(self) -> frozenset[str]:
        """Names in the state dict that no checkpoint need hold: frozen, and loaded from `pretrained`."""
        return frozenset() if self.pretrained is False else frozen.untrained(self, "clip.")


@torch.no_grad()
def block_tokens(parts: stages.ClipStages, images: Tensor) -> Tensor:
    """The class token of every block, normalised as its MLP receives it (OpenAI's `ln_2`).

    Normalised float [B, 3, H, W] -> [B, blocks, width].
    """
    x = parts.embed(images)
    tokens = []
    block: Any
    for block in parts.blocks:
        x = x + block.self_attn(block.layer_norm1(x))[0]
        normed = block.layer_norm2(x)
        tokens.append(normed[:, 0])
        x = x + block.mlp(normed)
    return torch.stack(tokens, dim=1)


def ten_crops(images: Tensor, side: int) -> Tensor:
    """[B, C, H, W] -> [B, 10, C, side, side]: four corners and the centre, then all of them mirrored."""
    height, width = images.shape[-2:]
    if min(height, width) < side:
        raise ImageError(
            f"an image of {height}x{width} pixels (height x width) is smaller than the ten crops of "
            f"{side}x{side} that model.net.ten_crop=true takes: with model.net.ten_crop=false there is black "
            "around it"
        )
    bottom, right = height - side, width - side
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]
    plain, mirrored = (
        torch.stack([one[..., y : y + side, x : x + side] for y, x in corners], dim=1)
        for one in (images, images.flip(-1))
    )
    return torch.cat([plain, mirrored], dim=1)


def _projection(width: int, proj_dim: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Dropout()]
    for number in range(layers):
        parts += [nn.Linear(proj_dim if number else width, proj_dim), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*parts)
