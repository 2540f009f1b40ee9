"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: tokens of the image among those of the text.

Wang et al. 2024 (Qwen2-VL), Bai et al. 2025 (Qwen2.5-VL, Qwen3-VL); the models are transformers'.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from ..backbones import adapters, qwen_vl, qwen_vl_models
from ..backbones.freezing import freeze
from ..backbones.frozen import weights_hash
from ..backbones.generation import Generated, Generation, NucleusDraw, transformers_config, up_to_the_end
from ..backbones.quantization import Quantization, quantization_config
from ..backbones.weights import building_on_meta, has_values
from ..backbones.whole_models import Dtype
from ..errors import ConfigError, DataError
from ..images.geometry import InputSpec
from ..images.normalize import Normalize
from .chat import ChatEncoder
from .network import Inputs, Part, VisionLanguageModel
from .parts import length_problems, part_problems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SIDE = 224  # pixels: 64 tokens of Qwen2-VL and Qwen2.5-VL, 49 of Qwen3-VL


class QwenVL(VisionLanguageModel):
    """Vision tower -> merger -> its tokens in their places in the text -> language model.

    backbone, pretrained, dtype: see `backbones.qwen_vl_models.create`.
    vision, projector, language: whether the tower, its mergers and the language model are `frozen` or
        `trained`; the language model may have low-rank adapters instead (`lora`). rank, alpha, dropout,
        variant, target_modules: of these, see `backbones.adapters.adapt`.
    quantization: `nf4` for the linear layers of a language model with adapters (QLoRA).
    max_target_token_length: tokens of an answer that are learnt from, its end included.
    max_length: tokens of a conversation; None for all positions of the language model.
    gradient_checkpointing: activations of the language model are computed again on the way back.
    """

    def __init__(
        self,
        *,
        backbone: str = qwen_vl_models.DEFAULT,
        pretrained: bool | str,
        dtype: Dtype = "float32",
        vision: Part = "frozen",
        projector: Literal["frozen", "trained"] = "frozen",
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
    ) -> None:
        super().__init__()
        self.parts: dict[str, Part] = {"vision": vision, "projector": projector, "language": language}
        problems = part_problems(self.parts, dtype, quantization, float32=())
        self.backbone_name, self.pretrained, self.quantization = backbone, pretrained, quantization
        self.max_target_token_length = max_target_token_length
        self.gradient_checkpointing = gradient_checkpointing
        config: Any = qwen_vl_models.read_config(backbone)
        places = int(config.text_config.max_position_embeddings)
        self.max_length = places if max_length is None else max_length
        interpolation, statistics = qwen_vl.preprocessing(backbone)
        step = config.vision_config.patch_size * config.vision_config.spatial_merge_size
        side = max(1, round(_SIDE / step)) * step
        self.input_spec = InputSpec((side, side), "squash", interpolation=interpolation, channels=3)
        self.normalize = Normalize(*statistics)
        problems += length_problems(
            max_length, max_target_token_length, places=places, image=(side // step) ** 2
        )
        if problems:
            raise ConfigError(problems)
        self._tokenizer = None if building_on_meta() else qwen_vl_models.tokenizer(backbone)

        whole: Any = qwen_vl_models.create(
            backbone,
            pretrained=pretrained,
            dtype=dtype,
            quantization_config=quantization_config(
                quantization, dtype, pretrained=pretrained, keep=("visual", "model.visual")
            ),
        )
        self.forget_generation(whole)
        self.model: nn.Module = whole
        pieces = _pieces(whole.model.visual)
        if language == "lora":
            self.model = adapters.adapt(
                whole,
                targets=target_modules,
                rank=rank,
                alpha=alpha,
                dropout=dropout,
                variant=variant,
                name=backbone,
                within="model.language_model",
                saved=[
                    f"model.visual.{name}" for name, part in pieces.items() if self.parts[part] == "trained"
                ],
            )
        else:
            for name, part in pieces.items():
                if self.parts[part] == "frozen":
                    freeze(whole.model.visual.get_submodule(name))
            if language == "frozen":
                freeze(whole.model.language_model)
                freeze(whole.lm_head)
        if gradient_checkpointing:
            self.plain.model.language_model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )

    @property
    def text_model(self) -> nn.Module:
        """As VisionLanguageModel."""
        found: nn.Module = self.plain.model.language_model
        return found

    @property
    def head(self) -> nn.Module:
        """As VisionLanguageModel."""
        found: nn.Module = self.plain.lm_head
        return found

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own; read when it is asked for where the network was built for its shapes."""
        self._tokenizer = self._tokenizer or qwen_vl_models.tokenizer(self.backbone_name)
        return self._tokenizer

    def train(self, mode: bool = True) -> Self:
        """Set training mode in what trains."""
        super().train(mode)
        if mode and self.parts["language"] == "lora":
            adapters.keep_base_in_eval(self.model)
        self.recompute(mode)
        return self

    def encode_fn(self, size: tuple[int, int]) -> ChatEncoder:
        """As VisionLanguageModel; ConfigError for sides that are no multiple of a token's."""
        config = self.plain.config
        return ChatEncoder(
            self.tokenizer,
            config.image_token_id,
            qwen_vl.token_grid(config.vision_config, *size),
            self.max_target_token_length,
            self.max_length,
        )

    def forward(self, images: Tensor, inputs: Inputs) -> Tensor:
        """As VisionLanguageModel -> float [M, tokens, (1 + L) * width].

        An image's tokens, and behind them in the last axis what L deepstack mergers add to the first layers
        of a Qwen3-VL; no other has any.
        Raises DataError for images that do not belong to the inputs.
        """
        tower = self.plain.model.visual
        grid = inputs["image_grid"]
        if len(grid) != len(images):
            raise DataError(
                f"{len(images)} images for conversations that show {len(grid)}: one for each <image>"
            )
        frozen = self.parts["vision"] == self.parts["projector"] == "frozen"
        with torch.no_grad() if frozen else nullcontext():
            found = qwen_vl.encode(tower, self.normalize(images).to(next(tower.parameters()).dtype))
        expected = qwen_vl.token_grid(self.plain.config.vision_config, *images.shape[-2:])
        if has_values(grid) and bool((grid != torch.tensor(expected, device=grid.device)).any()):
            raise DataError(
                f"images of {images.shape[-2]}x{images.shape[-1]} pixels for conversations that were encoded "
                f"for others: encode them with encode_fn(({images.shape[-2]}, {images.shape[-1]}))"
            )
        return found

    def frozen_features(self, images: Tensor, inputs: Inputs) -> Tensor:
        """What `forward` returns; ConfigError where tower or mergers train."""
        self.check_cut()
        return self(images, inputs)  # type: ignore[no-any-return]

    def forward_features(self, features: Tensor, inputs: Inputs) -> Tensor:
        """The same: everything above depends on the text."""
        self.check_cut()
        return features

    def cache_key(self) -> str:
        """As `FrozenFeatures`, of tower and mergers; the text is not in it."""
        self.check_cut()
        tower = self.plain.model.visual
        figures = tower.config.to_diff_dict()
        figures.pop("transformers_version", None)
        normalized = (self.normalize.mean, self.normalize.std)
        return weights_hash(tower.state_dict().items(), sorted(figures.items()), normalized)

    def blank(self, images: Tensor, asked: int, answered: int) -> dict[str, Tensor]:
        """As VisionLanguageModel."""
        grid = qwen_vl.token_grid(self.plain.config.vision_config, *images.shape[-2:])
        length = grid[0] * grid[1] + asked + answered
        ids = torch.zeros(len(images), length, dtype=torch.long, device=images.device)
        grids = torch.tensor([grid] * len(images), device=images.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "image_grid": grids}

    def check_size(self, size: tuple[int, int] | None) -> None:
        """As VisionLanguageModel; sides that are no multiple of a token's, too."""
        super().check_size(size)
        if size is not None:
            qwen_vl.token_grid(self.plain.config.vision_config, *size)

    def positions(self, inputs: Inputs) -> Tensor:
        """As VisionLanguageModel: int64 [3, N, T], of time, height and width."""
        shown = inputs["input_ids"] == self.plain.config.image_token_id
        return qwen_vl_models.rope_positions(shown, inputs["attention_mask"], inputs["image_grid"])

    def states(
        self,
        visual: Tensor,
        inputs: Inputs,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """As VisionLanguageModel."""
        plain = self.plain
        shown = inputs["input_ids"] == plain.config.image_token_id
        embedded = plain.get_input_embeddings()(inputs["input_ids"])
        tokens, *deepstack = self._levels(visual.to(embedded.dtype))
        given: dict[str, Any] = {}
        if deepstack and has_values(shown):
            given = {
                "visual_pos_masks": shown,
                "deepstack_visual_embeds": [level.flatten(0, 1) for level in deepstack],
            }
        found: Tensor = plain.model.language_model(
            inputs_embeds=embedded.masked_scatter(shown[..., None], tokens),
            position_ids=self.positions(inputs) if positions is None else positions,
            attention_mask=mask,
            use_cache=False,
            **given,
        ).last_hidden_state
        return found

    @torch.no_grad()
    def generate(self, visual: Tensor, prompts: Inputs, generation: Generation) -> Generated:
        """As VisionLanguageModel; ConfigError where the language model has too few positions."""
        ids, mask = prompts["input_ids"], prompts["attention_mask"]
        count, width = ids.shape
        if not count:
            return Generated([], ids.new_zeros(0, 0), ids.new_zeros(0))
        self._check_room(width, generation.max_new_tokens)
        size = self.input_spec.size
        assert size is not None
        encoder = self.encode_fn(size)
        moved = (torch.arange(width, device=ids.device) + mask.sum(1, keepdim=True)) % width
        ids, mask = ids.gather(1, moved), mask.gather(1, moved)  # padded on the left: it goes on at the right
        plain = self.plain
        merge = plain.config.vision_config.spatial_merge_size
        grid = prompts["image_grid"] * merge
        try:
            tokens: Tensor = plain.generate(
                input_ids=ids,
                attention_mask=mask,
                mm_token_type_ids=(ids == plain.config.image_token_id).int(),
                image_grid_thw=torch.cat([torch.ones_like(grid[:, :1]), grid], dim=1),
                mm_encoder_outputs={"image": self._encoded(visual)},
                generation_config=transformers_config(
                    replace(generation, repetition_penalty=1.0),  # below, for the answer alone
                    eos_id=encoder.eos_id,
                    pad_id=encoder.pad_id,
                ),
                logits_processor=_processors(generation, width),
            )
        finally:
            plain.model.rope_deltas = None  # of these prompts, and of no others
        return up_to_the_end(tokens[:, width:], encoder.decode, eos_id=encoder.eos_id, pad_id=encoder.pad_id)

    def check_generation(self, max_new_tokens: int) -> None:
        """Raise ConfigError where the language model has no places for answers of so many tokens."""
        size = self.input_spec.size
        assert size is not None
        rows, columns = qwen_vl.token_grid(self.plain.config.vision_config, *size)
        self._check_room(rows * columns, max_new_tokens)

    def can_read(self) -> bool:
        """As VisionLanguageModel."""
        return qwen_vl_models.can_read(self.backbone_name)

    def check_weights(self) -> None:
        """Raise CheckpointError where weights or tokenizer are neither here nor on the hub."""
        qwen_vl_models.check_weights(self.backbone_name, self.pretrained)

    def trained_parts(self) -> dict[str, int]:
        """Trained parameters of the vision tower, the projector (its mergers) and the language model."""
        counts = {"vision": 0, "projector": 0, "language model": 0}
        for name, value in self.model.named_parameters():
            if value.requires_grad:
                inside = name.partition("model.visual.")[2]
                part = "language model" if not inside else "projector" if _merges(inside) else "vision"
                counts[part] += value.numel()
        return counts

    def peft_directory(self, prefix: str = "") -> dict[str, Any]:
        """How a checkpoint's weights become the directory that PEFT itself loads; empty without adapters.

        prefix: what stands before this network's names in the checkpoint.
        """
        if self.parts["language"] != "lora":
            return {}
        return adapters.description(self.model, f"{prefix}model.")  # type: ignore[arg-type]  # a PeftModel

    def save_beside(self, directory: Path) -> list[Path]:
        """Tokenizer, chat template and processor as they are on this machine, into `directory`."""
        return qwen_vl_models.copy_files(self.backbone_name, directory)

    # --- helpers ---

    def _levels(self, visual: Tensor) -> tuple[Tensor, ...]:
        """Tokens [M, tokens, width], and as many again for each deepstack level."""
        width = qwen_vl.width(self.plain.model.visual)
        return visual.split_with_sizes([width] * (visual.shape[-1] // width), dim=-1)

    def _encoded(self, visual: Tensor) -> Any:
        """The same as transformers hands it from its tower to `generate`."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        plain: Any = BaseModelOutputWithPooling  # their annotations know no list of images
        deep: Any = BaseModelOutputWithDeepstackFeatures
        tokens, *levels = (tuple(level) for level in self._levels(visual))
        return (
            deep(pooler_output=tokens, deepstack_features=levels) if levels else plain(pooler_output=tokens)
        )

    def _check_room(self, prompt: int, answer: int) -> None:
        places = int(self.plain.config.text_config.max_position_embeddings)
        if prompt + answer > places:
            raise ConfigError(
                f"a prompt of {prompt} tokens and an answer of up to {answer} are {prompt + answer} "
                f"positions, and the language model has {places}: type model.generation.max_new_tokens="
                f"{max(1, places - prompt)}, or a smaller model.geometry.size"
            )

    def check_cut(self) -> None:
        """As VisionLanguageModel: tower or mergers train."""
        trained = [part for part in ("vision", "projector") if self.parts[part] == "trained"]
        if trained:
            raise ConfigError(
                f"features are kept of a vision tower and a projector that are frozen, and "
                f"{' and '.join(trained)} train: type model.net.vision=frozen model.net.projector=frozen, or "
                f"data.cache=decoded"
            )


class _Behind:
    """A logits processor that sees what was written, and not the prompt with its padding."""

    def __init__(self, draw: NucleusDraw, width: int) -> None:
        self.draw, self.width = draw, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.draw(input_ids[:, self.width :], scores)


def _processors(generation: Generation, width: int) -> list[Any]:
    """Of an answer behind prompts of `width` tokens, whose words may be said again."""
    from transformers import RepetitionPenaltyLogitsProcessor

    found: list[Any] = []
    if generation.repetition_penalty != 1:
        make: Any = RepetitionPenaltyLogitsProcessor  # it has no annotations
        found.append(make(float(generation.repetition_penalty), prompt_ignore_length=width))
    if generation.strategy == "nucleus":
        draw = NucleusDraw(generation.top_p, generation.temperature, generation.seed)
        found.append(_Behind(draw, width))
    return found


def _merges(name: str) -> bool:
    """Whether a name in the vision tower is one of its mergers'."""
    return name.startswith(("merger", "deepstack_merger_list"))


def _pieces(tower: nn.Module) -> dict[str, Literal["vision", "projector"]]:
    """The tower's modules with weights, down to what is no list, and the part that each belongs to."""
    found: dict[str, Literal["vision", "projector"]] = {}
    for name, child in tower.named_children():
        inside = child.named_children() if isinstance(child, nn.ModuleList) else [("", child)]
        for number, module in inside:
            if any(True for _ in module.parameters()):
                whole = f"{name}.{number}" if number else name
                found[whole] = "projector" if _merges(name) else "vision"
    return found
