"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL as a whole, with tokenizer and chat template, by hub id or directory.

A directory holds what the hub does (`tapetum tiny qwen_vl DIR` writes one). No code of a repository is ever
run. Their vision tower, its preprocessing and its patches are told in `qwen_vl`.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ConfigError
from . import qwen_vl, repository, whole_models
from .repository import Kind, read_json
from .whole_models import Dtype

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT = qwen_vl.DEFAULT

_KIND = Kind("Qwen-VL", DEFAULT, "qwen_vl")

_QWEN2: dict[str, Any] = {
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
}
_QWEN2_7B = {
    **_QWEN2,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
_QWEN3: dict[str, Any] = {
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5000000.0,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}

PUBLISHED: dict[str, tuple[dict[str, Any], bool, list[int]]] = {
    "Qwen/Qwen2-VL-2B-Instruct": (
        {**_QWEN2, "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12},
        True,
        [],
    ),
    "Qwen/Qwen2-VL-7B-Instruct": (_QWEN2_7B, False, []),
    "Qwen/Qwen2.5-VL-3B-Instruct": (
        {
            **_QWEN2,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "max_position_embeddings": 128000,
        },
        True,
        [],
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": ({**_QWEN2_7B, "max_position_embeddings": 128000}, False, []),
    "Qwen/Qwen3-VL-2B-Instruct": (
        {
            **_QWEN3,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
        },
        True,
        [5, 11, 17],
    ),
    "Qwen/Qwen3-VL-4B-Instruct": (
        {**_QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32},
        True,
        [5, 11, 17],
    ),
    "Qwen/Qwen3-VL-8B-Instruct": (
        {**_QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32},
        False,
        [8, 16, 24],
    ),
}
"""Of the published files: the language model, whether its embeddings are the output's too, and the vision
blocks with a deepstack merger; the rest stands in `qwen_vl.PUBLISHED`."""


def read_config(backbone: str = DEFAULT) -> PreTrainedConfig:
    """The whole architecture: of the directory, the hub's cache, `PUBLISHED`, or fetched.

    Raises ConfigError for what is no Qwen-VL.
    """
    qwen_vl.read_config(backbone)  # says what is wrong with a backbone that is none
    file = repository.find(backbone, "config.json", _KIND)
    if file is None and backbone not in PUBLISHED:
        file = repository.fetch(backbone, "config.json", _KIND)
    content = _published(backbone) if file is None else read_json(file)
    config: Any = repository.parsed(_class(content["model_type"], "Config"), content, backbone, _KIND)
    if getattr(config.text_config, "use_sliding_window", False):
        raise ConfigError(
            f"model.net.backbone={backbone} has a language model with sliding windows "
            f"(use_sliding_window), which no published Qwen-VL has and tapetum does not run"
        )
    return config  # type: ignore[no-any-return]  # transformers' config classes have no annotations


def create(
    backbone: str = DEFAULT,
    *,
    pretrained: bool | str,
    dtype: Dtype = "float32",
    quantization_config: Any = None,
) -> PreTrainedModel:
    """transformers' Qwen…ForConditionalGeneration in eval mode; see `whole_models.create`."""
    config = read_config(backbone)
    return whole_models.create(
        _class(config.model_type, "ForConditionalGeneration"),
        config,
        backbone,
        _KIND,
        pretrained=pretrained,
        dtype=dtype,
        quantization_config=quantization_config,
    )


def tokenizer(backbone: str = DEFAULT) -> PreTrainedTokenizerBase:
    """The model's tokenizer with its chat template, of which some repositories have a file of its own.

    Raises CheckpointError where its files are absent, ConfigError for the tokenizer of another model.
    """
    found = whole_models.tokenizer(backbone, _KIND)
    config: Any = read_config(backbone)
    if found.chat_template is None and (file := repository.find(backbone, "chat_template.json", _KIND)):
        found.chat_template = read_json(file).get("chat_template")
    there: dict[int, Any] = found.added_tokens_decoder
    if config.image_token_id not in there or len(found) > config.text_config.vocab_size:
        raise ConfigError(
            f"the tokenizer of model.net.backbone={backbone} belongs to another model: its {len(found)} "
            f"tokens have no mark of an image at {config.image_token_id}, or are more than the "
            f"{config.text_config.vocab_size} that the language model embeds; take config.json and "
            f"tokenizer.json from one directory"
        )
    return found


def can_read(backbone: str) -> bool:
    """Whether the tokenizer of a Qwen-VL is on this machine."""
    return whole_models.has_tokenizer(backbone, _KIND)


def check_weights(backbone: str, pretrained: bool | str) -> None:
    """Raise CheckpointError where tokenizer or weights are neither here nor on the hub; nothing is read."""
    whole_models.check_weights(backbone, _KIND, pretrained)


def copy_files(backbone: str, directory: Path) -> list[Path]:
    """See `whole_models.copy_files`; a Qwen-VL has a processor for films too."""
    return whole_models.copy_files(backbone, _KIND, directory, ("video_preprocessor_config.json",))


def rope_positions(shown: Tensor, mask: Tensor, grid: Tensor) -> Tensor:
    """Positions of time, height and width, int64 [3, N, T] (Qwen2-VL's M-RoPE), any number on padding.

    Along a text all three count on. An image's tokens lie on a grid that begins at the next number, and
    what follows begins behind its longer side.
    shown: bool [N, T], image tokens. mask: int64 [N, T], 0 on padding. grid: int64 [M, 2], rows and columns
    of the images' tokens, in the order in which the batch shows them.
    """
    rows, columns = grid.unbind(1)
    sizes = rows * columns
    ends = sizes.cumsum(0)
    number = (shown.flatten().cumsum(0) - 1).clamp(min=0)  # of an image token among those of the batch
    image = torch.searchsorted(ends, number, right=True).clamp(max=len(grid) - 1)
    within = number - (ends - sizes)[image]
    behind = torch.where(within == sizes[image] - 1, torch.maximum(rows, columns)[image], 0)
    step = torch.where(shown, behind.view_as(mask), 1) * mask
    place = torch.stack([torch.zeros_like(within), within // columns[image], within % columns[image]])
    return (step.cumsum(1) - step) + place.view(3, *mask.shape) * shown


def _published(backbone: str) -> dict[str, Any]:
    """What its config.json holds."""
    model_type, vision = qwen_vl.PUBLISHED[backbone]
    text, tied, deepstack = PUBLISHED[backbone]
    return {
        "model_type": model_type,
        "vision_config": {**vision, **({"deepstack_visual_indexes": deepstack} if deepstack else {})},
        "text_config": deepcopy(text),  # transformers completes what stands in it
        "tie_word_embeddings": tied,
    }


def _class(model_type: str, suffix: str) -> Any:
    import transformers

    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
    return getattr(transformers, f"{names[model_type]}{suffix}")
