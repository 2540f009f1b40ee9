"""What all vision-language models share: the loss of answers, and the scores of candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..backbones import adapters
from ..backbones.freezing import KeepsFrozen
from ..backbones.generation import Generated, Generation
from ..backbones.token_loss import TokenLoss, nll, token_loss
from ..errors import ConfigError
from ..images.geometry import InputSpec
from .encoding import IGNORED, Encoder
from .last_layer import at_places

Part = Literal["frozen", "lora", "trained"]

Inputs = Mapping[str, Tensor]
"""What an `Encoder` returns, on the network's device."""


class VisionLanguageModel(KeepsFrozen, ABC):
    """Images and a conversation in, an answer out.

    model: transformers' …ForConditionalGeneration, plain or inside a PEFT model. parts: whether `vision`,
    `projector`, `language` and so on are frozen, have adapters or are trained. A network says how its
    images become vectors (`forward`), how these and tokens become states (`states`), and how it writes.
    """

    input_spec: InputSpec
    model: nn.Module
    pretrained: bool | str
    parts: Mapping[str, Part]
    gradient_checkpointing: bool
    quantization: str | None
    max_target_token_length: int

    @property
    def plain(self) -> Any:
        """The …ForConditionalGeneration itself; adapters, where there are any, stand in its layers."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    @abstractmethod
    def text_model(self) -> nn.Module:
        """The language model's layers, where activations may be forgotten."""

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """The language model's output embeddings, [words, width]."""

    @abstractmethod
    def encode_fn(self, size: tuple[int, int]) -> Encoder:
        """Conversations to ids for images of `size` (height, width)."""

    @abstractmethod
    def forward(self, images: Tensor, inputs: Inputs) -> Tensor:
        """Images [M, 3, H, W], uint8 or float in [0, 1], -> visual features float [M, …].

        They are those of all conversations of the inputs, in the order in which these show them.
        """

    @abstractmethod
    def positions(self, inputs: Inputs) -> Tensor:
        """int64 [N, T], or [3, N, T] for three axes: places of the tokens, any number on padding."""

    @abstractmethod
    def states(
        self,
        visual: Tensor,
        inputs: Inputs,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The language model's last states, float [N, T, width], of `input_ids` with the images in them.

        visual: what `forward` returned. positions: None for `positions(inputs)`.
        mask: float [N, 1, T, T], added to attention scores; None for a causal one. Padding stands on the
        right, where a causal model does not look, and needs none.
        """

    @abstractmethod
    def generate(self, visual: Tensor, prompts: Inputs, generation: Generation) -> Generated:
        """Answers to prompts, in one batch with a key-value cache, up to the end token.

        What an answer says depends on its own prompt and images alone, not on the rest of the batch.
        """

    # --- what follows from these ---

    def loss(self, visual: Tensor, inputs: Inputs) -> TokenLoss:
        """Negative log-likelihood of each conversation's answers, end tokens included.

        Logits are computed where there is a label, a few at a time, and never for the whole batch.
        """
        labels = inputs["labels"][:, 1:]
        return token_loss(self.head, self.states(visual, inputs)[:, :-1], labels, labels != IGNORED)

    def score(self, visual: Tensor, prompts: Inputs, candidates: Sequence[Sequence[int]]) -> Tensor:
        """float32 [N, K]: log-likelihood of each candidate behind each prompt, summed over its tokens.

        One forward, whatever the number of candidates: behind the prompt stand the tokens of all of them,
        each of which sees the prompt and its own candidate (a tree, Cai et al. 2024); of candidates of one
        token nothing is fed but the prompt. The last layer ends with its attention but for the places
        whose logits are asked.
        candidates: their tokens, the same behind each prompt.
        """
        ids, lengths = prompts["input_ids"], prompts["attention_mask"].sum(1)
        count, width = ids.shape
        fed = [list(one[:-1]) for one in candidates]
        tree = self._tree(prompts, fed) if any(fed) else {}
        whole = width + sum(map(len, fed))
        behind = torch.arange(width, whole, device=ids.device).expand(count, -1)
        with at_places(self._last_layer(), torch.cat([lengths[:, None] - 1, behind], dim=1), whole):
            hidden = self.states(visual, {**prompts, "input_ids": tree.pop("ids", ids)}, **tree)
        rows = torch.arange(count, device=ids.device)
        first = self._log_likelihoods(hidden[rows, lengths - 1])
        totals, place = [], width
        for tokens, inner in zip(candidates, fed, strict=True):
            total = first[:, tokens[0]]
            for number, token in enumerate(tokens[1:]):
                total = total + self._log_likelihoods(hidden[:, place + number])[:, token]
            totals.append(total)
            place += len(inner)
        return torch.stack(totals, dim=1)

    def _last_layer(self) -> nn.Module:
        from transformers.modeling_layers import GradientCheckpointingLayer

        layers = [one for one in self.text_model.modules() if isinstance(one, GradientCheckpointingLayer)]
        return layers[-1]

    def _log_likelihoods(self, hidden: Tensor) -> Tensor:
        """float32 [N, words] of the next token."""
        logits: Tensor = self.head(hidden)
        return logits.float().log_softmax(-1)

    def _tree(self, prompts: Inputs, branches: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """ids int64 [N, T + E], positions and mask of prompts with the tokens of all branches behind them."""
        ids, there = prompts["input_ids"], prompts["attention_mask"].bool()
        count, width = ids.shape
        extra = torch.tensor([token for branch in branches for token in branch], device=ids.device)
        depth = torch.tensor([step for branch in branches for step in range(len(branch))], device=ids.device)
        owner = torch.tensor(
            [number for number, branch in enumerate(branches) for _ in branch], device=ids.device
        )
        whole = width + len(extra)
        sees = torch.zeros(count, whole, whole, dtype=torch.bool, device=ids.device)
        sees[:, :width, :width] = torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
        sees[:, width:, :width] = there[:, None, :]
        sees[:, width:, width:] = (owner[:, None] == owner) & (depth[:, None] >= depth)
        own = self.positions(prompts)
        last = own.masked_fill(~there, -1).amax(-1, keepdim=True)
        if own.ndim == 3:  # behind an image a text goes on from the largest of the three
            last = last.amax(0, keepdim=True).expand_as(last)
        dtype = self.head.weight.dtype
        assert isinstance(dtype, torch.dtype)
        mask = torch.zeros(count, 1, whole, whole, dtype=dtype, device=ids.device)
        return {
            "ids": torch.cat([ids, extra.expand(count, -1)], dim=1),
            "positions": torch.cat([own, last + 1 + depth], dim=-1),
            "mask": mask.masked_fill(~sees[:, None], torch.finfo(dtype).min),
        }

    def score_answers(self, images: Tensor, prompt: str, candidates: Sequence[str]) -> Tensor:
        """float32 [B, K]: log-likelihood of each answer to one question, of images [B, 3, H, W].

        Raises ConfigError for answers that the tokenizer does not tell apart.
        """
        height, width = images.shape[-2:]
        encode = self.encode_fn((height, width))
        asked = [{"role": "user", "content": f"<image>\n{prompt}"}]
        prompts = {
            name: value.to(images.device) for name, value in encode.prompts([asked] * len(images)).items()
        }
        return self.score(self(images, prompts), prompts, encode.candidates(asked, candidates))

    @abstractmethod
    def blank(self, images: Tensor, asked: int, answered: int) -> dict[str, Tensor]:
        """Inputs of one image each without values: `input_ids` and what else is read, int64 on the device of
        the images. asked, answered: tokens of the question and of the answer.
        """

    def check_size(self, size: tuple[int, int] | None) -> None:
        """Raise ConfigError for a geometry that is not taken: (height, width), None for images' own sizes."""
        if size is None:
            raise ConfigError(
                "a vision-language model is shown images of one size: type model.geometry.size=224 "
                "model.geometry.resize=squash"
            )

    @abstractmethod
    def check_cut(self) -> None:
        """Raise ConfigError where nothing is frozen of which features could be kept."""

    def dry_step(self, images: Tensor, asked: int, answered: int) -> Tensor:
        """A scalar that costs what a step on images and texts does, whatever is in them (`runs.memory`).

        asked, answered: tokens of a question, and of its answer, which alone are learnt.
        For tensors that have shapes and no values: which logits there are hangs on no mask.
        """
        inputs = self.blank(images, asked, answered)
        places = torch.zeros_like(self.positions(inputs))
        hidden = self.states(self(images, inputs), inputs, positions=places)
        answers = hidden[:, -answered:].flatten(0, 1)
        labels = torch.zeros(len(answers), dtype=torch.long, device=images.device)
        return nll(self.head, answers, labels).sum()

    # --- what is kept, and where ---

    def stored_elsewhere(self) -> frozenset[str]:
        """Names in the state dict that no checkpoint need hold: they don't train, and were loaded."""
        if self.pretrained is False:
            return frozenset()
        # Asked of the tensors: a tied one has two names here, and one among the parameters.
        entries = self.state_dict(keep_vars=True).items()
        return frozenset(name for name, value in entries if not value.requires_grad)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """What was pretrained, and may learn at a rate of its own (`optim.groups`): all but adapters."""
        return [value for name, value in self.model.named_parameters() if "lora_" not in name]

    def forget_generation(self, *models: Any) -> None:
        """For the constructor: what a model's own generation_config.json says (sampling, other ends) would
        fill what is not given. It is kept for `merged`.
        """
        self._published = [(one, one.generation_config) for one in models]
        for one in models:
            one.generation_config = type(one.generation_config)()

    @abstractmethod
    def can_read(self) -> bool:
        """Whether the tokenizer's files are on this machine, so that `encode_fn` fetches nothing."""

    def merged(self) -> nn.Module:
        """transformers' own model that computes the same: adapters are added to the weights, in place.

        Raises ConfigError for weights in four bits.
        """
        if self.quantization is not None:
            raise ConfigError(
                f"model.net.quantization={self.quantization}: adapters are not added to weights of four "
                "bits; export the adapter alone (merge=false), and load it on the base in bfloat16"
            )
        for one, generation in self._published:
            one.generation_config = generation
        if self.parts["language"] == "lora":
            self.model = adapters.merged(self.model)  # type: ignore[arg-type]  # a PeftModel
            self.parts = {**self.parts, "language": "frozen"}
            self.pretrained = False  # the weights are no longer those from elsewhere
        return self.model

    # --- training ---

    def recompute(self, mode: bool) -> None:
        """Whether the language model's layers forget activations; for `train`.

        transformers computes them again in training mode only, in which a frozen model is not. Nothing but
        the layer itself is switched; dropout inside it stays as it is.
        """
        from transformers.modeling_layers import GradientCheckpointingLayer

        if self.gradient_checkpointing:
            for layer in self.text_model.modules():
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.training = mode
