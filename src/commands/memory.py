"""Memory: an estimate before anything is loaded, and an explanation when it ran out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..runs.building import parameter_counts

_STATES = {"SGD": 1, "Adam": 2, "AdamW": 2}  # tensors the optimizer keeps a trainable parameter
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "DefaultCPUAllocator")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of a training step: weights, gradients, optimizer states, activations of one batch."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate(
    net: nn.Module, config: Mapping[str, Any], output_size: tuple[int, int] | None
) -> MemoryEstimate | None:
    """What a training step will need, counted on a network on the meta device; None where images have no one size.

    Activations are the outputs of the leaf modules that autograd has to keep for one batch in the run's precision.
    """
    if output_size is None:
        return None
    total, trainable = parameter_counts(net)
    kept = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal kept
        if isinstance(output, Tensor) and not list(module.children()):
            kept += output.numel()

    handles = [module.register_forward_hook(count) for module in net.modules()]
    spec: Any = net.input_spec
    images = torch.empty((2, spec.channels, *output_size), dtype=torch.uint8, device="meta")
    try:
        with torch.no_grad():
            net.train()(images)
    finally:
        for handle in handles:
            handle.remove()
    half = str(config["trainer"]["precision"]).startswith(("bf16", "16"))
    batch = config["data"]["batch_size"]
    optimizer = str(config["optimizer"]["_target_"]).rsplit(".", 1)[-1]
    return MemoryEstimate(
        weights=4 * total,
        gradients=4 * trainable,
        optimizer=4 * trainable * _STATES.get(optimizer, 2),
        activations=(2 if half else 4) * kept // 2 * batch if trainable else 0,
    )


def out_of_memory(error: BaseException, config: Mapping[str, Any]) -> str | None:
    """The explanation of an out-of-memory error, with the override that keeps the effective batch; None for others."""
    text = str(error)
    if not isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) and not any(
        sign in text for sign in _OUT_OF_MEMORY
    ):
        return None
    batch = config["data"]["batch_size"]
    accumulate = config["trainer"]["accumulate_grad_batches"]
    said = f"out of memory while training with data.batch_size={batch}"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        peak = torch.cuda.max_memory_allocated()
        said += f" (peak {peak / 1e9:.1f} GB, free {free / 1e9:.1f} of {total / 1e9:.1f} GB)"
    if batch == 1:
        return f"{said}: one image does not fit; a smaller input (model.geometry.size=…) or bf16 needs less"
    return (
        f"{said}. Half the batch, accumulated twice, trains the same: "
        f"data.batch_size={batch // 2} trainer.accumulate_grad_batches={accumulate * 2}"
    )
