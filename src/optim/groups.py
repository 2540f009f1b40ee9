"""Which parameters learn, at what rate, and which of them decay."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ..errors import ConfigError, TrainingError

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@runtime_checkable
class HasBackbone(Protocol):
    """A network that names its pretrained part, so that it can learn at a rate of its own."""

    def backbone_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters of the backbone."""


@runtime_checkable
class HasScales(Protocol):
    """A network whose layers learn at different rates."""

    def lr_scales(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Layers from the input on, each with its share of the rate that it would learn at otherwise."""


def backbone_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The backbone's parameters of `module` and of everything in it; empty where nothing names a backbone."""
    return [
        parameter
        for part in module.modules()
        if isinstance(part, HasBackbone)
        for parameter in part.backbone_parameters()
    ]


def parameter_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    backbone: Collection[nn.Parameter] = (),
    backbone_lr: float | None = None,
    later: Collection[nn.Parameter] = (),
    later_lr_ratio: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer: `head`, `backbone`, `unfrozen`, each with a `…_no_decay`; none is empty.

    Only parameters that require a gradient enter; those in `backbone` learn at `backbone_lr` (`lr` if None).
    Besides, those in `later`, which are frozen and will be trained, at `later_lr_ratio` times `lr`: while
    they have no gradient an optimizer leaves them alone, decay included, and groups, schedules and
    checkpoints stay the same throughout.
    Layers of a network with `lr_scales` have groups of their own, `backbone_layer_3` and so on.
    Biases, norms, every other scalar or vector, embeddings, and what a timm model lists in
    `no_weight_decay()` (position and class tokens) do not decay.
    Each group is a dict of `name`, `params`, `lr`, `weight_decay`. Parameters keep the order of the module.
    Raises TrainingError when nothing requires a gradient, ConfigError for a `backbone_lr` without use.
    """
    in_backbone = {id(parameter) for parameter in backbone}
    without_decay = _without_decay(module)
    waiting = {id(parameter) for parameter in later}
    rates = {
        "head": lr,
        "backbone": lr if backbone_lr is None else backbone_lr,
        "unfrozen": lr * later_lr_ratio,
    }
    scales = _scales(module)
    layers = dict.fromkeys(scales.values())
    for part, rate in list(rates.items()):
        rates |= {f"{part}{layer}": rate * scale for layer, scale in layers}
    groups: dict[str, dict[str, Any]] = {}
    for part, rate in rates.items():
        groups[part] = {"name": part, "params": [], "lr": rate, "weight_decay": weight_decay}
        plain = f"{part}_no_decay"
        groups[plain] = {"name": plain, "params": [], "lr": rate, "weight_decay": 0.0}
    for parameter in module.parameters():
        if parameter.requires_grad or id(parameter) in waiting:
            part = "backbone" if id(parameter) in in_backbone else "head"
            part = "unfrozen" if id(parameter) in waiting else part
            part += scales.get(id(parameter), ("", 1.0))[0]
            name = f"{part}_no_decay" if id(parameter) in without_decay else part
            groups[name]["params"].append(parameter)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        total = sum(parameter.numel() for parameter in module.parameters())
        raise TrainingError(
            f"nothing to train: none of the {total:,} parameters of {type(module).__name__} requires a "
            "gradient; set model.net.freeze=false, or model.fit=false to evaluate only"
        )
    if backbone_lr is not None and not any(group["name"].startswith("backbone") for group in filled):
        raise ConfigError(
            f"backbone_lr={backbone_lr} has no effect: {type(module).__name__} has no backbone that trains; "
            "leave it null, or set model.net.freeze=false"
        )
    return filled


def _scales(module: nn.Module) -> dict[int, tuple[str, float]]:
    """The name of the layer that a parameter is in, behind that of its group, and its share of the rate."""
    return {
        id(parameter): (f"_layer_{number}", scale)
        for part in module.modules()
        if isinstance(part, HasScales)
        for number, (scale, parameters) in enumerate(part.lr_scales())
        for parameter in parameters
    }


def _without_decay(module: nn.Module) -> set[int]:
    found = {id(parameter) for parameter in module.parameters() if parameter.ndim <= 1}
    for part in module.modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag, *NORMS)):
            found.update(id(parameter) for parameter in part.parameters(recurse=False))
        found.update(id(value) for name, value in part.named_parameters(recurse=False) if name == "bias")
        if callable(listed := getattr(part, "no_weight_decay", None)):
            own = dict(part.named_parameters(remove_duplicate=False))
            # timm lists tokens that a variant may lack (`dist_token` in a plain ViT).
            found.update(id(own[name]) for name in listed() if name in own)
    return found
