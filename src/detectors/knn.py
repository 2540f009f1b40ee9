"""Nearest neighbours in CLIP's feature space: UnivFD's other classifier, in which nothing is trained.

Ojha et al., "Towards Universal Fake Image Detectors that Generalize Across Generative Models", CVPR 2023
(section 4.1): the features of all training images are kept, and an image is taken for whatever most of its
nearest neighbours are, by cosine distance; k was 1, 3, 5 and 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones import clip, freezing, frozen, stages
from ..errors import CheckpointError, ConfigError, DataError
from ..images.geometry import InputSpec
from .clip import TIMM, vision_tower


class ClipKNN(freezing.KeepsFrozen):
    """A frozen CLIP image tower, and a bank of the normalised features of real and of generated images.

    backbone, pretrained: as in `detectors.clip.ClipLinear`.
    k: how many neighbours vote, an odd number.
    resize: whether images are prepared as the CLIP's own are; False crops them in the centre to the side that
        the tower takes (224), with black around smaller ones, as UnivFD does.

    logit = d_real - d_generated, the cosine distances of the ((k + 1) / 2)-th nearest real and generated
    image. With k = 1 these are the nearest ones. It is above 0 where most of the k nearest are generated: of
    an odd number of votes a class has most if, and only if, its ((k + 1) / 2)-th image comes before the other
    one's. Distances differ by hundredths, so that probabilities lie near one half.

    The bank (`real` and `generated`, float32 [N, D]) starts empty and is filled from a whole train split
    (`FeatureBank`), which data.limit makes smaller.
    """

    real: Tensor
    generated: Tensor

    def __init__(
        self, *, backbone: str = clip.DEFAULT, pretrained: bool | str, k: int = 1, resize: bool = True
    ) -> None:
        super().__init__()
        if k < 1 or k % 2 == 0:
            raise ConfigError(f"model.net.k={k} neighbours may vote evenly: an odd number such as 1, 3, 5, 9")
        self.k = k
        self.backbone_name, self.pretrained = backbone, pretrained
        self.backbone, width, spec, self.normalize = vision_tower(backbone, pretrained)
        freezing.freeze(self.backbone)
        self.input_spec = spec if resize else InputSpec(size=None, resize="none", crop=spec.output_size)
        self.register_buffer("real", torch.empty(0, width))
        self.register_buffer("generated", torch.empty(0, width))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B].

        Raises CheckpointError as long as the bank is empty.
        """
        return self.forward_features(self.frozen_features(images))

    def frozen_features(self, images: Tensor) -> Tensor:
        """As `FrozenFeatures`: features [B, D], not normalised."""
        parts = stages.stages(self.backbone)
        return stages.below(parts, self.normalize(images), len(parts.blocks) + 2)

    def forward_features(self, features: Tensor) -> Tensor:
        """As `FrozenFeatures`."""
        if self.bank_is_empty():
            raise CheckpointError(
                f"the bank of {type(self).__name__} is empty, so an image has no neighbours: type "
                "tapetum train model=… data=… and name the run that it makes, or weights=RUN"
            )
        self._check_votes(self.real, self.generated)
        return self._distance(features, self.real) - self._distance(features, self.generated)

    def bank_is_empty(self) -> bool:
        """As `FeatureBank`."""
        return not (len(self.real) and len(self.generated))

    def remember(self, features: Tensor, labels: Tensor) -> None:
        """As `FeatureBank`; raises DataError where a class has fewer images than can decide a vote."""
        unit = F.normalize(features.float(), dim=1)
        real, generated = (unit[labels == label] for label in (0, 1))
        self._check_votes(real, generated)
        self.real, self.generated = real.to(self.real), generated.to(self.generated)

    def make_room(self, weights: Mapping[str, Tensor]) -> None:
        """As `FeatureBank`."""
        for name in ("real", "generated"):
            bank: Tensor = getattr(self, name)
            if name in weights and weights[name].shape[1:] == bank.shape[1:]:
                setattr(self, name, bank.new_empty(weights[name].shape))

    def cache_key(self) -> str:
        """As `FrozenFeatures`."""
        parts = stages.stages(self.backbone)
        return stages.key_below(parts, len(parts.blocks) + 2, self.normalize.mean, self.normalize.std)

    def stored_elsewhere(self) -> frozenset[str]:
        """Names in the state dict that no checkpoint need hold: frozen, and loaded from `pretrained`."""
        return frozenset() if self.pretrained is False else frozen.untrained(self, "backbone.")

    def check_weights(self) -> None:
        """Raise CheckpointError where weights are neither here nor on the hub; timm says so on loading."""
        if not self.backbone_name.startswith(TIMM):
            clip.check_weights(self.backbone_name, self.pretrained)

    def _check_votes(self, real: Tensor, generated: Tensor) -> None:
        if min(len(real), len(generated)) < self._rank:
            raise DataError(
                f"{len(real):,} real and {len(generated):,} generated training images are too few for a vote "
                f"of {self.k}: each class needs {self._rank} at least, so type a smaller model.net.k"
                + (" or give it images of both classes" if not (len(real) and len(generated)) else "")
            )

    @property
    def _rank(self) -> int:
        return (self.k + 1) // 2

    def _distance(self, features: Tensor, bank: Tensor) -> Tensor:
        """Cosine distance float32 [B] to the image of a bank that decides the vote."""
        # Autocast would round what differs by hundredths.
        with nullcontext() if features.is_meta else torch.autocast(features.device.type, enabled=False):
            similar = F.normalize(features.float(), dim=1) @ bank.T
        return 1 - similar.topk(self._rank, dim=1).values[:, -1]
