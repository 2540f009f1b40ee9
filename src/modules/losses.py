"""Losses of a detector: logits and targets in, one number out.

A loss is any callable `(logits, targets) -> scalar tensor`; these are the two that the field trains with. Classes
are numbered 0 = real and 1 = generated, or by generator where the network attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError

ClassWeights = Sequence[float] | Literal["balanced"] | None


class _Weighted(nn.Module):
    """Class weights given as numbers, or derived from the counts of the training split."""

    weights: Tensor | None

    def __init__(self, class_weights: ClassWeights, label_smoothing: float) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(f"model.loss.label_smoothing={label_smoothing} must lie in [0, 1)")
        self.balanced = class_weights == "balanced"
        self.label_smoothing = label_smoothing
        given = None if class_weights is None or isinstance(class_weights, str) else torch.tensor(class_weights)
        self.register_buffer("weights", given, persistent=False)

    def fit_classes(self, counts: Sequence[int]) -> None:
        """Turn `balanced` into weights n / (k · n_class), from the images of each class in the training split."""
        if self.balanced:
            total = torch.tensor(counts, dtype=torch.float32)
            if (total == 0).any():
                raise ConfigError(
                    f"model.loss.class_weights=balanced needs images of every class, but the training split has "
                    f"{list(counts)}: give numbers, model.loss.class_weights=[1.0,2.0]"
                )
            self.weights = total.sum() / (len(counts) * total)


class BinaryCrossEntropy(_Weighted):
    """Binary cross-entropy of logits float [B] against labels int64 [B].

    label_smoothing s moves the targets to s/2 and 1 − s/2; class_weights are [real, generated] or `balanced`, and
    the mean is taken over the batch, not over the weights.
    """

    def __init__(self, class_weights: ClassWeights = None, label_smoothing: float = 0.0) -> None:
        super().__init__(class_weights, label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar float32."""
        if logits.ndim != 1:
            raise ConfigError(
                f"BinaryCrossEntropy takes one logit an image, but the network returned {tuple(logits.shape)}: "
                f"type model.net.classes=1, or model.loss._target_=tapetum.modules.losses.CrossEntropy"
            )
        smooth = targets.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        weight = None if self.weights is None else self.weights[targets]
        return F.binary_cross_entropy_with_logits(logits.float(), smooth, weight=weight)


class CrossEntropy(_Weighted):
    """Cross-entropy of logits float [B, k] against class numbers int64 [B], class 0 = real."""

    def __init__(self, class_weights: ClassWeights = None, label_smoothing: float = 0.0) -> None:
        super().__init__(class_weights, label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar float32."""
        if logits.ndim != 2:
            raise ConfigError(
                f"CrossEntropy takes logits [B, k], but the network returned {tuple(logits.shape)}: type "
                f"model.net.classes=2, or model.loss._target_=tapetum.modules.losses.BinaryCrossEntropy"
            )
        return F.cross_entropy(logits.float(), targets, weight=self.weights, label_smoothing=self.label_smoothing)


class Sum(nn.Module):
    """A weighted sum of losses: what a list of {loss, weight} in the config becomes."""

    def __init__(self, terms: Sequence[Callable[[Tensor, Tensor], Tensor]], weights: Sequence[float]) -> None:
        super().__init__()
        self.terms = list(terms)
        self.weights = list(weights)
        self.modules_among_terms = nn.ModuleList([term for term in terms if isinstance(term, nn.Module)])

    def fit_classes(self, counts: Sequence[int]) -> None:
        """Pass the class counts on to the terms that want them."""
        for term in self.terms:
            if isinstance(term, _Weighted):
                term.fit_classes(counts)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar: Σ weight · loss(logits, targets)."""
        total = torch.zeros((), device=logits.device)
        for term, weight in zip(self.terms, self.weights, strict=True):
            total = total + weight * term(logits, targets)
        return total
