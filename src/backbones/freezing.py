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
from dataclasses import dataclass
from typing import Self

from torch import nn


def freeze(module: nn.Module) -> None:
    """Stop training `module`, in place: no gradients, `eval()`, and a mark that `KeepsFrozen` respects."""
    fixed = frozenset(name for name, value in module.named_parameters() if not value.requires_grad)
    module.requires_grad_(False)
    module.eval()
    # A plain attribute: it survives pickling and copying, and adds nothing to the state dict.
    module._tapetum_mark = _Mark(fixed)  # type: ignore[assignment]  # torch names only tensors and modules


def is_frozen(module: nn.Module) -> bool:
    """Whether `module` itself was given to `freeze`, and nothing in it has been unfrozen since."""
    mark = _mark(module)
    return mark is not None and mark.frozen and mark.whole


def frozen_parts(network: nn.Module) -> dict[str, nn.Module]:
    """What in `network` was given to `freeze` and does not train as a whole again, by dotted name."""
    marks = {name: (module, _mark(module)) for name, module in network.named_modules()}
    return {name: module for name, (module, mark) in marks.items() if mark is not None and mark.frozen}


def trainable_names(part: nn.Module) -> list[str]:
    """The parameters of a frozen part that trained before it was frozen, named from the part on."""
    mark = _mark(part)
    assert mark is not None, "the part was given to freeze"
    return [name for name, _ in part.named_parameters() if name not in mark.fixed]


def unfreeze(part: nn.Module, names: Collection[str]) -> None:
    """Train the parameters of those names (as `trainable_names` has them) from here on, in place.

    Modules of which nothing is frozen any more are put in training mode.
    """
    mark = _mark(part)
    assert mark is not None, "the part was given to freeze"
    parameters = dict(part.named_parameters())
    for name in names:
        parameters[name].requires_grad_(True)
        mark.whole = False
    possible = trainable_names(part)
    if all(parameters[name].requires_grad for name in possible):
        mark.frozen = False
        part.train()
        return
    unfrozen = {name for name in possible if parameters[name].requires_grad}
    mark.live = frozenset(_live(part, possible, unfrozen))
    _train_what_lives(part, mark)


class KeepsFrozen(nn.Module):
    """A network whose frozen parts stay in `eval()` when the network is put in training mode."""

    def train(self, mode: bool = True) -> Self:
        """Set training mode everywhere except in what is frozen."""
        super().train(mode)
        for module in self.modules():
            mark = _mark(module)
            if mark is not None and mark.frozen:
                module.eval()
                if mode:
                    _train_what_lives(module, mark)
        return self


@dataclass
class _Mark:
    """Of a part that was given to `freeze`. fixed: parameters that did not train before. frozen: something
    still doesn't train. whole: nothing was unfrozen since. live: names of the modules that train again.
    """

    fixed: frozenset[str]
    frozen: bool = True
    whole: bool = True
    live: frozenset[str] = frozenset()


def _mark(module: nn.Module) -> _Mark | None:
    return getattr(module, "_tapetum_mark", None)


def _train_what_lives(part: nn.Module, mark: _Mark) -> None:
    for name, module in part.named_modules():
        if name in mark.live:
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
