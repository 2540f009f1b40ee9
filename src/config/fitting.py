"""A model for commands that look at data alone: one of a task that the data can be learnt for."""

from __future__ import annotations

from collections.abc import Sequence

from .check import column_problems
from .compose import Composed, compose
from .overrides import prepare
from .schema import ANY_MODEL


def compose_for_data(overrides: Sequence[str]) -> Composed:
    """What overrides compose to; where they name no model, with one of the first task that fits their data.

    Without a task that fits, as they stand: the check will say what is missing.
    """
    words = prepare(overrides, multirun=False)
    named = any(word.lstrip("+").startswith(("model=", "experiment=", "task=")) for word in overrides)
    plain = compose(words)
    if named or not any(column_problems(plain.config)):
        return plain
    for model in ANY_MODEL.values():
        other = compose(prepare([f"model={model}", *overrides], multirun=False))
        if not any(column_problems(other.config)):
            return other
    return plain
