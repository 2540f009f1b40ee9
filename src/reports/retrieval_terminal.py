"""What a retrieval run ends with on the terminal: warnings first, then the classes that are found worst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from .format import number

WORST = 12
RULES = ("nn", "knn", "centroid")
_SPLITS = ("test", "val")
_DETAILS = ("norm", "std", "constant_dimensions", "collapsed")


def without_classes(metrics: Mapping[str, float]) -> dict[str, float]:
    """The figures of the main table: none of single classes, and of the embeddings those that are read."""
    hidden = tuple(f"/embedding/{name}" for name in _DETAILS)
    return {
        name: value for name, value in metrics.items() if "/class/" not in name and not name.endswith(hidden)
    }


def warnings(metrics: Mapping[str, float], decision: Mapping[str, Any]) -> list[Text]:
    """What accuracy is of, and what must not be overlooked: queries without a class to find, a collapse."""
    rule = decision.get("rule", "knn")
    words = {"nearest": "the nearest image", "centroid": "the nearest class centroid"}
    named = words.get(rule, f"the majority of the {decision.get('k', 10)} nearest images")
    excluded = decision.get("exclude")
    left_out = f", those of the query's class and {excluded} left out" if excluded else ""
    said = [Text(f"accuracy: named by {named}{left_out} (model.decision)", style="dim")]
    for split in _SPLITS:
        unknown = metrics.get(f"{split}/unknown_queries", 0.0)
        if unknown:
            share = 1 - metrics.get(f"{split}/coverage", 0.0)
            count = "1 query" if unknown == 1 else f"{unknown:,.0f} queries"
            said.append(
                Text(
                    f"{split}: {count} ({100 * share:.1f} %) of classes that the gallery does not have: in "
                    "no figure but coverage and open_set/…",
                    style="bold yellow",
                )
            )
        if metrics.get(f"{split}/embedding/collapsed"):
            spread = number(metrics.get(f"{split}/embedding/spread"))
            said.append(
                Text(
                    f"{split}: the embeddings have collapsed to almost one point (spread {spread}): no "
                    "figure of this run means anything",
                    style="bold red",
                )
            )
    return said


def worst_classes(metrics: Mapping[str, float]) -> list[Table]:
    """The twelve classes with the lowest MAP@R, of test, else val; none where classes have no figures."""
    for split in _SPLITS:
        prefix, suffix = f"{split}/class/", "/map_at_r"
        found = {
            key.removeprefix(prefix).removesuffix(suffix): value
            for key, value in metrics.items()
            if key.startswith(prefix) and key.endswith(suffix)
        }
        if found:
            break
    else:
        return []
    shown = sorted(found, key=lambda name: (found[name], name))[:WORST]
    whole = len(shown) == len(found)
    title = "class by class" if whole else f"{WORST} worst of {len(found)} classes"
    columns = (*(f"{rule}_accuracy" for rule in RULES), "map_at_r")
    table = Table(title=f"{split}, {title}", title_justify="left", header_style="bold")
    table.add_column("class", overflow="fold")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name in shown:
        table.add_row(Text(name), *(number(metrics.get(f"{prefix}{name}/{column}")) for column in columns))
    return [table]
