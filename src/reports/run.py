"""The report of one run: tables in, one HTML page with its pictures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from ..evaluation.advice import Advice, unjudged
from . import sections
from .format import Interval, flatten, plain
from .history import Best, Mode, Row, best
from .page import Picture, write_page
from .sections import LoadImage
from .terminal import by_split


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


def write_report(source: RunReport, out: Path) -> Path:
    """`out/index.html` (everything inside) and its pictures as `out/*.png`; returns the page's path."""
    metrics, intervals = _complete(source)
    split = _main_split(source.predictions)
    shown = source.predictions.get(split) if split is not None else None
    top = best(source.history, source.monitor, source.mode)
    generators = [] if shown is None else sections.generator_rows(shown, str(split), metrics, intervals)
    pictures = _pictures(source, metrics, split, top, generators)
    images = None if shown is None else sections.wrong_images(shown, source.load_image)
    values: dict[str, object] = {
        "title": source.title,
        "facts": sections.facts(source.config, source.environment, source.duration_s, top),
        "command": source.command,
        "tiles": [] if shown is None else sections.tiles(str(split), metrics, intervals, generators),
        "sentences": _sentences(source, split, top),
        "notes": source.notes,
        "limits": [*source.limits, *sections.undefined(source.predictions)],
        "pictures": {picture.name: picture for picture in pictures},
        "absent": sections.absences(shown, split, bool(source.history)),
        "split": split,
        "images": {name: len(table) for name, table in source.predictions.items()},
        "generators": generators,
        "evaluation": _evaluation(source, split, metrics, intervals),
        "wrong": images,
        "table": by_split(metrics),
        "intervals": intervals,
        "monitor": source.monitor,
        "config": yaml.safe_dump(dict(source.config), sort_keys=False, allow_unicode=True, width=100),
        "advice": sections.advice(source.advice, source.command),
        "no_advice": _no_advice(source),
        "environment": {key: plain(value) for key, value in flatten(source.environment).items()},
    }
    return write_page("run.html", values, pictures, out)


def _complete(source: RunReport) -> tuple[dict[str, float], dict[str, Interval]]:
    """The metrics, completed from the predictions where metrics.json lacks one; and the intervals."""
    from ..evaluation.detection import evaluate
    from ..evaluation.detection import intervals as bounds_of

    metrics = dict(source.metrics)
    intervals: dict[str, Interval] = {}
    for split, table in source.predictions.items():
        # on val the fitted threshold would be judged by the images that it was fitted on
        threshold = None if split == "val" else source.threshold
        for name, value in evaluate(table, threshold=threshold).items():
            metrics.setdefault(f"{split}/{name}", value)
        for name, bounds in bounds_of(table, threshold=threshold).items():
            intervals[f"{split}/{name}"] = bounds
    return metrics, intervals


def _evaluation(
    source: RunReport, split: str | None, metrics: Mapping[str, float], intervals: Mapping[str, Interval]
) -> dict[str, object] | None:
    """The evaluation's table of the split shown, beside published figures where there are any."""
    if split is None:
        return None
    from ..evaluation.table import evaluation_table
    from .evaluation_table import page_section
    from .published import published_beside

    known = dict(metrics) if source.threshold is None else {**metrics, "val/threshold": source.threshold}
    found = evaluation_table(source.predictions[split], known, split=split, bounds=intervals)
    return page_section(found, split, published_beside(found, source.config) if split == "test" else [])


def _main_split(predictions: Mapping[str, pa.Table]) -> str | None:
    """The split the pictures show: test, else val, else the first there is."""
    return next((split for split in ("test", "val", *predictions) if split in predictions), None)


def _pictures(
    source: RunReport,
    metrics: Mapping[str, float],
    split: str | None,
    top: Best | None,
    generators: Sequence[sections.GeneratorRow],
) -> list[Picture]:
    from . import plots
    from .training_curve import training_curves

    drawn: list[tuple[str, bytes | None, str]] = [
        (
            "training_curve",
            training_curves(source.history, source.monitor, top),
            "loss, accuracy, AUROC and learning rate over the training",
        )
    ]
    if split is not None:
        shown = source.predictions[split]
        curves = {name: source.predictions[name] for name in ("val", "test") if name in source.predictions}
        curves = curves or {split: shown}
        aurocs = {name: metrics[f"{name}/auroc"] for name in curves}
        aps = {name: metrics[f"{name}/ap"] for name in curves}
        bars = [
            (row.name, row.accuracy, row.real_accuracy, row.fake_accuracy, row.interval) for row in generators
        ]
        drawn += [
            ("roc", plots.roc_curves(curves, aurocs), "ROC curve"),
            ("precision_recall", plots.precision_recall_curves(curves, aps), "precision-recall curve"),
            ("confusion", plots.confusion_matrix(shown, split), "confusion matrix"),
            (
                "scores",
                plots.score_histograms(shown, split, source.threshold),
                "histogram of the scores by class",
            ),
            ("generators", plots.generator_bars(bars, split), "accuracy of each generator"),
            (
                "reliability",
                plots.reliability_diagram(shown, split, metrics[f"{split}/ece"]),
                "reliability diagram",
            ),
        ]
    return [Picture(name, png, alt) for name, png, alt in drawn if png is not None]


def _no_advice(source: RunReport) -> str | None:
    """What stands in place of advice; None where the section has advice, or no place."""
    if source.advice is None or source.advice:
        return None
    reason = unjudged(source.history, source.config)
    return f"Not judged: {reason}." if reason else "Nothing stands out."


def _sentences(source: RunReport, split: str | None, top: Best | None) -> list[str]:
    """Which figures chose something, and which did not."""
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
    if source.threshold is not None:
        said.append(f"The threshold of accuracy_tuned, logit {source.threshold:+.3f}, was fitted on val.")
    if "val" in source.predictions or any(name.startswith("val/") for name in source.metrics):
        said.append("The val figures were looked at while choosing, so they lean to the good side.")
    if split == "test":
        said.append("The test figures chose nothing.")
    else:
        said.append("There are no test figures: nothing here was measured on images that chose nothing.")
    return said
