"""Published tables of detection benchmarks, to stand beside one's own figures."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ..indexes.leaves import spelling
from .table import EvaluationTable

PROTOCOLS: Mapping[str, str] = {
    "genimage": (
        "trained on stable_diffusion_v_1_4 alone, accuracy at probability 0.5 on each generator's published "
        "val; every method with its own resizing and cropping, file formats as published (real JPEG against "
        "generated PNG)"
    ),
    "univfd": (
        "trained on ProGAN, 19 test sets (no stylegan2, no whichfaceisreal); accuracies at probability 0.5, "
        "oracle_accuracy at a threshold of each test set's own; every method with its own resizing and "
        "cropping"
    ),
}
"""Layout of `tapetum.indexes` → how the published figures were measured."""


@dataclass(frozen=True)
class PublishedRow:
    """One method's figure in percent, by generator under its one name in `tapetum.indexes`.

    percent: the generators whose figure is known. mean: as published, None where it is not.
    """

    method: str
    figure: str
    source: str
    percent: Mapping[str, float]
    mean: float | None


@dataclass(frozen=True)
class Published:
    """A benchmark's published figures. data: the layout. generators: the columns, in the papers' order."""

    data: str
    protocol: str
    generators: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


@cache
def published(layout: str) -> Published | None:
    """What is published for a layout's protocol, None where this package ships nothing."""
    if layout not in PROTOCOLS:
        return None
    text = (files(__package__) / "published" / f"{layout}.csv").read_text(encoding="utf-8")
    lines = csv.DictReader(text.splitlines())
    generators = tuple(name for name in lines.fieldnames or () if name not in _ABOUT)
    rows = tuple(
        PublishedRow(
            line["method"],
            line["figure"],
            line["source"],
            {name: float(line[name]) for name in generators if line[name]},
            float(line["mean"]) if line["mean"] else None,
        )
        for line in lines
    )
    return Published(layout, PROTOCOLS[layout], generators, rows)


def own_figures(found: EvaluationTable, data: str, table: Published) -> dict[str, dict[str, float]]:
    """Figure → generator, and `mean` → share: what one's own run has of a published table's columns.

    data: the lines of which data set. The mean is over the table's generators, and there where the run has
    all of them: a mean over some is another figure.
    """
    names = {spelling(name): name for name in table.generators}
    own: dict[str, dict[str, float]] = {}
    for line in found.lines:
        generator = names.get(spelling(line.name)) if line.kind == "generator" and line.data == data else None
        for row in table.rows if generator is not None else ():
            if generator is not None and row.figure in line.figures:
                own.setdefault(row.figure, {})[generator] = line.figures[row.figure]
    for values in own.values():
        if len(values) == len(table.generators):
            values["mean"] = sum(values.values()) / len(values)
    return own


_ABOUT = ("method", "figure", "source", "mean")
