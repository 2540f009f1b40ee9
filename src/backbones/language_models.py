"""Causal language models of Hugging Face, by hub id or from a directory: Qwen3, GPT-2 and the like.

A directory holds what the hub does: `config.json`, the weights, the tokenizer's files (`tapetum tiny qwen3
DIR` writes one). Files are taken from the directory or the hub's cache, and fetched where they are in
neither; no code of a repository is ever run. Yang et al. 2025 (Qwen3), Radford et al. 2019 (GPT-2), and
transformers' classes of these and others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ConfigError
from . import repository, whole_models
from .repository import Kind, is_directory, read_json
from .weights import building_on_meta
from .whole_models import Dtype, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT = "Qwen/Qwen3-0.6B-Base"

_QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-0.6B-Base": {
        **_QWEN3,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-1.7B-Base": {
        **_QWEN3,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-4B-Base": {
        **_QWEN3,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-8B-Base": {
        **_QWEN3,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
    "openai-community/gpt2": {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    },
}
"""The config.json of published models, so that their widths are known without a network."""

_ALIASES = {"gpt2": "openai-community/gpt2"}  # as the hub itself forwards it
_KIND = Kind(
    "language model", DEFAULT, "qwen3", "model.net.language_model", "model.net.language_model_pretrained"
)
_PLAIN = ("qwen3", "gpt2")  # known to be what `_check_behaviour` asks for
_NAME_ONE = f"Name one such as {DEFAULT}, or a directory that tapetum tiny qwen3 DIR has written"


def create(
    language_model: str = DEFAULT, *, pretrained: bool | str, dtype: Dtype = "float32"
) -> PreTrainedModel:
    """transformers' …ForCausalLM of a language model, in eval mode.

    language_model: a hub id, or a directory with the hub's files; its config is the architecture.
    pretrained: False for random weights, True for those of `language_model`, or the path of other weights of
        this architecture: a file, or a directory with one.
    dtype: of the weights; `bfloat16` halves a frozen model.
    Under `torch.device("meta")` the architecture is built and no weight is read.
    Raises ConfigError for what is no causal language model, CheckpointError where files are absent or do not
    fit.
    """
    config = read_config(language_model)
    model = whole_models.create(
        _model_class(config, language_model),
        config,
        _id(language_model),
        _KIND,
        pretrained=pretrained,
        dtype=dtype,
    )
    if config.model_type not in _PLAIN and not building_on_meta():
        _check_behaviour(model, language_model)
    return model


def read_config(language_model: str = DEFAULT) -> PreTrainedConfig:
    """The architecture: of the directory, the hub's cache, `PUBLISHED`, or fetched from the hub."""
    from transformers import CONFIG_MAPPING

    name = _id(language_model)
    file = repository.find(name, "config.json", _KIND)
    content = PUBLISHED.get(name) if file is None else None
    if content is None:
        file = file or repository.fetch(name, "config.json", _KIND)
        if file is None:
            raise ConfigError(
                f"model.net.language_model={language_model} is no language model: it has no config.json. "
                f"{_NAME_ONE}"
            )
        content = read_json(file)
    kind = str(content.get("model_type"))
    if kind not in CONFIG_MAPPING:
        own = ", and its code is its own, which tapetum never runs" if "auto_map" in content else ""
        raise ConfigError(
            f"model.net.language_model={language_model} is unknown to transformers: its config.json says "
            f"model_type={kind!r}{own}. {_NAME_ONE}"
        )
    config: PreTrainedConfig = repository.parsed(CONFIG_MAPPING[kind], content, language_model, _KIND)
    _model_class(config, language_model)
    return config


def tokenizer(language_model: str = DEFAULT) -> PreTrainedTokenizerBase:
    """transformers' tokenizer of a language model; CheckpointError where its files are absent."""
    return whole_models.tokenizer(_id(language_model), _KIND)


def check_weights(language_model: str, pretrained: bool | str) -> None:
    """Raise CheckpointError where a tokenizer, or weights that are wanted, are neither here nor on the hub.

    Nothing is read or fetched. Paths are looked at when the architecture is built.
    """
    whole_models.check_weights(_id(language_model), _KIND, pretrained)


# --- what a decoder behind a prefix needs ---


def _model_class(config: PreTrainedConfig, language_model: str) -> Any:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, "")
    causal = name.endswith(("ForCausalLM", "LMHeadModel")) and getattr(config, "is_decoder", True)
    if not causal or getattr(config, "is_encoder_decoder", False):
        says = f"model_type={config.model_type!r}"
        says += f" and architectures={config.architectures}" if config.architectures else ""
        raise ConfigError(
            f"model.net.language_model={language_model} is no causal language model: its config.json says "
            f"{says}. {_NAME_ONE}"
        )
    return getattr(transformers, name)


@torch.no_grad()
def _check_behaviour(model: PreTrainedModel, language_model: str) -> None:
    """Of a type that nobody has looked at: it takes vectors, looks back only, and its logits are plain."""
    whole: Any = model
    if whole.get_output_embeddings() is None:
        problem = "it has no output embeddings"
    elif getattr(model.config, "final_logit_softcapping", None):
        problem = "its logits are capped (final_logit_softcapping)"
    else:
        try:
            problem = _odd(whole, torch.Generator().manual_seed(0))
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            problem = f"it fails on vectors in place of tokens ({one_line(error)})"
    if problem:
        raise ConfigError(
            f"model.net.language_model={language_model} (model_type={model.config.model_type!r}) can't "
            f"continue a visual prefix here: {problem}. {_NAME_ONE}"
        )


def _odd(model: Any, drawn: torch.Generator) -> str:
    """What is wrong with what it makes of three vectors."""
    embed, head = model.get_input_embeddings(), model.get_output_embeddings()
    fed = torch.randn(1, 3, embed.embedding_dim, generator=drawn).to(embed.weight)
    states = model.base_model(inputs_embeds=fed, use_cache=False).last_hidden_state
    logits = model(inputs_embeds=fed, use_cache=False).logits
    changed = torch.cat([fed[:, :2], -fed[:, 2:]], dim=1)
    if _differ(states[:, :2], model.base_model(inputs_embeds=changed).last_hidden_state[:, :2], 1e-6):
        return "what it says of a token depends on the tokens behind it"
    if states.shape[-1] != head.weight.shape[1] or _differ(head(states), logits, 0.02):
        return "its logits are not its output embeddings times its last states"
    return ""


def _differ(one: Tensor, other: Tensor, share: float) -> bool:
    return bool((one - other).abs().max() > share * one.abs().max())


# --- files ---


def _id(language_model: str) -> str:
    return language_model if is_directory(language_model) else _ALIASES.get(language_model, language_model)
