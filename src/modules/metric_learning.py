"""Losses and miners of pytorch-metric-learning as a network is trained with them.

The library is MIT licensed (Musgrave, Belongie and Lim). What a loss asks for and only the program knows, the
number of classes and the length of an embedding, is filled in here.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pytorch_metric_learning.losses import CrossBatchMemory
from pytorch_metric_learning.miners import BaseMiner, TripletMarginMiner
from torch import Tensor, nn

from ..errors import ConfigError

_COUNTS = ("num_classes",)
_DIMENSIONS = ("embedding_size",)


@dataclass(frozen=True)
class WarmStart:
    """A classification term that trains first.

    loss: of embeddings and labels, without a miner. epochs: in which it trains alone. weight: of it beside
    the loss afterwards, 0 drops it.
    """

    loss: nn.Module
    epochs: int
    weight: float


def completed(loss: Any, *, key: str, classes: int, dimension: int) -> nn.Module:
    """A loss from a node of the config, with what it asks for.

    loss: a partial, or a module that is complete. classes, dimension: of the training split and the network.
    Raises ConfigError for anything that is no loss of embeddings and labels.
    """
    if isinstance(loss, partial):
        asked = _parameters(loss.func)
        known = dict.fromkeys(_COUNTS, classes) | dict.fromkeys(_DIMENSIONS, dimension)
        given = {name: value for name, value in known.items() if name in asked and name not in loss.keywords}
        try:
            loss = loss(**given)
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"{key}: {loss.func.__name__} refused its arguments: {error}") from error
    if not isinstance(loss, nn.Module):
        raise ConfigError(
            f"{key} is {type(loss).__name__}, which is no loss of embeddings and labels: type "
            f"{key}._target_=pytorch_metric_learning.losses.TripletMarginLoss"
        )
    return loss


def _parameters(kind: Any) -> set[str]:
    """Names that a class takes, those too that it hands on to its bases (`*args, **kwargs`)."""
    bases = inspect.getmro(kind) if inspect.isclass(kind) else ()
    parts = [vars(one)["__init__"] for one in bases if "__init__" in vars(one)] or [kind]
    return {name for part in parts for name in inspect.signature(part).parameters}


def warm_start(node: Any, *, classes: int, dimension: int) -> WarmStart | None:
    """`model.warm_start` as it is trained with, None for no epochs; ConfigError for what it can't be."""
    if node is None:
        return None
    unknown = sorted(set(node) - {"loss", "epochs", "weight"})
    if unknown:
        raise ConfigError(f"unknown key model.warm_start.{unknown[0]}: it takes loss, epochs and weight")
    if node.get("loss") is None:
        raise ConfigError(
            "model.warm_start.loss is missing: type "
            "model.warm_start.loss._target_=pytorch_metric_learning.losses.NormalizedSoftmaxLoss"
        )
    epochs, weight = node.get("epochs", 1), node.get("weight", 0.0)
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 0:
        raise ConfigError(f"model.warm_start.epochs={epochs} must be a whole number, 0 for no warm start")
    if weight < 0:
        raise ConfigError(f"model.warm_start.weight={weight} must be at least 0")
    if not epochs:
        return None
    loss = completed(node["loss"], key="model.warm_start.loss", classes=classes, dimension=dimension)
    return WarmStart(loss, epochs, float(weight))


class SemiHardMiner(TripletMarginMiner):  # type: ignore[misc]  # the library has no types
    """Triplets whose negative is farther than the positive, by less than the margin (Schroff et al., 2015).

    What hard ones do to a network that knows nothing, these do not: see `metrics.embedding_health`.
    """

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__(margin=margin, type_of_triplets="semihard")


class MinedLoss(nn.Module):
    """A loss over the pairs or triplets that a miner picks, and over all of them without one.

    memory: so many embeddings of past batches to compare with (cross-batch memory, Wang et al., CVPR 2020),
        0 for none. Its queue is part of the state dict, so a resumed run goes on with it.
    """

    def __init__(self, loss: nn.Module, miner: nn.Module | None, *, memory: int, dimension: int) -> None:
        super().__init__()
        if miner is not None and not isinstance(miner, BaseMiner):
            raise ConfigError(
                f"model.miner is {type(miner).__name__}, which picks no pairs or triplets: type "
                "model.miner._target_=pytorch_metric_learning.miners.BatchHardMiner, or model.miner=null"
            )
        if memory < 0:
            raise ConfigError(f"model.memory={memory} must be 0 (none) or a number of embeddings to keep")
        known = CrossBatchMemory.supported_losses()
        if memory and type(loss).__name__ not in known:
            raise ConfigError(
                f"model.memory={memory} can't be used with {type(loss).__name__}: type model.memory=0, or "
                f"one of the losses {', '.join(known)}"
            )
        self.loss = loss
        self.miner = miner
        self.memory = _Memory(loss, dimension, memory_size=memory, miner=miner) if memory else None

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, int | None]:
        """(scalar, how many pairs or triplets were mined; None without a miner) of float32 [B, D] and [B]."""
        if self.memory is not None:
            if len(embeddings) > self.memory.memory_size:
                raise ConfigError(
                    f"model.memory={self.memory.memory_size} is less than a batch of {len(embeddings)}: type "
                    f"model.memory={8 * len(embeddings)}"
                )
            return self.memory(embeddings, labels), None
        if self.miner is None:
            return self.loss(embeddings, labels), None
        mined: Sequence[Tensor] = self.miner(embeddings, labels)
        return self.loss(embeddings, labels, mined), len(mined[0])


class _Memory(CrossBatchMemory):  # type: ignore[misc]  # the library has no types
    """Cross-batch memory that a checkpoint brings back: the library leaves out how far its queue has come."""

    def get_extra_state(self) -> Tensor:
        """int64 [2]: where the next batch goes, and whether the queue was filled once."""
        return torch.tensor([self.queue_idx, int(self.has_been_filled)])

    def set_extra_state(self, state: Tensor) -> None:
        """What `get_extra_state` returned."""
        self.queue_idx, self.has_been_filled = int(state[0]), bool(state[1])
