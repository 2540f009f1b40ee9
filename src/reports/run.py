"""The report of one run, whatever its task: what was run, how it trained, all figures, its surroundings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from ..evaluation.advice import Advice, unjudged
from . import sections
from .format import Interval, flatten, plain
from .history import Best, Mode, Row
from .page import Picture, write_page
from .sections import LoadImage
from .terminal import by_split

if TYPE_CHECKING:
    from .training_curve import Panel


@dataclass(frozen=True)
class RunReport:
    """Everything a report says about one run; whatever is absent is said to be absent.

    title: the run's name. config: resolved, plain and nested. environment: plain and nested, as in
    environment.json. command: as it was typed. history: the rows of metrics.csv (`epoch`, `step` and names
    such as `val/loss`; cells may be empty). metrics: flat, as in metrics.json, NaN where undefined.
    predictions: split → Predictions table. monitor, mode: what chose the checkpoint, and whether lower or
    higher is better. load_image: a row's `path` → RGB or grey image (uint8 [H, W] or [H, W, 3], or Pillow);
    raises TapetumError or OSError if it can't. notes: what a reader must know (skipped files). limits: what
    the figures cannot say. threshold: the logit fitted on validation. duration_s: wall-clock seconds of the
    run. advice: what to try next, empty where nothing stands out, None where nothing was trained here.
    """

    title: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    command: str
    history: Sequence[Row]
    metrics: Mapping[str, float]
    predictions: Mapping[str, pa.Table]
    monitor: str
    mode: Mode
    load_image: LoadImage | None = None
    notes: Sequence[str] = ()
    limits: Sequence[str] = ()
    threshold: float | None = None
    duration_s: float | None = None
    advice: Sequence[Advice] | None = None


Drawn = tuple[str, bytes | None, str]
"""A picture's name, its PNG bytes (None: nothing to draw), and what to say where it can't be seen."""


@dataclass(frozen=True)
class Found:
    """What a task adds to a run's page.

    top: where the monitored figure was best. shown: the metrics that stand in the table of all figures, flat.
    intervals: by the names of metrics. pictures: (name, PNG bytes or None, what to say where it can't be
    seen). limits: what the figures cannot say, as the tables show it.
    """

    top: Best | None
    shown: Mapping[str, float]
    intervals: Mapping[str, Interval]
    pictures: Sequence[Drawn]
    limits: Sequence[str]


def write_run_page(
    template: str, source: RunReport, found: Found, values: Mapping[str, object], out: Path
) -> Path:
    """`out/index.html` from a task's template, which extends run.html, and its pictures; the page's path.

    values: what the task's own sections show, and `tiles`, `sentences`, `images` and `absent` of the page.
    """
    pictures = [Picture(name, png, alt) for name, png, alt in found.pictures if png is not None]
    common: dict[str, object] = {
        "title": source.title,
        "facts": sections.facts(source.config, source.environment, source.duration_s, found.top),
        "command": source.command,
        "notes": source.notes,
        "limits": [*source.limits, *found.limits],
        "pictures": {picture.name: picture for picture in pictures},
        "table": by_split(found.shown),
        "intervals": found.intervals,
        "monitor": source.monitor,
        "config": yaml.safe_dump(dict(source.config), sort_keys=False, allow_unicode=True, width=100),
        "advice": sections.advice(source.advice, source.command),
        "no_advice": _no_advice(source),
        "environment": {key: plain(value) for key, value in flatten(source.environment).items()},
    }
    return write_page(template, {**common, **values}, pictures, out)


def main_split(predictions: Mapping[str, pa.Table]) -> str | None:
    """The split the pictures show: test, else val, else the first there is."""
    return next((split for split in ("test", "val", *predictions) if split in predictions), None)


def training_picture(source: RunReport, top: Best | None, panels: Sequence[Panel], alt: str) -> Drawn:
    """The curves of the training, as the task names them."""
    from .training_curve import training_curves

    return "training_curve", training_curves(source.history, source.monitor, top, panels), alt


def what_chose(source: RunReport, split: str | None, top: Best | None, *also: str) -> list[str]:
    """Which figures chose something, and which did not; also: what else was chosen."""
    said = []
    if top is None and source.predictions and not source.history:
        said.append("Nothing was trained here: these are given weights on the data named below.")
    elif top is None:
        said.append(f"No checkpoint was chosen: {source.monitor} never had a finite value.")
    else:
        # metrics.csv counts epochs from 0, people from 1
        where = "" if top.epoch is None else f" in epoch {top.epoch + 1:g}"
        better = "higher" if source.mode == "max" else "lower"
        said.append(f"{source.monitor} chose the checkpoint: {top.value:.4g}{where} ({better} is better).")
    said += also
    if "val" in source.predictions or any(name.startswith("val/") for name in source.metrics):
        said.append("The val figures were looked at while choosing, so they lean to the good side.")
    if split == "test":
        said.append("The test figures chose nothing.")
    else:
        said.append("There are no test figures: nothing here was measured on images that chose nothing.")
    return said


def _no_advice(source: RunReport) -> str | None:
    """What stands in place of advice; None where the section has advice, or no place."""
    if source.advice is None or source.advice:
        return None
    reason = unjudged(source.history, source.config)
    return f"Not judged: {reason}." if reason else "Nothing stands out."
