"""Prompt tuning: the words around a class name are learned vectors, all of CLIP is frozen.

CoOp, Zhou et al. 2022 (section 3.2, KaiyangZhou/CoOp); for detection Khan and Dang-Nguyen 2024.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import clip, frozen, stages, text
from ..backbones.freezing import KeepsFrozen, freeze
from ..backbones.weights import building_on_meta
from ..errors import ConfigError
from ..images.normalize import Normalize
from .clip import no_text_tower, two_way

Position = Literal["front", "middle", "end"]

LENGTH = 10


class ClipPrompt(KeepsFrozen):
    """logit = scale * (cos(image, generated) - cos(image, real)), where prompts have a learned context.

    backbone, pretrained: see `backbones.clip.create`.
    context_length: number of learned vectors; None for 10, or as many as `context` has tokens.
    context: words that they start from; None for N(0, 0.02).
    position: where the name of the class stands: in front of the context, in its middle, or at its end.
    class_specific: whether each class learns a context of its own (CSC).
    real, generated: names of the two classes.
    """

    ids: Tensor
    slots: Tensor
    ends: Tensor

    def __init__(
        self,
        *,
        backbone: str = clip.DEFAULT,
        pretrained: bool | str,
        context_length: int | None = None,
        context: str | None = None,
        position: Position = "end",
        class_specific: bool = False,
        real: str = "real",
        generated: str = "generated",
    ) -> None:
        super().__init__()
        no_text_tower(backbone)
        self.backbone_name, self.pretrained = backbone, pretrained
        self.position = position
        self.input_spec, statistics = clip.preprocessing(backbone)
        self.normalize = Normalize(*statistics)
        self.clip = clip.create(backbone, pretrained=pretrained)
        freeze(self.clip)
        words = text.tokens(backbone, [context])[0] if context is not None else None
        length = _length(context_length, context, words)
        self.ctx = nn.Parameter(self._start(length, words, class_specific))
        rows = _rows(backbone, (real, generated), length, position)
        for name, value in zip(("ids", "slots", "ends"), rows, strict=True):
            self.register_buffer(name, value, persistent=False)
        text.check_length(
            self.ids.shape[1], self.clip, f"{length} learned vectors, {real!r} or {generated!r}"
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B]."""
        return self.forward_features(self.frozen_features(images))

    def frozen_features(self, images: Tensor) -> Tensor:
        """As `FrozenFeatures`: image features [B, D], not normalised."""
        return stages.below(stages.stages(self.clip), self.normalize(images), self._end())

    def forward_features(self, features: Tensor) -> Tensor:
        """As `FrozenFeatures`; the prompts run through the text tower each time."""
        return two_way(features, self.text_features(), self.clip.logit_scale)

    def cache_key(self) -> str:
        """As `FrozenFeatures`: of the image tower."""
        return stages.key_below(
            stages.stages(self.clip), self._end(), self.normalize.mean, self.normalize.std
        )

    def text_features(self) -> Tensor:
        """Normalised features [2, D] of the two prompts as they are now, real first."""
        embedded = self.clip.text_model.embeddings.token_embedding(self.ids)
        own = torch.arange(2, device=self.slots.device).unsqueeze(1)
        ctx = self.ctx if self.ctx.ndim == 3 else self.ctx.expand(2, -1, -1)
        learned = ctx[own, self.slots.clamp(min=0)]
        prompts = torch.where((self.slots >= 0).unsqueeze(2), learned, embedded)
        return F.normalize(text.encode(self.clip, prompts, self.ends), dim=1)

    def stored_elsewhere(self) -> frozenset[str]:
        """Names in the state dict that no checkpoint need hold: all of CLIP, where it is a pretrained one."""
        return frozenset() if self.pretrained is False else frozen.untrained(self, "clip.")

    def check_weights(self) -> None:
        """Raise CheckpointError where weights or tokenizer are neither here nor on the hub."""
        clip.check_weights(self.backbone_name, self.pretrained, text=True)

    def _start(self, length: int, words: list[int] | None, class_specific: bool) -> Tensor:
        embedding = self.clip.text_model.embeddings.token_embedding
        shape = (2, length) if class_specific else (length,)
        if words is None:
            return torch.randn(*shape, embedding.embedding_dim) * 0.02
        start: Tensor = embedding(torch.tensor(words)).detach()
        return start.expand(*shape, -1).clone()

    def _end(self) -> int:
        return len(self.clip.vision_model.encoder.layers) + 2


def _length(asked: int | None, context: str | None, words: list[int] | None) -> int:
    if words is None:
        if asked is not None and asked < 1:
            raise ConfigError(f"model.net.context_length={asked} is no length: 1 or more, {LENGTH} is usual")
        return LENGTH if asked is None else asked
    if not words:
        raise ConfigError(
            f"model.net.context={context!r} has no words: name some, or null for random vectors"
        )
    if asked not in (None, len(words)):
        raise ConfigError(
            f"model.net.context_length={asked}, but model.net.context={context!r} has {len(words)} tokens, "
            f"and their number is the length: leave context_length null"
        )
    return len(words)


def _rows(
    backbone: str, names: tuple[str, str], length: int, position: Position
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids [2, L], the slot of the context that stands at each place (-1: none), and the ends [2]."""
    half = {"front": 0, "middle": length // 2, "end": length}
    if position not in half:
        raise ConfigError(f"model.net.position={position} is none of {', '.join(half)}")
    if building_on_meta():
        slots = torch.full((2, length + 4), -1)
        return torch.zeros_like(slots), slots, torch.zeros(2, dtype=torch.long)
    start, end = text.marks(backbone)
    alone, dotted = text.tokens(backbone, names), text.tokens(backbone, [f"{name}." for name in names])
    before, after = list(range(half[position])), list(range(half[position], length))
    rows: list[list[int]] = []
    slots_of: list[list[int]] = []
    for name, tail in zip(alone, dotted, strict=True):
        if not name:
            raise ConfigError(
                "a class of a CLIP has no name: model.net.real and model.net.generated name them"
            )
        dot = tail[len(name) :]
        rows.append([start, *[0] * len(before), *name, *[0] * len(after), *dot, end])
        slots_of.append([-1, *before, *[-1] * len(name), *after, *[-1] * (len(dot) + 1)])
    longest = max(map(len, rows))
    ids = torch.tensor([row + [end] * (longest - len(row)) for row in rows])
    slots = torch.tensor([row + [-1] * (longest - len(row)) for row in slots_of])
    return ids, slots, torch.tensor([len(row) - 1 for row in rows])
