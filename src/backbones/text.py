"""Prompts through a CLIP's own text tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ConfigError
from . import clip
from .weights import building_on_meta

if TYPE_CHECKING:
    from transformers import CLIPModel

_STAND_IN = 16  # tokens of a prompt while shapes are all that is wanted


def fill(templates: Sequence[str], names: Sequence[str]) -> list[str]:
    """Every name in every template; ConfigError for a template without {} and for none at all."""
    for what, values in (("templates", templates), ("class names", names)):
        if isinstance(values, str) or not values:
            raise ConfigError(
                f"the {what} of a CLIP are a list of words, not {values!r}: [{values or 'real'}]"
            )
    for template in templates:
        if "{}" not in template:
            raise ConfigError(
                f"the prompt template {template!r} has no {{}} for the name of the class: "
                f"'a photo of a {{}} image.'"
            )
    return [template.replace("{}", name) for name in names for template in templates]


def tokens(backbone: str, prompts: Sequence[str]) -> list[list[int]]:
    """The token ids of each prompt, without the marks of beginning and end."""
    tokenizer = clip.tokenizer(backbone)
    found: list[list[int]] = tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
    return found


def marks(backbone: str) -> tuple[int, int]:
    """Token ids of the beginning and the end of a prompt."""
    tokenizer = clip.tokenizer(backbone)
    return int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)


def tokens_or_shape(backbone: str, prompts: Sequence[str], model: CLIPModel) -> tuple[Tensor, Tensor]:
    """Prompts as ids int64 [N, L] with marks, padded behind the end, and the place of each end, int64 [N].

    Where shapes are all that is wanted, any ids will do, and no tokenizer is looked for.
    Raises ConfigError for a prompt longer than the text tower's context.
    """
    if building_on_meta():
        return (
            torch.zeros(len(prompts), _STAND_IN, dtype=torch.long),
            torch.zeros(len(prompts), dtype=torch.long),
        )
    start, end = marks(backbone)
    rows = [[start, *ids, end] for ids in tokens(backbone, prompts)]
    longest = max(map(len, rows))
    check_length(longest, model, prompts[[len(row) for row in rows].index(longest)])
    ids = torch.tensor([row + [end] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([len(row) - 1 for row in rows])


def check_length(length: int, model: CLIPModel, prompt: str) -> None:
    """ConfigError for a prompt of more tokens, marks included, than the text tower has places."""
    places = model.text_model.embeddings.position_embedding.num_embeddings
    if length > places:
        prompt = prompt if len(prompt) <= 60 else f"{prompt[:60]}…"
        raise ConfigError(
            f"a prompt of {length} tokens, marks of beginning and end included, is longer than the {places} "
            f"that this CLIP reads: {length - places} too many in {prompt!r}"
        )


def encode(model: CLIPModel, embedded: Tensor, ends: Tensor) -> Tensor:
    """Token embeddings [N, L, D] through the text tower and its projection: features [N, P], not normalised.

    ends: int64 [N], the place of the end mark, whose state is the feature; what follows it has no effect,
    since the tower is causal. Gradients flow to `embedded`.
    """
    from transformers.masking_utils import create_causal_mask

    tower: Any = model.text_model
    hidden = tower.embeddings(inputs_embeds=embedded)
    mask = create_causal_mask(
        config=tower.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None
    )
    states = tower.encoder(inputs_embeds=hidden, attention_mask=mask, is_causal=True).last_hidden_state
    chosen = tower.final_layer_norm(states)[torch.arange(len(ends), device=ends.device), ends]
    features: Tensor = model.text_projection(chosen)
    return features
