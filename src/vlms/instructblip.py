"""InstructBLIP: a vision tower, a Q-Former that reads the question, and a language model that answers.

Dai et al. 2023; Hu et al. 2021 for the adapters, Chang et al. 2023 (AntifakePrompt) for the learned word.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ..backbones import adapters, instructblip
from ..backbones.freezing import freeze
from ..backbones.frozen import weights_hash
from ..backbones.generation import (
    Generated,
    Generation,
    NucleusDraw,
    transformers_config,
    up_to_the_end,
)
from ..backbones.quantization import Quantization
from ..backbones.weights import building_on_meta
from ..backbones.whole_models import Dtype
from ..errors import ConfigError, DataError
from ..images.normalize import Normalize
from .instructblip_encoding import InstructBlipEncoder
from .network import Inputs, Part, VisionLanguageModel
from .parts import length_problems, part_problems
from .pseudo_word import WithWord

Projector = Literal["frozen", "trained"]

_LANGUAGE = "language_model"
_PROJECTOR = "language_projection"


class InstructBlip(VisionLanguageModel):
    """Vision tower -> Q-Former, which reads the question too -> projector -> language model.

    backbone, pretrained, dtype, quantization: see `backbones.instructblip.create`; adapters, a projector that
        trains and a learned word are float32 whatever the dtype.
    vision, qformer, projector, language: whether a part is `frozen`, is `trained`, or, of the language model
        alone, has low-rank adapters (`lora`). rank, alpha, dropout, variant, target_modules: of these, see
        `backbones.adapters.adapt`.
    max_target_token_length: tokens of an answer that are learnt, its end included. max_length: tokens of
        prompt and answer together, those of the image too; None for the language model's positions.
    gradient_checkpointing: activations of the language model are computed again on the way back.
    pseudo_word: a word of the question, such as `[*]`, of which a vector for the language model and one for
        the Q-Former are learnt while all else is frozen; each starts as the mean of all words' vectors.
    Raises ConfigError for what does not go together, all of it at once.
    """

    def __init__(
        self,
        *,
        backbone: str = instructblip.DEFAULT,
        pretrained: bool | str,
        dtype: Dtype = "float32",
        vision: Part = "frozen",
        qformer: Part = "frozen",
        projector: Projector = "frozen",
        language: Part = "lora",
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.05,
        variant: adapters.Variant = "lora",
        target_modules: Sequence[str] = ("q_proj", "v_proj"),
        quantization: Quantization | None = None,
        max_target_token_length: int = 64,
        max_length: int | None = None,
        gradient_checkpointing: bool = False,
        pseudo_word: str | None = None,
    ) -> None:
        super().__init__()
        parts = {"vision": vision, "qformer": qformer, "projector": projector, "language": language}
        problems = part_problems(parts, dtype, quantization)
        problems += [] if pseudo_word is None else _check_word(parts, pseudo_word)
        if problems:
            raise ConfigError(problems)
        self.backbone_name, self.pretrained = backbone, pretrained
        self.parts, self.pseudo_word, self.quantization = parts, pseudo_word, quantization
        self.gradient_checkpointing = gradient_checkpointing
        config: Any = instructblip.read_config(backbone)
        places, queries = config.text_config.max_position_embeddings, config.num_query_tokens
        if problems := length_problems(max_length, max_target_token_length, places=places, image=queries):
            raise ConfigError(problems)
        self.max_target_token_length = max_target_token_length
        self.longest: int = places if max_length is None else max_length
        self.input_spec, figures = instructblip.preprocessing(backbone)
        self.normalize = Normalize(*figures)

        model: Any = instructblip.create(
            backbone, pretrained=pretrained, dtype=dtype, quantization=quantization
        )
        self.forget_generation(model, model.language_model)
        if projector == "trained":
            model.language_projection.float()
        if language == "lora":
            self.model: nn.Module = adapters.adapt(
                model,
                targets=target_modules,
                rank=rank,
                alpha=alpha,
                dropout=dropout,
                variant=variant,
                name=backbone,
                within=_LANGUAGE,
                saved=[_PROJECTOR] if projector == "trained" else [],
            )
        else:
            self.model = model
        self._choose_what_trains()
        if pseudo_word is not None:
            for part in (model.language_model, model.qformer):
                part.set_input_embeddings(WithWord(part.get_input_embeddings()))
        if gradient_checkpointing:
            # Of the whole model it would have the frozen towers build a graph as well.
            model.language_model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        self.encoder = None if building_on_meta() else self._encoder()

    def train(self, mode: bool = True) -> Self:
        """Set training mode in what trains."""
        super().train(mode)
        if mode and self.parts["language"] == "lora":
            adapters.keep_base_in_eval(self.model)
            for name, part in (("vision", self.plain.vision_model), ("qformer", self.plain.qformer)):
                part.train(self.parts[name] == "trained")
        self.recompute(mode)
        return self

    @property
    def text_model(self) -> nn.Module:
        """See `VisionLanguageModel`."""
        found: nn.Module = self.plain.language_model
        return found

    @property
    def head(self) -> nn.Module:
        """See `VisionLanguageModel`."""
        found: nn.Module = self.plain.language_model.get_output_embeddings()
        return found

    def encode_fn(self, size: tuple[int, int]) -> InstructBlipEncoder:
        """See `VisionLanguageModel`. Raises ConfigError for a size that the vision tower does not take."""
        self.check_size(size)
        return self.encoder or self._encoder()

    def check_size(self, size: tuple[int, int] | None) -> None:
        """See `VisionLanguageModel`: the vision tower takes one size."""
        super().check_size(size)
        wanted = self.input_spec.size
        assert wanted is not None
        assert size is not None
        if tuple(size) != wanted:
            raise ConfigError(
                f"this InstructBLIP takes images of {wanted[0]}x{wanted[1]} pixels, not {size[0]}x{size[1]}: "
                f"leave model.geometry as it is"
            )

    def check_generation(self, length: int) -> None:
        """Raise ConfigError where the language model has no places for answers of so many tokens."""
        taken = int(self.plain.config.num_query_tokens) + 1
        if taken + length >= self.longest:
            raise ConfigError(
                f"model.generation.max_new_tokens={length} leaves no room for a question: the image takes "
                f"{taken} of {self.longest} places; type model.generation.max_new_tokens="
                f"{max(1, min(64, self.longest - taken - 1))}"
            )

    # --- images ---

    def forward(self, images: Tensor, inputs: Inputs) -> Tensor:
        """Images [N, 3, H, W], one a conversation -> what the Q-Former makes of them, float [N, Q, width]."""
        start = self._start()
        return self._through(self._below(images, inputs, start), inputs, start)

    def frozen_features(self, images: Tensor, inputs: Inputs) -> Tensor:
        """What the frozen parts make of images, under `no_grad`.

        [N, Q, width] behind a frozen Q-Former, which depends on the question too, or [N, patches + 1, width]
        where the Q-Former trains, or its word does. Raises ConfigError where the vision tower trains.
        """
        return self._below(images, inputs, self._cut())

    def forward_features(self, features: Tensor, inputs: Inputs) -> Tensor:
        """What `frozen_features` returned -> as `forward`."""
        return self._through(features, inputs, self._cut())

    def cache_key(self) -> str:
        """Of the weights that `frozen_features` runs through; the question is not in it."""
        cut, plain = self._cut(), self.plain
        named = [(f"vision.{name}", value) for name, value in plain.vision_model.named_parameters()]
        if cut == 2:
            named += [(f"qformer.{name}", value) for name, value in plain.qformer.named_parameters()]
            named.append(("query_tokens", plain.query_tokens))
        return weights_hash(named, cut, self.normalize.mean, self.normalize.std)

    def _start(self) -> int:
        """Where the graph starts: 0 in the vision tower, 1 in the Q-Former, 2 behind it."""
        if self.parts["vision"] == "trained":
            return 0
        return 1 if self.parts["qformer"] == "trained" or self.pseudo_word is not None else 2

    def check_cut(self) -> None:
        """See `VisionLanguageModel`: the vision tower trains."""
        self._cut()

    def _cut(self) -> int:
        start = self._start()
        if start == 0:
            raise ConfigError(
                "the vision tower trains, so that there are no features to keep: type "
                "model.net.vision=frozen, or data.cache=decoded"
            )
        return start

    def _below(self, images: Tensor, inputs: Inputs, stop: int) -> Tensor:
        with torch.no_grad():
            pixels = self.normalize(images)
            return self._stages(pixels, inputs, 0, stop)

    def _through(self, features: Tensor, inputs: Inputs, start: int) -> Tensor:
        return self._stages(features, inputs, start, 2)

    def _stages(self, value: Tensor, inputs: Inputs, start: int, stop: int) -> Tensor:
        """Of vision tower and Q-Former those from `start` to `stop`."""
        questions = inputs["qformer_input_ids"]
        if len(value) != len(questions):
            raise DataError(
                f"there are {len(value)} images for {len(questions)} conversations, and each shows one"
            )
        plain = self.plain
        if start == 0 < stop:
            value = plain.vision_model(pixel_values=value).last_hidden_state
        if stop == 2 > start:
            queries = plain.query_tokens.expand(len(value), -1, -1)
            asked = inputs["qformer_attention_mask"].bool()
            there = torch.cat([asked.new_ones(queries.shape[:2]), asked], dim=1)
            states = plain.qformer(
                input_ids=questions,
                attention_mask=there[:, None, None],  # as it is used; transformers would ask a tensor first
                query_embeds=queries,
                encoder_hidden_states=value,
            ).last_hidden_state
            value = states[:, : queries.shape[1]]
        return value

    def blank(self, images: Tensor, asked: int, answered: int) -> dict[str, Tensor]:
        """See `VisionLanguageModel`. The Q-Former is shown the question alone."""
        length = int(self.plain.config.num_query_tokens) + asked + answered
        question = torch.zeros(len(images), asked, dtype=torch.long, device=images.device)
        ids = torch.zeros(len(images), length, dtype=torch.long, device=images.device)
        there = {"qformer_attention_mask": torch.ones_like(question), "attention_mask": torch.ones_like(ids)}
        return {"input_ids": ids, "qformer_input_ids": question, **there}

    # --- the language model ---

    def positions(self, inputs: Inputs) -> Tensor:
        """See `VisionLanguageModel`: 0, 1, 2, …"""
        ids = inputs["input_ids"]
        return torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)

    def states(
        self,
        visual: Tensor,
        inputs: Inputs,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See `VisionLanguageModel`."""
        states: Tensor = self.plain.language_model.base_model(
            inputs_embeds=self._embedded(visual, inputs["input_ids"]),
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        return states

    @torch.no_grad()
    def generate(self, visual: Tensor, prompts: Inputs, generation: Generation) -> Generated:
        """See `VisionLanguageModel`. Raises ConfigError where the language model has too few positions."""
        encoder = self.encoder
        assert encoder is not None, "a network that was built for its shapes writes nothing"
        ids, there = prompts["input_ids"], prompts["attention_mask"]
        if not len(ids):
            return Generated([], ids, ids.sum(1))
        if ids.shape[1] + generation.max_new_tokens > self.longest:
            raise ConfigError(
                f"a prompt of {ids.shape[1]} tokens and model.generation.max_new_tokens="
                f"{generation.max_new_tokens} are more than the {self.longest} places of the language model: "
                f"ask shorter, or for less"
            )
        embedded, mask = _to_the_right(self._embedded(visual, ids), there)
        processors = []
        if generation.strategy == "nucleus":
            processors = [NucleusDraw(generation.top_p, generation.temperature, generation.seed)]
        with warnings.catch_warnings():
            # That it can't be applied to a prompt without ids is what is meant.
            warnings.filterwarnings("ignore", message="Passing `repetition_penalty` with `inputs_embeds`")
            tokens: Tensor = self.plain.language_model.generate(
                inputs_embeds=embedded,
                attention_mask=mask,
                generation_config=transformers_config(
                    generation, eos_id=encoder.eos_id, pad_id=encoder.pad_id
                ),
                logits_processor=processors,
            )
        return up_to_the_end(tokens, encoder.decode, eos_id=encoder.eos_id, pad_id=encoder.pad_id)

    def _embedded(self, visual: Tensor, ids: Tensor) -> Tensor:
        """[N, T, width] of ids, in front of which the image stands."""
        plain = self.plain
        words: Tensor = plain.language_model.get_input_embeddings()(ids)
        projected = plain.language_projection(visual.to(_dtype(plain.language_projection)))
        return torch.cat([projected.to(words.dtype), words[:, visual.shape[1] :]], dim=1)

    # --- what trains, and where it is kept ---

    def trained_parts(self) -> dict[str, int]:
        """Trained parameters of each part, and of the learned word where there is one."""
        plain = self.plain
        words = self._words()
        parts: dict[str, list[nn.Parameter]] = {
            "vision": [*plain.vision_model.parameters()],
            "Q-Former": [plain.query_tokens, *plain.qformer.parameters()],
            "projector": [*plain.language_projection.parameters()],
            "language model": [*plain.language_model.parameters()],
        }
        learned = {id(word) for word in words}
        counts = {
            name: sum(value.numel() for value in part if value.requires_grad and id(value) not in learned)
            for name, part in parts.items()
        }
        return counts | ({"word": sum(word.numel() for word in words)} if words else {})

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Those that were pretrained, which may learn at a rate of their own: not adapters, nor a word."""
        words = {id(word) for word in self._words()}
        named = self.model.named_parameters()
        return [value for name, value in named if "lora_" not in name and id(value) not in words]

    def can_read(self) -> bool:
        """See `VisionLanguageModel`."""
        return instructblip.can_read(self.backbone_name)

    def check_weights(self) -> None:
        """Raise CheckpointError where weights or tokenizers are neither here nor on the hub."""
        instructblip.check_weights(self.backbone_name, self.pretrained)

    def peft_directory(self, prefix: str = "") -> dict[str, Any]:
        """How a checkpoint's weights become the directory that PEFT itself loads (`runs.checkpoints`).

        It holds adapters and a trained projector; empty without adapters, and where vision tower or Q-Former
        train as well, which it has no place for. prefix: what stands before this network's names in the
        checkpoint.
        """
        if self.parts["language"] != "lora" or "trained" in (self.parts["vision"], self.parts["qformer"]):
            return {}
        return adapters.description(self.model, f"{prefix}model.")  # type: ignore[arg-type]

    def save_beside(self, directory: Path) -> list[Path]:
        """The files of processor and tokenizers as they are, for use of the weights elsewhere; the copies."""
        return instructblip.copy_files(self.backbone_name, directory)

    def merged(self) -> nn.Module:
        """transformers' own model that computes the same: adapters are added to the weights, in place.

        Raises ConfigError where a word was learnt, for which that has no place.
        """
        if self.pseudo_word is not None:
            raise ConfigError(
                f"model.net.pseudo_word={self.pseudo_word} is no word of transformers' InstructBLIP, so that "
                "there is nothing to merge: the run's checkpoints hold it, for tapetum predict and evaluate"
            )
        return super().merged()

    def _words(self) -> list[nn.Parameter]:
        return [module.vector for module in self.model.modules() if isinstance(module, WithWord)]

    def _choose_what_trains(self) -> None:
        plain = self.plain
        for name, module in (
            ("vision", plain.vision_model),
            ("qformer", plain.qformer),
            ("projector", plain.language_projection),
            ("language", plain.language_model),
        ):
            if self.parts[name] == "frozen":
                freeze(module)
            elif self.parts[name] == "trained" and not (name == "projector" and self.model is not plain):
                module.requires_grad_(True)
        plain.query_tokens.requires_grad_(self.parts["qformer"] == "trained")

    def _encoder(self) -> InstructBlipEncoder:
        config: Any = self.plain.config
        text, questions = instructblip.tokenizers(self.backbone_name)
        return InstructBlipEncoder(
            text,
            questions,
            image_id=config.image_token_id,
            queries=config.num_query_tokens,
            max_target_token_length=self.max_target_token_length,
            longest=self.longest,
            longest_question=config.qformer_config.max_position_embeddings,
            word=self.pseudo_word,
            word_ids=(config.text_config.vocab_size, config.qformer_config.vocab_size),
        )


def _to_the_right(embedded: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Texts [N, T, width] that are padded on the right, and their mask [N, T], padded on the left."""
    width = there.shape[1]
    places = torch.arange(width, device=there.device) - (width - there.sum(1, keepdim=True))
    from_ = places.remainder(width)
    return embedded.gather(1, from_.unsqueeze(-1).expand_as(embedded)), there.gather(1, from_)


def _dtype(module: nn.Module) -> torch.dtype:
    """That of a projector, which may stand inside PEFT's wrapper of what it saves: of the last one's."""
    return [*module.parameters()][-1].dtype


def _check_word(parts: Mapping[str, str], pseudo_word: str) -> list[str]:
    problems = []
    if not pseudo_word.strip() or "<image>" in pseudo_word:
        problems.append(f"model.net.pseudo_word={pseudo_word!r} is no word: '[*]' is usual")
    return problems + [
        f"model.net.pseudo_word={pseudo_word} learns a word alone, and model.net.{name}={value}: type "
        f"model.net.{name}=frozen, or model.net.pseudo_word=null"
        for name, value in parts.items()
        if value != "frozen"
    ]
