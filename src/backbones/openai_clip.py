"""OpenAI's own names for a CLIP image tower, which detectors built on their `clip` package publish."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_NAMES = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "ln_pre": "vision_model.pre_layrnorm",
    "ln_post": "vision_model.post_layernorm",
    "proj": "visual_projection.weight",
}
_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def image_tower(state: Mapping[str, Tensor], *, prefix: str) -> dict[str, Tensor]:
    """Tensors below `<prefix>visual.` under transformers' names below `prefix`; all others as they are.

    The names are those of CLIPModel and CLIPVisionModelWithProjection: `vision_model.…`,
    `visual_projection.weight`. One matrix in_proj [3 * d, d] becomes those of q, k and v, and proj, by which
    OpenAI multiplies from the right, is transposed.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        visual = name.removeprefix(f"{prefix}visual.")
        if visual == name:
            found[name] = value
            continue
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", visual)
        if block is None:
            found[prefix + _renamed(visual, _NAMES)] = value.T if visual == "proj" else value
            continue
        layer = f"{prefix}vision_model.encoder.layers.{block[1]}."
        if block[2] in ("attn.in_proj_weight", "attn.in_proj_bias"):
            kind = block[2].removeprefix("attn.in_proj_")
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                found[f"{layer}self_attn.{part}_proj.{kind}"] = piece
        else:
            found[layer + _renamed(block[2], _BLOCK)] = value
    return found


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """The whole name, or what stands before its last dot, replaced; else as it is, for the error to name."""
    if name in names:
        return names[name]
    module, _, kind = name.rpartition(".")
    return f"{names[module]}.{kind}" if module in names else name
