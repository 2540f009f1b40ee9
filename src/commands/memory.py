"""What is said of memory: why it ran out, and the overrides that need less."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import TrainingError
from ..runs.memory import Phase
from ..runs.throughput import peak_memory_gb

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "DefaultCPUAllocator")


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
    return f"{said}{smaller(config, phase)}"


def smaller(config: Mapping[str, Any], phase: Phase, *, parts: int = 2) -> str:
    """The end of a sentence about memory: the overrides that compute the same with less.

    parts: into how many the batch should be cut at least.
    """
    batch: int = config["data"]["batch_size" if phase == "training" else "eval_batch_size"]
    if batch == 1:
        return ": one image does not fit; a smaller input (model.geometry.size=…) or bf16 needs less"
    if phase == "predicting":
        return f". A smaller batch predicts the same: data.eval_batch_size={max(1, batch // parts)}"
    parts = next((number for number in range(parts, batch + 1) if batch % number == 0), batch)
    accumulate = (config["trainer"].get("accumulate_grad_batches") or 1) * parts
    return (
        f". A part of the batch, accumulated {accumulate} times, trains the same: "
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
