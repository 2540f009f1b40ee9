"""The report of a detection run: logits by class and by generator, and what was confidently wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from . import detection_sections as sections
from .format import Interval
from .history import Best, best
from .run import Drawn, Found, RunReport, main_split, training_picture, what_chose, write_run_page
from .written_answers import written


def write_detection_report(source: RunReport, out: Path) -> Path:
    """`out/index.html` (everything inside) and its pictures as `out/*.png`; returns the page's path."""
    metrics, intervals = _complete(source)
    split = main_split(source.predictions)
    shown = source.predictions.get(split) if split is not None else None
    top = best(source.history, source.monitor, source.mode)
    generators = [] if shown is None else sections.generator_rows(shown, str(split), metrics, intervals)
    pictures = _pictures(source, metrics, split, top, generators)
    values: dict[str, object] = {
        "tiles": [] if shown is None else sections.tiles(str(split), metrics, intervals, generators),
        "sentences": what_chose(source, split, top, *_fitted(source.threshold)),
        "absent": sections.absences(shown, split, bool(source.history)),
        "split": split,
        "images": {f"{name} images": len(table) for name, table in source.predictions.items()},
        "generators": generators,
        "evaluation": _evaluation(source, split, metrics, intervals),
        "written": None if shown is None else written(str(split), metrics, shown),
        "wrong": None if shown is None else sections.wrong_images(shown, source.load_image),
    }
    limits = sections.undefined(source.predictions)
    return write_run_page(
        "detection.html", source, Found(top, metrics, intervals, pictures, limits), values, out
    )


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


def _pictures(
    source: RunReport,
    metrics: Mapping[str, float],
    split: str | None,
    top: Best | None,
    generators: Sequence[sections.GeneratorRow],
) -> list[Drawn]:
    from . import plots
    from .training_curve import DETECTION

    alt = "loss, accuracy, AUROC and learning rate over the training"
    drawn: list[Drawn] = [training_picture(source, top, DETECTION, alt)]
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
    return drawn


def _fitted(threshold: float | None) -> list[str]:
    if threshold is None:
        return []
    return [f"The threshold of accuracy_tuned, logit {threshold:+.3f}, was fitted on val."]
