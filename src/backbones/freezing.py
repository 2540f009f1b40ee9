"""Frozen parts of a network: no gradient, and no drift of BatchNorm statistics or dropout either.

`nn.Module.train()` reaches every child, so a frozen part would leave `eval()` as soon as an epoch starts. The
network that owns the part derives from `KeepsFrozen`, which puts it back; names in the state dict stay as
they are. The owner also runs a frozen part under `torch.no_grad()`, so that autograd starts at the first
trainable layer.
"""

from __future__ import annotations

from typing import Self

from torch import nn


def freeze(module: nn.Module) -> None:
    """Stop training `module`, in place: no gradients, `eval()`, and a mark that `KeepsFrozen` respects."""
    module.requires_grad_(False)
    module.eval()
    # A plain attribute: it survives pickling and copying, and adds nothing to the state dict.
    module._tapetum_frozen = True  # type: ignore[assignment]


def is_frozen(module: nn.Module) -> bool:
    """Whether `module` itself was given to `freeze`."""
    return getattr(module, "_tapetum_frozen", False) is True


class KeepsFrozen(nn.Module):
    """A network whose frozen parts stay in `eval()` when the network is put in training mode."""

    def train(self, mode: bool = True) -> Self:
        """Set training mode everywhere except in frozen parts."""
        super().train(mode)
        for module in self.modules():
            if is_frozen(module):
                module.eval()
        return self
