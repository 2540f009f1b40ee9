"""Every group held against the best one on the test images that both judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from .format import signed

if TYPE_CHECKING:
    from ..evaluation.paired import Difference, Paired
    from .compare import Group


@dataclass(frozen=True)
class Against:
    """How a group differs from the reference on the same test images: the group minus the reference."""

    label: str
    paired: Paired


def against(groups: Sequence[Group]) -> tuple[str, list[Against]]:
    """Every group with predictions held against the best of them; ('', []) below two."""
    every = [(group, [run.judged for run in group.runs if run.judged is not None]) for group in groups]
    judged = [(group, runs) for group, runs in every if runs]
    if len(judged) < 2:
        return "", []
    from ..evaluation.paired import Paired, paired

    (reference, first), *others = judged
    place = _data(reference.runs[0].config)
    found = []
    for group, second in others:
        same = _data(group.runs[0].config) == place
        compared = paired(second, first) if same else Paired({}, 0, 0, "they were judged on different data")
        found.append(Against(group.label, compared))
    return reference.label, found


def main_difference(differences: Mapping[str, Difference | None], main: str | None) -> str | None:
    """The difference that speaks for all: of the main figure, else AUROC, else an accuracy."""
    wanted = (str(main).partition("/")[2], "auroc", "accuracy_tuned", "accuracy")
    return next((name for name in wanted if name in differences), None)


def in_words(reference: str, one: Against, name: str) -> str:
    """The reference minus the other, though `one` holds it the other way round."""
    found = one.paired.differences[name]
    both = "" if one.paired.images == one.paired.of else " that both judged"
    images = f"{one.paired.images:,} test images{both}"
    value = f"{signed(-found.value)} (95 % interval {signed(-found.high)} to {signed(-found.low)})"
    if found.shown:
        way = "above" if found.value < 0 else "below"
        return f"On {images}, {reference} is {way} {one.label} in {name}: {value}."
    return f"The {images} can't tell {reference} from {one.label}: their difference in {name} is {value}."


def _data(config: Mapping[str, Any]) -> tuple[object, ...]:
    """What the paths of predictions belong to, wherever it lies: the layout and the roots' last names."""
    data = config.get("data", {})
    indexes = data.get("index") or {}
    targets = [one.get("_target_") for one in (indexes if isinstance(indexes, list) else [indexes])]
    roots = {"": data.get("root"), **(data.get("roots") or {})}
    return (*targets, *((split, PurePath(str(root)).name) for split, root in roots.items()))
