"""tapetum: an experiment framework for models that look at images.

The public Python surface is what the verbs do: `tapetum.load(run)` and, room by room, the functions behind
each verb. Nothing heavy is imported here; `load` brings torch in when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .inference.predictor import load as load
    from .runs.history import history as history

__version__ = "0.1.0"
__all__ = ["__version__", "history", "load"]


def __getattr__(name: str) -> object:
    if name == "load":
        from .inference.predictor import load

        return load
    if name == "history":
        from .runs.history import history

        return history
    raise AttributeError(f"module 'tapetum' has no attribute {name!r}")
