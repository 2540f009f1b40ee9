"""Losses of a detector: logits and targets in, one number out.

A loss is any callable `(logits, targets) -> scalar tensor`; these are the two that the field trains with.
Classes are numbered 0 = real and 1 = generated, or by generator where the network attributes.
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
    """Class weights given as numbers, or derived from the counts of the training split by `fit_classes`."""

    weights: Tensor | None

    def __init__(self, class_weights: ClassWeights, label_smoothing: float) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(f"model.loss.label_smoothing={label_smoothing} must lie in [0, 1)")
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise ConfigError(
                f"unknown value model.loss.class_weights={class_weights}: balanced, or a number for each "
                f"class, model.loss.class_weights=[1.0,2.0]"
            )
        self.balanced = class_weights == "balanced"
        self.label_smoothing = label_smoothing
        given = None
        if class_weights is not None and not isinstance(class_weights, str):
            given = torch.tensor([float(weight) for weight in class_weights])
        self.register_buffer("weights", given, persistent=False)

    def fit_classes(self, counts: Sequence[int]) -> None:
        """Turn `balanced` into weights n / (k · n_class), from the images a class of the training split."""
        if self.balanced:
            total = torch.tensor(counts, dtype=torch.float32)
            if (total == 0).any():
                raise ConfigError(
                    f"model.loss.class_weights=balanced needs images of every class, but the training split "
                    f"has {list(counts)}: give numbers, model.loss.class_weights=[1.0,2.0]"
                )
            self.weights = total.sum() / (len(counts) * total)

    def weights_of(self, classes: int) -> Tensor | None:
        """float32 [classes], None for equal weights; ConfigError where there are not so many."""
        if self.weights is None:
            if self.balanced:
                raise ConfigError(
                    "model.loss.class_weights=balanced needs the images of each class: DetectionModule takes "
                    "them as class_counts"
                )
            return None
        if len(self.weights) != classes:
            raise ConfigError(
                f"model.loss.class_weights has {len(self.weights)} numbers"
                f"{' (balanced counts real and generated images)' if self.balanced else ''}, but there are "
                f"{classes} classes: give {classes} numbers, or model.loss.class_weights=null"
            )
        return self.weights


class BinaryCrossEntropy(_Weighted):
    """Binary cross-entropy of logits float [B] against labels int64 [B].

    label_smoothing s moves the targets to s/2 and 1 − s/2; class_weights are [real, generated] or `balanced`,
    and the mean is taken over the batch, not over the weights.
    """

    def __init__(self, class_weights: ClassWeights = None, label_smoothing: float = 0.0) -> None:
        super().__init__(class_weights, label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar float32."""
        if logits.ndim != 1:
            raise ConfigError(
                f"BinaryCrossEntropy takes one logit an image, but the network returned "
                f"{tuple(logits.shape)}: type model.net.classes=1, or "
                f"model.loss._target_=tapetum.modules.losses.CrossEntropy"
            )
        smooth = targets.float()
        if self.label_smoothing:
            smooth = smooth * (1 - self.label_smoothing) + self.label_smoothing / 2
        weights = self.weights_of(2)
        weight = None if weights is None else weights[targets.long()]
        return F.binary_cross_entropy_with_logits(logits.float(), smooth, weight=weight)


class CrossEntropy(_Weighted):
    """Cross-entropy of logits float [B, k] against class numbers int64 [B], class 0 = real.

    Smoothing and weights as torch.nn.functional.cross_entropy has them: s/k for every class, and a mean over
    the weights of the batch.
    """

    def __init__(self, class_weights: ClassWeights = None, label_smoothing: float = 0.0) -> None:
        super().__init__(class_weights, label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar float32."""
        if logits.ndim != 2:
            raise ConfigError(
                f"CrossEntropy takes logits [B, k], but the network returned {tuple(logits.shape)}: type "
                f"model.net.classes=2, or model.loss._target_=tapetum.modules.losses.BinaryCrossEntropy"
            )
        weights = self.weights_of(logits.shape[1])
        return F.cross_entropy(logits.float(), targets, weight=weights, label_smoothing=self.label_smoothing)


class Sum(nn.Module):
    """A weighted sum of losses: what a list of {loss, weight} on the command line becomes.

    In a YAML, where a list can't replace a mapping, `model.loss` names this class, its terms and weights.
    """

    def __init__(
        self, terms: Sequence[Callable[[Tensor, Tensor], Tensor]], weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not terms:
            raise ConfigError("model.loss.terms is empty: give it the losses that are added up")
        if weights is not None and len(weights) != len(terms):
            raise ConfigError(
                f"model.loss has {len(terms)} terms and {len(weights)} weights: give a weight for each term, "
                f"or model.loss.weights=null"
            )
        self.terms = list(terms)
        self.weights = [1.0] * len(terms) if weights is None else [float(weight) for weight in weights]
        self.modules_among_terms = nn.ModuleList([term for term in terms if isinstance(term, nn.Module)])

    def fit_classes(self, counts: Sequence[int]) -> None:
        """Pass the class counts on to the terms that want them."""
        for term in self.terms:
            if hasattr(term, "fit_classes"):
                term.fit_classes(counts)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar: Σ weight · loss(logits, targets)."""
        total = torch.zeros((), device=logits.device)
        for term, weight in zip(self.terms, self.weights, strict=True):
            total = total + weight * term(logits, targets)
        return total


def check_classes(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor) -> None:
    """Raise ConfigError where a cross-entropy of torch's over classes meets one logit an image.

    It would take the batch for the classes, and train nonsense without a word.
    """
    if outputs.ndim != 1:
        return
    for one in loss.terms if isinstance(loss, Sum) else [loss]:
        called = getattr(one, "func", one)
        if isinstance(called, nn.CrossEntropyLoss) or called is F.cross_entropy:
            raise ConfigError(
                "torch.nn.CrossEntropyLoss takes logits [B, k], but the network returned one logit an image, "
                "and it would take the images of a batch for its classes: type model.net.classes=2, or "
                "model.loss._target_=torch.nn.BCEWithLogitsLoss"
            )
