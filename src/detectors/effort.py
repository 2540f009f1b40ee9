"""Effort (Yan et al., "Orthogonal Subspace Decomposition for Generalizable AI-Generated Image Detection",
ICML 2025).

Fine-tuning CLIP on fakes overwrites what it knows. Effort splits every matrix of its self-attention by
singular values: the largest n - 1, which carry that knowledge, stay as they are, and only the last is
trained, in a direction that the others leave free. Before training the network is plain CLIP.
Images smaller than 256 are tiled, none is resized or degraded: AdamW 2e-4, no weight decay, batch 48.
Parameter names are those of the files that were trained on ProGAN (YZY-stack/Effort-AIGI-Detection,
UniversalFakeDetect_Benchmark).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones import clip, freezing, frozen
from ..backbones.weights import Published
from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..images.normalize import CLIP, Normalize

LARGE = "openai/clip-vit-large-patch14"

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class Effort(freezing.KeepsFrozen):
    """CLIP's image tower with split self-attention, 197,729 trained parameters on ViT-L/14.

    backbone: a CLIP on the hub, or a directory with one; `openai/clip-vit-large-patch14` as published.
    pretrained: True for its weights, a path for others, False for random ones (see `backbones.clip`). Random
        ones know nothing to be kept and are not split, which saves time where a whole file is loaded anyway.
    classes: 1 for one logit (positive means generated), as in the file trained on ProGAN; 2, as in the one
        trained on GenImage, whose logit is z_generated - z_real; k > 2 for k-way attribution, class 0 = real.

    Images are tiled up to 8/7 of the side that the tower takes (256 for 224) and cropped in the centre.
    """

    published = (
        Published(  # whole CLIPs, of which Effort uses the image tower without its projection
            "model.vision_model.",
            drop=(
                "model.vision_model.embeddings.position_ids",
                "model.text_model.",
                "model.text_projection.",
                "model.visual_projection.",
                "model.logit_scale",
            ),
        ),
        Published(  # those of its DeepfakeBench, GenImage's among them
            "backbone.",
            {"backbone.": "model.vision_model.", "head.": "fc."},
            drop=("backbone.embeddings.position_ids",),
        ),
    )

    def __init__(self, *, backbone: str = LARGE, pretrained: bool | str, classes: int = 1) -> None:
        super().__init__()
        if classes < 1:
            raise ConfigError(f"model.net.classes={classes} is no number of outputs: 1 (a logit) or more")
        self.pretrained = pretrained
        self.model = clip.create_vision(backbone, pretrained=pretrained)
        del self.model.visual_projection
        config: Any = self.model.config
        self.side: int = config.image_size
        least = self.side * 8 // 7
        self.input_spec = InputSpec(size=(least, least), resize="tile", crop=(self.side, self.side))
        self.normalize = Normalize(*CLIP)
        freezing.freeze(self.model)
        for block in self.model.vision_model.encoder.layers:
            for name in PROJECTIONS:
                linear = getattr(block.self_attn, name)
                setattr(block.self_attn, name, SVDResidualLinear(linear, split=pretrained is not False))
        self.fc = nn.Linear(config.hidden_size, classes)
        nn.init.normal_(self.fc.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B], or [B, classes] when k-way.

        Raises ConfigError for images of another size than the tower's.
        """
        side = self.side
        if images.shape[2:] != (side, side):
            raise ConfigError(
                f"this CLIP takes images of {side}x{side} pixels, not {images.shape[2]}x{images.shape[3]}: "
                f"leave model.geometry as it is, or give a crop of [{side},{side}]"
            )
        features = self.model.vision_model(self.normalize(images)).pooler_output
        logits: Tensor = self.fc(features).float()
        if self.fc.out_features == 2:
            return logits[:, 1] - logits[:, 0]
        return logits.squeeze(1) if self.fc.out_features == 1 else logits

    def stored_elsewhere(self) -> frozenset[str]:
        """Names in the state dict that no checkpoint need hold: frozen, and loaded from `pretrained`."""
        return frozenset() if self.pretrained is False else frozen.untrained(self, "model.")


class SVDResidualLinear(nn.Module):
    """A linear layer W = W_main + U diag(S) V, of which W_main and the bias stay as they are.

    linear: the layer that it replaces. split: whether U, S, V are its last singular triplet and W_main the
        rest, else W_main is all of it, S is 0, and U, V are random directions.
    [..., in] -> [..., out]; U is [out, 1], S [1], V [1, in]. Computes as the layer did until U, S, V change.
    """

    def __init__(self, linear: nn.Linear, *, split: bool) -> None:
        super().__init__()
        weight = linear.weight.detach()
        if split and not weight.is_meta:
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            main = (u[:, :-1] * s[:-1]) @ v[:-1]
            u, s, v = u[:, -1:].clone(), s[-1:].clone(), v[-1:].clone()
        else:
            main = weight
            u = F.normalize(torch.randn_like(weight[:, :1]), dim=0)
            v = F.normalize(torch.randn_like(weight[:1]), dim=1)
            s = torch.zeros_like(weight[0, :1])
        self.weight_main = nn.Parameter(main, requires_grad=False)
        self.bias = linear.bias
        self.S_residual = nn.Parameter(s)
        self.U_residual = nn.Parameter(u)
        self.V_residual = nn.Parameter(v)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight = self.weight_main + (self.U_residual * self.S_residual) @ self.V_residual
        return F.linear(x, weight, self.bias)
