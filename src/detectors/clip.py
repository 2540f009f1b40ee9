"""CLIP as a detector: zero-shot, a head on frozen features, fine-tuned, and with low-rank adapters.

Radford et al. 2021; Khan and Dang-Nguyen 2024 (CLIPping the Deception) compare these ways of using it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import adapters, clip, frozen, stages, text, timm_tower
from ..backbones.freezing import KeepsFrozen, freeze
from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..images.normalize import Normalize

TIMM = "timm/"
"""A backbone that begins so is a vision transformer of timm: timm/vit_base_patch32_clip_224.openai."""

ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


class ClipZeroShot(KeepsFrozen):
    """CLIP as it is: logit = scale * (cos(image, generated) - cos(image, real)).

    backbone, pretrained: see `backbones.clip.create`.
    templates: prompts with `{}` where a name goes. real, generated: names of the two classes.
    A class is the mean over its names and all templates of normalised text features, normalised again, as in
    Radford et al. 2021 (section 3.1.4).
    """

    text_features: Tensor

    def __init__(
        self,
        *,
        backbone: str = clip.DEFAULT,
        pretrained: bool | str,
        templates: Sequence[str] = ("a photo of a {} image.",),
        real: Sequence[str] = ("real",),
        generated: Sequence[str] = ("generated",),
    ) -> None:
        super().__init__()
        no_text_tower(backbone)
        self.backbone_name, self.pretrained = backbone, pretrained
        self.input_spec, figures = clip.preprocessing(backbone)
        self.normalize = Normalize(*figures)
        self.clip = clip.create(backbone, pretrained=pretrained)
        freeze(self.clip)
        prompts = [text.fill(templates, names) for names in (real, generated)]
        self._tokens = text.tokens_or_shape(backbone, [one for group in prompts for one in group], self.clip)
        self._sizes = [len(group) for group in prompts]
        self.register_buffer("text_features", self._class_features(), persistent=False)
        # Weights that are loaded later change what the prompts mean.
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B]."""
        return self.forward_features(self.frozen_features(images))

    def frozen_features(self, images: Tensor) -> Tensor:
        """As `FrozenFeatures`: image features [B, D], not normalised."""
        return stages.below(stages.stages(self.clip), self.normalize(images), self._end())

    def forward_features(self, features: Tensor) -> Tensor:
        """As `FrozenFeatures`."""
        return two_way(features, self.text_features, self.clip.logit_scale)

    def cache_key(self) -> str:
        """As `FrozenFeatures`: of the image tower; prompts may change."""
        return stages.key_below(
            stages.stages(self.clip), self._end(), self.normalize.mean, self.normalize.std
        )

    def check_weights(self) -> None:
        """Raise CheckpointError where weights or tokenizer are neither here nor on the hub."""
        clip.check_weights(self.backbone_name, self.pretrained, text=True)

    def _end(self) -> int:
        return len(self.clip.vision_model.encoder.layers) + 2

    def _class_features(self) -> Tensor:
        ids, ends = (one.to(self.clip.logit_scale.device) for one in self._tokens)
        with torch.no_grad():
            embedded = self.clip.text_model.embeddings.token_embedding(ids)
            features = F.normalize(text.encode(self.clip, embedded, ends), dim=1)
            means = [group.mean(0) for group in torch.split(features, self._sizes)]
            return F.normalize(torch.stack(means), dim=1)


def _refresh(network: nn.Module, _: object) -> None:
    """A hook of torch, which calls it when weights have been loaded."""
    if isinstance(network, ClipZeroShot):
        network.text_features = network._class_features().to(network.text_features)


class _Staged(KeepsFrozen):
    """An image tower under a head, cut where training starts; what the next three have in common."""

    backbone: nn.Module
    head: nn.Module
    input_spec: InputSpec

    def __init__(
        self, name: str, pretrained: bool | str, hidden: int | None, dropout: float, classes: int
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ConfigError(
                f"model.net.classes={classes} is no number of outputs: 1 (a logit) or more (k-way)"
            )
        self.backbone_name, self.pretrained = name, pretrained
        self.classes = classes
        self.backbone, width, self.input_spec, self.normalize = vision_tower(name, pretrained)
        self.head = _head(width, hidden, dropout, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B], or [B, classes] when k-way."""
        parts = stages.stages(self.backbone)
        start = stages.first_trained(parts)
        return self._logits(parts, stages.below(parts, self.normalize(images), start), start)

    def frozen_features(self, images: Tensor) -> Tensor:
        """As `FrozenFeatures`: features [B, W], or tokens [B, N, D] that enter the first trained block."""
        parts = stages.stages(self.backbone)
        return stages.below(parts, self.normalize(images), self._cut(parts))

    def forward_features(self, features: Tensor) -> Tensor:
        """As `FrozenFeatures`."""
        parts = stages.stages(self.backbone)
        return self._logits(parts, features, self._cut(parts))

    def cache_key(self) -> str:
        """As `FrozenFeatures`."""
        parts = stages.stages(self.backbone)
        return stages.key_below(parts, self._cut(parts), self.normalize.mean, self.normalize.std)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters that may learn at a rate of their own (`optim.groups`)."""
        return list(self.backbone.parameters())

    def stored_elsewhere(self) -> frozenset[str]:
        """Names in the state dict that no checkpoint need hold: frozen, and loaded from `pretrained`."""
        return frozenset() if self.pretrained is False else frozen.untrained(self, "backbone.")

    def check_weights(self) -> None:
        """Raise CheckpointError where weights are neither here nor on the hub; timm says so on loading."""
        if not self.backbone_name.startswith(TIMM):
            clip.check_weights(self.backbone_name, self.pretrained)

    def _logits(self, parts: stages.Stages, features: Tensor, start: int) -> Tensor:
        logits: Tensor = self.head(stages.above(parts, features, start)).float()
        return logits.squeeze(1) if self.classes == 1 else logits

    def _cut(self, parts: stages.Stages) -> int:
        start = stages.first_trained(parts)
        if start == 0:
            raise ConfigError(
                f"nothing of {type(self).__name__} is frozen as it stands, so there are no features to keep: "
                f"type data.cache=none, or train the last blocks only (model.net.last_blocks=4)"
            )
        return start


class ClipLinear(_Staged):
    """A head on the frozen image features of a CLIP (`encode_image`, after the projection, not normalised).

    backbone, pretrained: see `backbones.clip.create`; or timm/NAME for a vision transformer of timm.
    hidden: None for a linear head; a width for Linear, ReLU, Dropout, Linear.
    dropout: share of the features (of the hidden layer where there is one) that is dropped in training.
    classes: 1 for one logit (positive means generated), k > 1 for k-way attribution with class 0 = real.
    """

    def __init__(
        self,
        *,
        backbone: str = clip.DEFAULT,
        pretrained: bool | str,
        hidden: int | None = None,
        dropout: float = 0.0,
        classes: int = 1,
    ) -> None:
        super().__init__(backbone, pretrained, hidden, dropout, classes)
        freeze(self.backbone)


class ClipFinetune(_Staged):
    """A CLIP's image tower trained with a linear head, all of it or its last blocks.

    backbone, pretrained, classes: as in `ClipLinear`.
    last_blocks: how many blocks train, with what follows them; None for the whole tower.
    layer_decay: a block's learning rate as a share of the next one's; 1 for one rate (BEiT, Bao et al. 2022).
    dropout: share of the features that is dropped in front of the head.
    """

    def __init__(
        self,
        *,
        backbone: str = clip.DEFAULT,
        pretrained: bool | str,
        last_blocks: int | None = None,
        layer_decay: float = 1.0,
        dropout: float = 0.0,
        classes: int = 1,
    ) -> None:
        super().__init__(backbone, pretrained, None, dropout, classes)
        if not 0 < layer_decay <= 1:
            raise ConfigError(f"model.net.layer_decay={layer_decay} is no share: above 0, and 1 for one rate")
        self.layer_decay = layer_decay
        parts = stages.stages(self.backbone)
        if last_blocks is not None:
            for block in parts.blocks[: -len(_last(last_blocks, parts))]:
                freeze(block)
            for _, value in stages.stem(parts):
                value.requires_grad_(False)

    def lr_scales(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Parts of the tower from the stem on, each with its share of the learning rate (`optim.groups`)."""
        if self.layer_decay == 1:
            return []
        parts = stages.stages(self.backbone)
        layers = [
            [value for _, value in stages.stem(parts)],
            *(list(block.parameters()) for block in parts.blocks),
        ]
        return [(self.layer_decay ** (len(layers) - place), layer) for place, layer in enumerate(layers)]


class ClipLoRA(_Staged):
    """A frozen CLIP image tower with low-rank adapters, and a linear head that trains with them.

    backbone, pretrained, classes: as in `ClipLinear`.
    rank, alpha, dropout, target_modules, variant: see `backbones.adapters.adapt`; in timm's towers the layers
        are `qkv`, `proj`, `fc1` and `fc2`.
    last_blocks: how many blocks get adapters; None for all. What lies below the first runs without a graph.
    """

    def __init__(
        self,
        *,
        backbone: str = clip.DEFAULT,
        pretrained: bool | str,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.05,
        target_modules: Sequence[str] = ATTENTION,
        last_blocks: int | None = None,
        variant: adapters.Variant = "lora",
        classes: int = 1,
    ) -> None:
        super().__init__(backbone, pretrained, None, 0.0, classes)
        self.alpha, self.variant = alpha, variant
        parts = stages.stages(self.backbone)
        self.backbone = adapters.adapt(
            self.backbone,
            targets=target_modules,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            variant=variant,
            layers=None if last_blocks is None else _last(last_blocks, parts),
            pattern="blocks" if backbone.startswith(TIMM) else "layers",
            name=backbone,
        )

    def train(self, mode: bool = True) -> Self:
        """Set training mode in the adapters and the head."""
        super().train(mode)
        if mode:
            adapters.keep_base_in_eval(self.backbone)
        return self

    def extra_repr(self) -> str:
        """For print(network), beside what the layers say themselves."""
        return f"alpha={self.alpha}, variant={self.variant}"

    def trained_parts(self) -> dict[str, int]:
        """Trained parameters: of each kind of adapted layer, with its number, and of the head."""
        rows = {f"{row.name} ({row.modules})": row.parameters for row in adapters.trained(self.backbone)}
        return rows | {"head": sum(value.numel() for value in self.head.parameters())}

    def peft_directory(self, prefix: str = "") -> dict[str, Any]:
        """How a checkpoint's weights become the directory that PEFT itself loads (`runs.checkpoints`).

        prefix: what stands before this network's names there.
        """
        return adapters.description(self.backbone, f"{prefix}backbone.")  # type: ignore[arg-type]

    def merge(self) -> None:
        """Add the adapters' updates to the weights, in place: what is computed stays, the adapters go."""
        self.backbone = adapters.merged(self.backbone)  # type: ignore[arg-type]
        self.pretrained = False  # the weights are no longer those from elsewhere


def two_way(features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """scale * (cos(image, generated) - cos(image, real)), float32 [B].

    features: [B, D], not normalised. text_features: [2, D], normalised, real first. logit_scale: log(scale).
    """
    # Not a matrix product, which autocast would round: a hundredth of a cosine is a whole logit.
    between = text_features[1].float() - text_features[0].float()
    return logit_scale.float().exp() * (F.normalize(features.float(), dim=1) * between).sum(dim=1)


def no_text_tower(backbone: str) -> None:
    """Raise ConfigError for a backbone that has a vision tower only."""
    if backbone.startswith(TIMM):
        raise ConfigError(
            f"model.net.backbone={backbone} is a vision tower of timm without its text tower: name a CLIP of "
            f"Hugging Face such as {clip.DEFAULT}, or type model=clip_linear"
        )


def vision_tower(name: str, pretrained: bool | str) -> tuple[nn.Module, int, InputSpec, Normalize]:
    """An image tower, the length of its features, and how it wants to be fed.

    name: a CLIP of Hugging Face (`encode_image` are its features), or timm/NAME for a vision transformer of
    timm. pretrained: see `backbones.clip.create`.
    """
    if name.startswith(TIMM):
        timm_name = name.removeprefix(TIMM)
        config = timm_tower.pretrained_config(timm_name)
        tower = timm_tower.create(timm_name, pretrained=pretrained)
        stages.stages(tower)  # refuses what is no vision transformer
        normalize = Normalize(*timm_tower.statistics(config, 3))
        return tower, timm_tower.width(tower), timm_tower.geometry(config, None, 3), normalize
    spec, figures = clip.preprocessing(name)
    vision = clip.create_vision(name, pretrained=pretrained)
    return vision, vision.visual_projection.out_features, spec, Normalize(*figures)


def _head(width: int, hidden: int | None, dropout: float, classes: int) -> nn.Sequential:
    if hidden is None:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, classes)
    )


def _last(count: int, parts: stages.Stages) -> range:
    """Numbers of the last `count` blocks."""
    there = len(parts.blocks)
    if not 1 <= count <= there:
        raise ConfigError(
            f"model.net.last_blocks={count}, but the tower has {there}: 1 to {there}, or null for all"
        )
    return range(there - count, there)
