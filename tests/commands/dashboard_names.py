"""What a dashboard's JSON refers to, gathered from its panels without knowing how they were built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

AXES = {"trainer/global_step", "_runtime", "_step"}


@dataclass(frozen=True)
class Names:
    """Names of figures, of media and tables, of config keys, patterns of figures, and groups of runs."""

    figures: set[str]
    media: set[str]
    configs: set[str]
    patterns: set[str]
    groups: set[str]


def names_in(dashboard: dict[str, Any]) -> Names:
    """Every name that panels and run sets of a workspace or a report ask W&B for."""
    found = Names(set(), set(), set(), set(), set())
    for node in _nodes(dashboard["spec"]):
        for key, value in node.items():
            if key == "metrics":
                found.figures.update(value)
            elif key == "targetKey":
                found.figures.add(value)
            elif key == "mediaKeys":
                found.media.update(value)
            elif key == "metricRegex":
                found.patterns.add(value)
            elif key in ("accessor", "xAxis", "yAxis") and value not in AXES:
                kind, _, name = value.partition(":")
                if kind == "config":
                    found.configs.add(name.replace(".value", "", 1))
                else:
                    found.figures.add(name)
        if node.get("nodeType") == "const":
            found.media.add(node["val"])
        if node.get("key") == {"section": "run", "name": "group"}:
            found.groups.add(node["value"])
    return found


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)
