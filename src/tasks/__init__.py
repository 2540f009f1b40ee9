"""What each task makes of a trained network: which tables it predicts, what they come to, how it is shown.

A config names its task, and everything above asks `task_of` for the record. Nothing else knows the tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from .task import Task


def task_of(config: Mapping[str, Any]) -> Task:
    """The record of a config's task; `config.schema.Root` has the names that there are."""
    found: Task = import_module(f".{config['task']}", __name__).TASK
    return found
