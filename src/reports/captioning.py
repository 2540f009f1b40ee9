"""The report of a captioning run: what was said of which picture, and how near that comes."""

from __future__ import annotations

from pathlib import Path

from ..evaluation.captioning import Interval
from ..evaluation.captioning import figures as figures_of
from ..evaluation.captioning import intervals as bounds_of
from ..metrics.captions import caption_scores
from . import captioning_sections as sections
from .history import best
from .run import Drawn, Found, RunReport, main_split, training_picture, what_chose, write_run_page
from .sections import no_curve

_NO_WORDS = "No captions were written, so there is nothing to look at."


def write_captioning_report(source: RunReport, out: Path) -> Path:
    """`out/index.html` (everything inside) and its pictures as `out/*.png`; returns the page's path.

    source.predictions: tables of captions, see `evaluation.captioning`, of `val` and `test`.
    """
    from . import captioning_plots as plots
    from .training_curve import CAPTIONING

    split = main_split(source.predictions)
    top = best(source.history, source.monitor, source.mode)
    metrics, intervals = dict(source.metrics), _intervals(source)
    for name, table in source.predictions.items():
        if f"{name}/loss" not in metrics:
            metrics |= {f"{name}/{figure}": value for figure, value in figures_of(table).items()}
    values: dict[str, object] = {
        "tiles": [],
        "sentences": what_chose(source, split, top),
        "absent": {
            "training_curve": no_curve(bool(source.history)),
            "scores": _NO_WORDS,
            "lengths": _NO_WORDS,
        },
        "split": split,
        "images": {f"{name} images": len(table) for name, table in source.predictions.items()},
    }
    pictures: list[Drawn] = [
        training_picture(source, top, CAPTIONING, "loss, scores and learning rate over the training")
    ]
    if split is not None and len(source.predictions[split]):
        table = source.predictions[split]
        scores = caption_scores(table["text"].to_pylist(), table["references"].to_pylist())
        values |= {
            "tiles": sections.tiles(split, metrics, intervals),
            "scores": sections.scores(split, metrics),
            "scale": sections.scale(split, metrics, table),
            "wording": sections.wording(table),
            "shown": sections.shown(table, scores, source.load_image, int(source.config["seed"])),
        }
        pictures.append(
            ("scores", plots.score_histogram(scores["rouge_l"]), "images by how near their captions come")
        )
        pictures.append(("lengths", plots.length_histograms(table), "captions and references by length"))
    else:
        values["split"] = None
    found = Found(top, metrics, intervals, pictures, [])
    return write_run_page("captioning.html", source, found, values, out)


def _intervals(source: RunReport) -> dict[str, Interval]:
    return {
        f"{split}/{name}": bounds
        for split, table in source.predictions.items()
        for name, bounds in bounds_of(table).items()
    }
