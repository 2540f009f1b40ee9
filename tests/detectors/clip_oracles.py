"""What the detectors on CLIP are compared with: transformers' CLIP, OpenAI's by hand, official layouts."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import CLIPModel

from detectors.conv_oracles import CLIP_MEAN, CLIP_STD, normalised


def pixel_values(images):
    """uint8 [B, 3, H, W] -> what transformers' and OpenAI's CLIP take, float32."""
    return torch.from_numpy(normalised(images, CLIP_MEAN, CLIP_STD)).float()


def whole_clip(directory):
    """transformers' CLIP of a directory, both towers, in eval mode."""
    return CLIPModel.from_pretrained(directory).eval()


def jittered(state, scale=0.05, seed=1):
    """The same names and shapes with other values, as training would have left them."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + scale * torch.randn(value.shape, generator=generator) for name, value in state.items()
    }


def openai_names(state):
    """A whole CLIP's tensors as OpenAI's package names and shapes them, the image tower below `visual.`."""
    found = {
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
        "logit_scale": state["logit_scale"],
    }
    for kind in ("weight", "bias"):
        found[f"visual.ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
        found[f"ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
        for here, there in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
            blocks = {name.split(".")[3] for name in state if name.startswith(f"{here}.encoder.layers.")}
            for number in blocks:
                mine, theirs = f"{here}.encoder.layers.{number}", f"{there}.resblocks.{number}"
                parts = [state[f"{mine}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                found[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(parts)
                for a, b in (
                    ("self_attn.out_proj", "attn.out_proj"),
                    ("layer_norm1", "ln_1"),
                    ("layer_norm2", "ln_2"),
                    ("mlp.fc1", "mlp.c_fc"),
                    ("mlp.fc2", "mlp.c_proj"),
                ):
                    found[f"{theirs}.{b}.{kind}"] = state[f"{mine}.{a}.{kind}"]
    return found


def openai_encode_image(state, images, heads):
    """`encode_image` from OpenAI's tensors: normalised [B, 3, H, W] -> (features, class tokens of ln_2)."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"visual.{name}.weight"], state[f"visual.{name}.bias"])

    def linear(x, name):
        return F.linear(x, state[f"visual.{name}.weight"], state[f"visual.{name}.bias"])

    conv = state["visual.conv1.weight"]
    x = F.conv2d(images, conv, stride=conv.shape[-1]).flatten(2).transpose(1, 2)
    start = state["visual.class_embedding"].expand(len(x), 1, -1)
    x = norm(torch.cat([start, x], dim=1) + state["visual.positional_embedding"], "ln_pre")
    tokens = []
    for number in range(sum(name.endswith("ln_1.weight") and "visual" in name for name in state)):
        block = f"transformer.resblocks.{number}"
        attention = torch.nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
        attention.load_state_dict(
            {
                name.split(".attn.")[1]: value
                for name, value in state.items()
                if f"visual.{block}.attn." in name
            }
        )
        y = norm(x, f"{block}.ln_1")
        x = x + attention(y, y, y, need_weights=False)[0]
        y = norm(x, f"{block}.ln_2")
        tokens.append(y[:, 0])
        y = linear(y, f"{block}.mlp.c_fc")
        x = x + linear(y * torch.sigmoid(1.702 * y), f"{block}.mlp.c_proj")  # QuickGELU
    features = norm(x[:, 0], "ln_post") @ state["visual.proj"]
    return features.detach(), torch.stack(tokens, dim=1).detach()
