"""A CLIP sees, an adapter translates, a language model writes: captions behind a visual prefix.

Mokady et al. 2021 (ClipCap); with one vector and a Qwen3, the captioner of the guide for Flickr30k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

from torch import Tensor, nn

from ..backbones import adapters, clip, language_models, stages
from ..backbones.freezing import KeepsFrozen, freeze
from ..backbones.generation import Generated, Generation
from ..backbones.token_loss import TokenLoss
from ..backbones.weights import building_on_meta
from ..backbones.whole_models import Dtype
from ..errors import ConfigError
from ..images.normalize import Normalize
from .adapter import Kind as Adapter
from .adapter import create as create_adapter
from .decoder import TextDecoder
from .tokens import CaptionEncoder, check_caption_length

Part = Literal["frozen", "lora", "trained"]
Visual = Literal["pooled", "patches"]

_SHORTER_PREFIX = "a shorter model.net.prefix_length"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
VISION_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


class ClipPrefix(KeepsFrozen):
    """CLIP's vision tower -> adapter -> causal language model.

    backbone, pretrained: see `backbones.clip.create`. language_model, language_model_pretrained,
        language_model_dtype: see `backbones.language_models.create`.
    visual: `pooled`, the projected class token (`image_embeds`), or `patches`, the tokens that leave the last
        block, class token first. adapter, prefix_length, adapter_layers, adapter_heads: see
        `captioners.adapter.create`; the adapter always trains.
    vision, language: whether a part is `frozen`, has low-rank adapters (`lora`) or is `trained`. rank, alpha,
        dropout, variant: of adapters in either, see `backbones.adapters.adapt`. vision_target_modules,
        target_modules: the layers with adapters in the tower, and in the language model (of a GPT-2: c_attn).
    max_caption_length: tokens of a caption that are learnt from, EOS included.
    gradient_checkpointing: activations of the language model are computed again on the way back.
    """

    def __init__(
        self,
        *,
        backbone: str = clip.DEFAULT,
        pretrained: bool | str,
        language_model: str = language_models.DEFAULT,
        language_model_pretrained: bool | str,
        language_model_dtype: Dtype = "float32",
        visual: Visual = "pooled",
        adapter: Adapter = "mlp",
        prefix_length: int = 1,
        adapter_layers: int = 8,
        adapter_heads: int = 8,
        vision: Part = "frozen",
        language: Part = "frozen",
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.05,
        variant: adapters.Variant = "lora",
        vision_target_modules: Sequence[str] = VISION_ATTENTION,
        target_modules: Sequence[str] = ATTENTION,
        max_caption_length: int = 128,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check(visual, vision, language, language_model_dtype)
        check_caption_length(max_caption_length)
        self.backbone_name, self.pretrained = backbone, pretrained
        self.language_model_name, self.language_model_pretrained = language_model, language_model_pretrained
        self.visual, self.prefix_length, self.max_caption_length = visual, prefix_length, max_caption_length
        self.parts: dict[str, Part] = {"vision": vision, "language": language}
        self.input_spec, figures = clip.preprocessing(backbone)
        self.normalize = Normalize(*figures)

        tower = clip.create_vision(backbone, pretrained=pretrained)
        config: Any = tower.config
        tokens = (config.image_size // config.patch_size) ** 2 + 1
        features = tower.visual_projection.out_features if visual == "pooled" else config.hidden_size
        model = language_models.create(
            language_model, pretrained=language_model_pretrained, dtype=language_model_dtype
        )
        embeddings: Any = model.get_input_embeddings()
        self.adapter = create_adapter(
            adapter,
            features=features,
            tokens=None if visual == "pooled" else tokens,
            width=embeddings.embedding_dim,
            prefix_length=prefix_length,
            layers=adapter_layers,
            heads=adapter_heads,
        )
        if visual == "patches":
            for module in stages.stages(tower).above:
                module.requires_grad_(False)  # nothing looks at what they make of the class token
        shared: dict[str, Any] = {"rank": rank, "alpha": alpha, "dropout": dropout, "variant": variant}
        self.vision = _prepared(tower, vision, vision_target_modules, backbone, shared)
        prepared = _prepared(model, language, target_modules, language_model, shared)
        self.decoder = TextDecoder(
            prepared,
            None if building_on_meta() else _encoder(language_model, max_caption_length),
            gradient_checkpointing=gradient_checkpointing,
        )
        self.decoder.check_room(
            prefix_length, max_caption_length, "model.net.max_caption_length", _SHORTER_PREFIX
        )

    def train(self, mode: bool = True) -> Self:
        """Set training mode in what trains."""
        super().train(mode)
        if mode:
            for name, part in (("vision", self.vision), ("language", self.decoder.model)):
                if self.parts[name] == "lora":
                    adapters.keep_base_in_eval(part)
        self.decoder.recompute(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> the prefix, float [B, prefix_length, width]."""
        return self._prefix(self._below(images, self._start()), self._start())

    def frozen_features(self, images: Tensor) -> Tensor:
        """As `FrozenFeatures`: of a frozen tower [B, D] (pooled) or [B, N, D] (patches)."""
        return self._below(images, self._cut())

    def forward_features(self, features: Tensor) -> Tensor:
        """As `FrozenFeatures`: the prefix, float [B, prefix_length, width]."""
        return self._prefix(features, self._cut())

    def cache_key(self) -> str:
        """As `FrozenFeatures`: of the tower; adapter and language model may change."""
        parts = stages.stages(self.vision)
        return stages.key_below(parts, self._cut(), self.normalize.mean, self.normalize.std)

    def encode_fn(self) -> CaptionEncoder:
        """Captions to ids, picklable and without weights."""
        return self.decoder.encoder or _encoder(self.language_model_name, self.max_caption_length)

    def check_generation(self, max_caption_length: int) -> None:
        """Raise ConfigError where the language model has no places for captions of so many tokens."""
        self.decoder.check_room(
            self.prefix_length, max_caption_length, "model.generation.max_new_tokens", _SHORTER_PREFIX
        )

    def loss(self, visual: Tensor, inputs: Mapping[str, Tensor]) -> TokenLoss:
        """See `TextDecoder.loss`."""
        return self.decoder.loss(visual, inputs)

    def dry_step(self, images: Tensor, asked: int, answered: int) -> Tensor:
        """See `TextDecoder.dry_loss`: of a caption every token is learnt."""
        return self.decoder.dry_loss(self(images), asked + answered)

    def generate(self, visual: Tensor, generation: Generation) -> Generated:
        """See `TextDecoder.generate`."""
        return self.decoder.generate(visual, generation)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Those of tower and language model, which may learn at a rate of their own (`optim.groups`)."""
        return [*self.vision.parameters(), *self.decoder.model.parameters()]

    def trained_parts(self) -> dict[str, int]:
        """Trained parameters of the tower, the adapter and the language model."""
        parts = {"vision": self.vision, "adapter": self.adapter, "language model": self.decoder.model}
        return {
            name: sum(value.numel() for value in part.parameters() if value.requires_grad)
            for name, part in parts.items()
        }

    def stored_elsewhere(self) -> frozenset[str]:
        """Names in the state dict that no checkpoint need hold: they don't train, and were loaded."""
        loaded = {"vision.": self.pretrained, "decoder.model.": self.language_model_pretrained}
        prefixes = tuple(prefix for prefix, pretrained in loaded.items() if pretrained is not False)
        # Asked of the tensors: a tied one has two names here, and one among the parameters.
        entries = self.state_dict(keep_vars=True).items()
        return frozenset(n for n, value in entries if n.startswith(prefixes) and not value.requires_grad)

    def check_weights(self) -> None:
        """Raise CheckpointError where weights or tokenizer are neither here nor on the hub."""
        clip.check_weights(self.backbone_name, self.pretrained)
        language_models.check_weights(self.language_model_name, self.language_model_pretrained)

    def peft_directory(self, prefix: str = "") -> dict[str, Any]:
        """How a checkpoint's weights become the directory that PEFT itself loads (`runs.checkpoints`).

        It is for the language model, or for the tower where that alone has adapters; empty without any.
        prefix: what stands before this network's names in the checkpoint.
        """
        for name, place, part in (
            ("language", "decoder.model.", self.decoder.model),
            ("vision", "vision.", self.vision),
        ):
            if self.parts[name] == "lora":
                return adapters.description(part, f"{prefix}{place}")  # type: ignore[arg-type]
        return {}

    # --- the tower, cut where training starts ---

    def _below(self, images: Tensor, start: int) -> Tensor:
        return stages.below(stages.stages(self.vision), self.normalize(images), start)

    def _prefix(self, features: Tensor, start: int) -> Tensor:
        parts = stages.stages(self.vision)
        if self.visual == "pooled":
            features = stages.above(parts, features, start)
        elif start <= len(parts.blocks):
            features = parts.embed(features) if start == 0 else features
            for block in parts.blocks[max(0, start - 1) :]:
                features = parts.run(block, features)
        prefix: Tensor = self.adapter(features.to(next(self.adapter.parameters()).dtype))
        return prefix

    def _start(self) -> int:
        """The stage in which the graph starts; the one behind all that are needed where nothing trains."""
        parts = stages.stages(self.vision)
        last = len(parts.blocks) + (2 if self.visual == "pooled" else 1)
        return min(stages.first_trained(parts), last)

    def _cut(self) -> int:
        start = self._start()
        if start == 0:
            raise ConfigError(
                "nothing of the vision tower is frozen as it stands, so there are no features to keep: type "
                "model.net.vision=frozen, or data.cache=decoded"
            )
        return start


def _encoder(language_model: str, max_caption_length: int) -> CaptionEncoder:
    return CaptionEncoder(language_models.tokenizer(language_model), max_caption_length)


def _prepared(
    module: nn.Module, part: Part, targets: Sequence[str], name: str, shared: Mapping[str, Any]
) -> nn.Module:
    """A part as it takes part in training."""
    if part == "lora":
        return adapters.adapt(module, targets=targets, name=name, **shared)
    if part == "frozen":
        freeze(module)
    return module


def _check(visual: str, vision: str, language: str, dtype: str) -> None:
    problems = [
        f"unknown value model.net.{name}={value}: {', '.join(get_args(choices))}"
        for name, value, choices in (
            ("visual", visual, Visual),
            ("vision", vision, Part),
            ("language", language, Part),
            ("language_model_dtype", dtype, Dtype),
        )
        if value not in get_args(choices)
    ]
    if language == "trained" and dtype == "bfloat16":
        problems.append(
            "model.net.language_model_dtype=bfloat16 is for a language model that is frozen or has adapters: "
            "small steps are lost in it; type model.net.language_model_dtype=float32"
        )
    if problems:
        raise ConfigError(problems)
