"""Memory: an estimate before anything is loaded, and an explanation when it ran out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..runs.building import parameter_counts
from ..runs.throughput import peak_memory_gb

Phase = Literal["training", "predicting"]

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
    """What a training step will need, counted on the meta device; None where images have no one size.

    Activations are the outputs of the leaf modules that autograd has to keep for one batch in the run's
    precision.
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


def explained(error: BaseException, config: Mapping[str, Any], phase: Phase) -> BaseException:
    """A TrainingError that explains an out-of-memory error; any other error as it is."""
    said = out_of_memory(error, config, phase)
    return error if said is None else TrainingError(said)


def out_of_memory(error: BaseException, config: Mapping[str, Any], phase: Phase = "training") -> str | None:
    """What ran out, and the override that needs less; None for other errors.

    Training keeps its effective batch, and predictions do not depend on theirs.
    """
    text = str(error)
    if not isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) and not any(
        sign in text for sign in _OUT_OF_MEMORY
    ):
        return None
    key = "batch_size" if phase == "training" else "eval_batch_size"
    batch: int = config["data"][key]
    said = f"out of memory while {phase} with data.{key}={batch} ({_memory()})"
    if batch == 1:
        return f"{said}: one image does not fit; a smaller input (model.geometry.size=…) or bf16 needs less"
    if phase == "predicting":
        return f"{said}. A smaller batch predicts the same: data.eval_batch_size={batch // 2}"
    parts = next(number for number in range(2, batch + 1) if batch % number == 0)
    accumulate = (config["trainer"].get("accumulate_grad_batches") or 1) * parts
    return (
        f"{said}. A part of the batch, accumulated {accumulate} times, trains the same: "
        f"data.batch_size={batch // parts} trainer.accumulate_grad_batches={accumulate}"
    )


def _memory() -> str:
    """Peak and free memory of the device."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
    else:
        page = os.sysconf("SC_PAGE_SIZE")
        free, total = page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")
    return f"peak {peak_memory_gb():.1f} GB, free {free / 1e9:.1f} of {total / 1e9:.1f} GB"
