"""The libraries that a command needs, imported at once while Python's collector of garbage rests.

torch, Lightning and what they import make half a million objects that live as long as the process. The
collector walks through them again and again while they come, and finds nothing.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from typing import Any

HEAVY = ("torch", "lightning")
"""What every command imports that builds or loads a network."""

EVERY_JOB = (
    *(*HEAVY, "pandas", "pyarrow.parquet"),
    *("tapetum.cli", "tapetum.commands.preflight", "tapetum.commands.finish", "tapetum.tasks"),
    *("tapetum.launch.processes", "tapetum.reports.run", "tapetum.reports.training_curve"),
)
"""Modules that every job imports before it is done."""


def libraries_of(config: Mapping[str, Any]) -> list[str]:
    """What a job of a config imports. A user's own modules are left to the job."""
    found = dict.fromkeys((*EVERY_JOB, f"tapetum.tasks.{config['task']}"))

    def look(value: object) -> None:
        if isinstance(value, Mapping):
            target = value.get("_target_")
            if isinstance(target, str) and target.startswith("tapetum."):
                found[target.rpartition(".")[0]] = None
            for one in value.values():
                look(one)
        elif isinstance(value, list):
            for one in value:
                look(one)

    look(config)
    return list(found)


def load_libraries(modules: Sequence[str] = HEAVY) -> None:
    """Import modules, and leave it to who uses them to say why one of ours can't be imported."""
    with importing():
        for module in modules:
            with suppress(Exception) if module.startswith("tapetum.") else nullcontext():
                import_module(module)


@contextmanager
def importing() -> Iterator[None]:
    """No collection while open, and none later of what is there by then; nothing in a process with torch.

    Who calls a command in a process of their own, such as a test, has objects that may have to be collected.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
