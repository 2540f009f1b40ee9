"""A causal language model that continues a visual prefix: loss and captions, for every captioner alike."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.generation import Generated, Generation, NucleusDraw, transformers_config, up_to_the_end
from ..backbones.token_loss import TokenLoss, nll, token_loss
from ..errors import ConfigError
from .tokens import CaptionEncoder


class TextDecoder(nn.Module):
    """Any causal language model of transformers behind a visual prefix.

    model: a …ForCausalLM, plain or inside a PEFT model. Whoever owns the decoder freezes it or not; gradients
        flow through a frozen one to the prefix.
    encoder: of its tokenizer; None where only shapes are wanted, and no tokenizer was looked for.
    gradient_checkpointing: keep no activations inside its layers, and compute them again on the way back.
    Raises ConfigError for a tokenizer of another language model.
    """

    def __init__(
        self, model: nn.Module, encoder: CaptionEncoder | None, *, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.encoder = encoder
        self.gradient_checkpointing = gradient_checkpointing
        plain = self.plain
        words = int(plain.get_input_embeddings().num_embeddings)
        if encoder is not None and encoder.vocabulary > words:
            raise ConfigError(
                f"the tokenizer has {encoder.vocabulary} tokens and the language model embeds {words}: they "
                f"do not belong together; take both from one directory"
            )
        # What a model's own generation_config.json says (sampling, other ends) would fill what is not given.
        plain.generation_config = type(plain.generation_config)()
        if gradient_checkpointing and not plain.supports_gradient_checkpointing:
            raise ConfigError(
                f"{type(plain).__name__} can't compute its activations again: type "
                f"model.net.gradient_checkpointing=false"
            )
        if gradient_checkpointing:
            plain.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

    @property
    def plain(self) -> Any:
        """The …ForCausalLM itself; adapters, where there are any, stand in its layers."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def width(self) -> int:
        """Length of the vectors that a prefix consists of: that of the model's embeddings."""
        return int(self.plain.get_input_embeddings().embedding_dim)

    @property
    def positions(self) -> int | None:
        """Vectors and tokens that the model has places for, None where there is no end to them."""
        found = getattr(self.plain.config, "max_position_embeddings", None)
        return int(found) if found else None

    def check_room(self, prefix_length: int, caption_length: int, key: str, instead: str) -> None:
        """ConfigError where prefix and caption together are longer than the model's positions.

        key: what to type for a shorter caption. instead: what else would make room.
        """
        places = self.positions
        if places is not None and prefix_length + caption_length > places:
            raise ConfigError(
                f"a prefix of {prefix_length} and a caption of up to {caption_length} tokens are "
                f"{prefix_length + caption_length} positions, and the language model has {places}: type "
                f"{key}={max(2, places - prefix_length)}, or {instead}"
            )

    def recompute(self, mode: bool = True) -> None:
        """Whether layers forget activations; for the owner's `train`, once a frozen model is in eval mode.

        transformers computes them again in training mode only, in which a frozen model is not. Nothing but
        the layer itself is switched; dropout inside it stays as it is.
        """
        from transformers.modeling_layers import GradientCheckpointingLayer

        if self.gradient_checkpointing:
            for layer in self.plain.modules():
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.training = mode

    def loss(self, visual: Tensor, inputs: Mapping[str, Tensor]) -> TokenLoss:
        """Negative log-likelihood of captions behind their prefixes, on caption tokens and EOS only.

        visual: float [N, P, width]. inputs: `input_ids` and `attention_mask` int64 [N, T], padded on the
        right. Logits are computed where there is a label, a few at a time, and never for the whole batch.
        """
        hidden = self._hidden(visual, inputs["input_ids"])
        there = inputs["attention_mask"].bool()
        return token_loss(self.plain.get_output_embeddings(), hidden, inputs["input_ids"], there)

    def dry_loss(self, visual: Tensor, length: int) -> Tensor:
        """A scalar that costs what the loss of captions of `length` tokens does, whatever is in them.

        For tensors that have shapes and no values (`runs.memory`): which logits there are hangs on no mask.
        """
        ids = torch.zeros(len(visual), length, dtype=torch.long, device=visual.device)
        hidden = self._hidden(visual, ids)
        return nll(self.plain.get_output_embeddings(), hidden.flatten(0, 1), ids.flatten()).sum()

    @torch.no_grad()
    def generate(self, visual: Tensor, generation: Generation) -> Generated:
        """Captions for prefixes float [B, P, width]: in one batch with a key-value cache, up to EOS.

        What a caption says depends on its own prefix (and the seed) only, not on the rest of the batch.
        Raises ConfigError where the model has too few positions.
        """
        self.check_room(
            visual.shape[1],
            generation.max_new_tokens,
            "model.generation.max_new_tokens",
            "train with more room (model.net.max_caption_length, model.net.prefix_length)",
        )
        assert self.encoder is not None, "a network that was built for its shapes writes nothing"
        encoder = self.encoder
        if not len(visual):
            nothing = torch.zeros(0, 0, dtype=torch.long, device=visual.device)
            return Generated([], nothing, nothing.sum(1))
        processors = []
        if generation.strategy == "nucleus":
            processors = [NucleusDraw(generation.top_p, generation.temperature, generation.seed)]
        embedded = visual.to(self.plain.get_input_embeddings().weight.dtype)
        config = transformers_config(generation, eos_id=encoder.eos_id, pad_id=encoder.pad_id)
        with warnings.catch_warnings():
            # That it can't be applied to a prefix without ids is what is meant.
            warnings.filterwarnings("ignore", message="Passing `repetition_penalty` with `inputs_embeds`")
            tokens: Tensor = self.plain.generate(
                inputs_embeds=embedded,
                attention_mask=torch.ones(visual.shape[:2], dtype=torch.long, device=visual.device),
                generation_config=config,
                logits_processor=processors,
            )
        return up_to_the_end(tokens, encoder.decode, eos_id=encoder.eos_id, pad_id=encoder.pad_id)

    def _hidden(self, visual: Tensor, ids: Tensor) -> Tensor:
        """The states from which each of the ids [N, T] is predicted: float [N, T, width]."""
        plain = self.plain
        embed = plain.get_input_embeddings()
        fed = torch.cat([visual.to(embed.weight.dtype), embed(ids[:, :-1])], dim=1)
        # A causal model does not look at what is padded on the right, so that it needs no mask.
        states: Tensor = plain.base_model(inputs_embeds=fed, use_cache=False).last_hidden_state
        return states[:, visual.shape[1] - 1 :]
