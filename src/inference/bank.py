"""A network that compares images with a train split gets the features of that split, in one pass."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from ..backbones.frozen import FeatureBank
from ..backbones.precision import autocast
from ..datamodules.features import frozen_features
from ..datamodules.samplers import Shard
from ..errors import DataError

log = logging.getLogger("tapetum")


def fill_bank(module: Any, datamodule: Any, *, device: torch.device, precision: str) -> bool:
    """Fill the bank of a module's network from the train split, unaugmented; whether there was one to fill.

    A network without a bank, or with one that loaded weights have filled, stays as it is. Images without a
    label are left out. precision: a name of the Trainer's, as for `inference.detect`. Raises DataError where
    the split is empty, or holds too few images of a class.
    """
    net = module.net
    if not isinstance(net, FeatureBank) or not net.bank_is_empty():
        return False
    if not len(datamodule.index.rows("train")):
        raise DataError(
            f"{type(net).__name__} compares images with those of a train split, and there is none: name its "
            "folder with data.roots.train=DIR, or evaluate a run of tapetum train"
        )
    module.to(device).eval()
    features, labels = [], []
    with torch.no_grad(), autocast(device, precision):
        for batch in datamodule.eval_dataloader("train", shard=Shard()):
            if not len(batch["index"]):  # none of its images could be read
                continue
            labels.append(batch["labels"])
            features.append(batch["features"] if "features" in batch else _features(net, batch, device))
    net.remember(torch.cat(features), torch.cat(labels))
    counts = [int((torch.cat(labels) == label).sum()) for label in (0, 1)]
    log.info("bank: features of %s real and %s generated training images", *(f"{n:,}" for n in counts))
    return True


def _features(net: FeatureBank, batch: Mapping[str, Any], device: torch.device) -> torch.Tensor:
    images = batch["images"]
    moved = [one.to(device) for one in images] if isinstance(images, list) else images.to(device)
    return frozen_features(net, moved).cpu()
