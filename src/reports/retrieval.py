"""The report of a retrieval run: who is found, by which rule, how surely, and in which health."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.values import select
from ..errors import DataError
from . import retrieval_sections as sections
from .format import Interval
from .history import Best, best
from .run import Drawn, Found, RunReport, main_split, training_picture, what_chose, write_run_page

if TYPE_CHECKING:
    from ..evaluation.retrieval import Judged


def write_retrieval_report(source: RunReport, out: Path) -> Path:
    """`out/index.html` (everything inside) and its pictures as `out/*.png`; returns the page's path.

    source.predictions: tables of embeddings of `val` and `test`, and of the `gallery` that they search where
    they hold none of their own. How a query is named stands in `model.decision` of source.config.
    """
    judged, problems = _judged(source)
    metrics, intervals = _complete(source, judged)
    split = main_split(judged)
    shown = None if split is None else judged[split]
    top = best(source.history, source.monitor, source.mode)
    state = None if shown is None else sections.health(shown)
    trained, queries = bool(source.history), 0 if shown is None else len(shown.queries)
    values: dict[str, object] = {
        "tiles": [],
        "sentences": what_chose(source, split, top),
        "absent": sections.absences(split, trained, queries),
        "split": split,
        "images": _images(source, judged),
        "stretched": select(source.config, "data.radiometry") is not None,
    }
    limits = problems
    if shown is not None and split is not None and state is not None:
        rules = sections.rules(split, shown, metrics, intervals)
        values |= {
            "tiles": sections.tiles(split, shown, metrics, intervals, state),
            "sentences": [*what_chose(source, split, top), _decided(shown)],
            "rules": rules,
            "rule_sentence": sections.rule_sentence(rules),
            "classes": sections.class_rows(shown),
            "chosen": sections.called(shown),
            "confusions": sections.confusions(shown),
            "open_set": sections.open_set(split, shown, metrics),
            "health": state,
            "searches": sections.searches(shown, source.load_image),
        }
        if state.collapsed:
            limits = [state.sentence, *limits]
        limits = [*limits, *sections.limits(split, shown)]
    by_class = {name: value for name, value in metrics.items() if "/class/" not in name}
    found = Found(top, by_class, intervals, _pictures(source, judged, split, top), limits)
    return write_run_page("retrieval.html", source, found, values, out)


def _judged(source: RunReport) -> tuple[dict[str, Judged], list[str]]:
    """(split → its queries with what they found, why others were not judged)."""
    from ..evaluation.retrieval import judge_splits

    decision = select(source.config, "model.decision") or {}
    found: dict[str, Judged] = {}
    problems = []
    for split in source.predictions:
        parts = {name: source.predictions[name] for name in (split, "gallery") if name in source.predictions}
        try:
            found |= judge_splits(parts, decision)
        except DataError as error:
            problems.append(f"The {split} predictions were not judged: {error}.")
    return found, problems


def _complete(
    source: RunReport, judged: Mapping[str, Judged]
) -> tuple[dict[str, float], dict[str, Interval]]:
    """The metrics, completed from the predictions where metrics.json lacks one; and the intervals."""
    from ..evaluation.retrieval import figures
    from ..evaluation.retrieval import intervals as bounds_of

    metrics = dict(source.metrics)
    intervals: dict[str, Interval] = {}
    for split, one in judged.items():
        for name, value in figures(one).items():
            metrics.setdefault(f"{split}/{name}", value)
        for name, bounds in bounds_of(one).items():
            intervals[f"{split}/{name}"] = bounds
    return metrics, intervals


def _pictures(
    source: RunReport, judged: Mapping[str, Judged], split: str | None, top: Best | None
) -> list[Drawn]:
    from . import retrieval_plots as plots
    from .training_curve import RETRIEVAL

    alt = "loss, queries found, spread of the embeddings and learning rate over the training"
    drawn: list[Drawn] = [training_picture(source, top, RETRIEVAL, alt)]
    if split is not None:
        shown = judged[split]
        drawn += [
            ("confusion", plots.confusion_matrix(shown), "confusion matrix of the classes"),
            ("cmc", plots.cmc_curves(judged), "share of queries found by rank"),
            ("rejection", plots.rejection_curves(judged), "accuracy by share of queries answered"),
            ("similarities", plots.similarity_histograms(shown), "similarity to right and wrong neighbours"),
            ("projection", plots.projection(shown), "the queries on their two principal components"),
        ]
    return drawn


def _decided(judged: Judged) -> str:
    """How a query is named."""
    classes = len(set(judged.gallery["label"].to_pylist()))
    how = {
        "nearest": "the class of the most similar",
        "knn": f"the most frequent class among the {judged.k} most similar",
        "centroid": "the class whose mean embedding is most similar",
    }[judged.rule]
    left_out = ""
    if judged.exclude is not None:
        left_out = f", those of its own class and {judged.exclude} left out"
    return (
        f"A query is named by {how} of {len(judged.gallery):,} gallery images of {classes:,} classes"
        f"{left_out} (model.decision); no image is both query and gallery."
    )


def _images(source: RunReport, judged: Mapping[str, Judged]) -> dict[str, int]:
    """Number of images by what they are."""
    found = {f"{split} queries": len(one.queries) for split, one in judged.items()}
    sizes = {len(one.gallery) for one in judged.values()}
    if sizes:
        found["gallery images"] = max(sizes)
    return found or {f"{name} images": len(table) for name, table in source.predictions.items()}
