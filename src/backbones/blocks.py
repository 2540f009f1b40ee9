"""The blocks of a tower from its input to its output, as its own library counts them."""

from __future__ import annotations

from collections.abc import Mapping

from timm.models import group_parameters
from torch import nn

from ..errors import ConfigError


def blocks(tower: nn.Module) -> list[list[str]]:
    """The names of a tower's parameters, a list a block, from the input to the output; all of them once.

    A timm model says itself what its blocks are (`group_matcher`, which layer-wise learning rates use): the
    stem, then residual, transformer or ConvNeXt blocks, the last of them with what stands behind it. A group
    of norms alone (ConvNeXt's last) counts with the block before it. The blocks of a Sequential are its
    children that have parameters. Raises ConfigError for a module that says nothing of the kind.
    """
    if callable(matcher := getattr(tower, "group_matcher", None)):
        grouped: Mapping[int, list[str]] = group_parameters(tower, matcher(coarse=False))
        return _with_norms(tower, [grouped[number] for number in sorted(grouped)])
    if isinstance(tower, nn.Sequential):
        found = [
            [f"{name}.{inner}" for inner, _ in child.named_parameters()]
            for name, child in tower.named_children()
        ]
        return [names for names in found if names]
    raise ConfigError(
        f"{type(tower).__name__} does not say what its blocks are (it has no group_matcher, as timm's models "
        f"have, and is no Sequential): name its parts instead"
    )


def _with_norms(tower: nn.Module, found: list[list[str]]) -> list[list[str]]:
    dimensions = {name: value.ndim for name, value in tower.named_parameters()}
    merged: list[list[str]] = []
    for names in found:
        if merged and all(dimensions[name] <= 1 for name in names):
            merged[-1] = [*merged[-1], *names]
        else:
            merged.append(list(names))
    return merged
