"""Frozen parts of a network: no gradient, and no drift of BatchNorm statistics or dropout either.

`nn.Module.train()` reaches every child, so a frozen part would leave `eval()` as soon as an epoch starts. The
network that owns the part derives from `KeepsFrozen`, which puts it back; names in the state dict stay as
they are. The owner also runs a frozen part under `torch.no_grad()`, so that autograd starts at the first
trainable layer.

A part can be unfrozen by and by (`unfreeze`): autograd then starts at the first parameter that trains, and a
module trains (BatchNorm follows its batches, dropout drops) once all of its parameters do.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

from torch import nn


def freeze(module: nn.Module) -> None:
    """Stop training `module`, in place: no gradients, `eval()`, and a mark that `KeepsFrozen` respects."""
    fixed = frozenset(name for name, value in module.named_parameters() if not value.requires_grad)
    module.requires_grad_(False)
    module.eval()
    # Plain attributes: they survive pickling and copying, and add nothing to the state dict.
    module._tapetum_frozen = True  # type: ignore[assignment]
    module._tapetum_fixed = fixed  # type: ignore[assignment]
    module._tapetum_whole = True  # type: ignore[assignment]
    module._tapetum_live = frozenset()  # type: ignore[assignment]


def is_frozen(module: nn.Module) -> bool:
    """Whether `module` itself was given to `freeze`, and nothing in it has been unfrozen since."""
    return _is_marked(module) and bool(module._tapetum_whole)


def frozen_parts(network: nn.Module) -> dict[str, nn.Module]:
    """What in `network` was given to `freeze` and does not train as a whole again, by dotted name."""
    return {name: module for name, module in network.named_modules() if _is_marked(module)}


def trainable_names(part: nn.Module) -> list[str]:
    """The parameters of a frozen part that trained before it was frozen, named from the part on."""
    fixed: frozenset[str] = part._tapetum_fixed  # type: ignore[assignment]
    return [name for name, _ in part.named_parameters() if name not in fixed]


def unfreeze(part: nn.Module, names: Collection[str]) -> None:
    """Train the parameters of those names (as `trainable_names` has them) from here on, in place.

    Modules of which nothing is frozen any more are put in training mode.
    """
    parameters = dict(part.named_parameters())
    for name in names:
        parameters[name].requires_grad_(True)
        part._tapetum_whole = False  # type: ignore[assignment]
    possible = trainable_names(part)
    if all(parameters[name].requires_grad for name in possible):
        part._tapetum_frozen = False  # type: ignore[assignment]
        part.train()
        return
    part._tapetum_live = frozenset(  # type: ignore[assignment]
        _live(part, possible, {name for name in possible if parameters[name].requires_grad})
    )
    _train_what_lives(part)


class KeepsFrozen(nn.Module):
    """A network whose frozen parts stay in `eval()` when the network is put in training mode."""

    def train(self, mode: bool = True) -> Self:
        """Set training mode everywhere except in what is frozen."""
        super().train(mode)
        for module in self.modules():
            if _is_marked(module):
                module.eval()
                if mode:
                    _train_what_lives(module)
        return self


def _is_marked(module: nn.Module) -> bool:
    return getattr(module, "_tapetum_frozen", False) is True


def _train_what_lives(part: nn.Module) -> None:
    live: frozenset[str] = part._tapetum_live  # type: ignore[assignment]
    for name, module in part.named_modules():
        if name in live:
            module.training = True


def _live(part: nn.Module, possible: Collection[str], unfrozen: Collection[str]) -> set[str]:
    """Names of the modules that train: with all their parameters, or without any inside one that does."""
    found: set[str] = set()
    for name, _ in part.named_modules():  # a module comes before what is in it
        prefix = f"{name}." if name else ""
        own = [one for one in possible if one.startswith(prefix)]
        above = name.rpartition(".")[0]
        if all(one in unfrozen for one in own) if own else (name != "" and above in found):
            found.add(name)
    return found
