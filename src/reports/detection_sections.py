"""What stands in the sections of a detection run's report, as plain values for the template."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from .format import Interval, interval, number, percent, percent_interval
from .sections import LoadImage, no_curve, thumbnail

WORST = 24
CLASSES = ("real", "generated")


@dataclass(frozen=True)
class GeneratorRow:
    """One generator's line in the table: shares in [0, 1] or NaN, counts of the images it was judged on."""

    name: str
    generated: int
    real: int
    reals: str
    accuracy: float
    interval: Interval | None
    real_accuracy: float
    fake_accuracy: float
    auroc: float
    ap: float


@dataclass(frozen=True)
class WrongImage:
    """One misjudged image; `uri` is empty where it could not be shown, `reason` says why."""

    uri: str
    reason: str
    small: bool
    path: str
    label: str
    generator: str | None
    probability: float


@dataclass(frozen=True)
class Wrong:
    """The images shown, and how many were misjudged in all."""

    images: list[WrongImage]
    total: int
    of: int


def tiles(
    split: str,
    metrics: Mapping[str, float],
    intervals: Mapping[str, Interval],
    generators: list[GeneratorRow],
) -> list[tuple[str, str, str]]:
    """(name, figure, what stands below it) of the headline."""
    found: list[tuple[str, str, str]] = []
    why = "no image to count" if math.isnan(metrics[f"{split}/accuracy"]) else "needs images of both classes"
    bounds = percent_interval(intervals.get(f"{split}/accuracy"))
    found.append((f"{split} accuracy", percent(metrics[f"{split}/accuracy"]), _bounds(bounds, why)))
    for name, label in (("auroc", "AUROC"), ("ap", "average precision")):
        bounds = interval(intervals.get(f"{split}/{name}"))
        found.append((f"{split} {label}", number(metrics[f"{split}/{name}"]), _bounds(bounds, why)))
    known = [row for row in generators if not math.isnan(row.accuracy)]
    if known:
        worst = min(known, key=lambda row: row.accuracy)
        below = f"{worst.name}, the lowest of {len(generators)}" if len(generators) > 1 else worst.name
        found.append(("worst generator, accuracy", percent(worst.accuracy), below))
    else:
        error = number(metrics[f"{split}/ece"], 3)
        found.append((f"{split} calibration error", error, "expected (ECE); 0 is perfect"))
    return found


def generator_rows(
    predictions: pa.Table, split: str, metrics: Mapping[str, float], intervals: Mapping[str, Interval]
) -> list[GeneratorRow]:
    """One line a generator, worst accuracy first, undefined last."""
    from ..evaluation.generators import subsets

    rows = []
    for subset in subsets(predictions):
        prefix = f"{split}/generator/{subset.metric_name}/"
        rows.append(
            GeneratorRow(
                name=subset.name,
                generated=subset.generated,
                real=subset.real,
                reals=subset.reals,
                accuracy=metrics[prefix + "accuracy"],
                interval=intervals.get(prefix + "accuracy"),
                real_accuracy=metrics[prefix + "real_accuracy"],
                fake_accuracy=metrics[prefix + "fake_accuracy"],
                auroc=metrics[prefix + "auroc"],
                ap=metrics[prefix + "ap"],
            )
        )
    return sorted(rows, key=lambda row: (math.isnan(row.accuracy), row.accuracy, row.name))


def wrong_images(predictions: pa.Table, load_image: LoadImage | None) -> Wrong:
    """The most confidently misjudged images with their thumbnails."""
    from ..evaluation.curves import confusion, most_confidently_wrong

    counts = confusion(predictions)
    shown = []
    for row in most_confidently_wrong(predictions, WORST).to_pylist():
        uri, reason, small = thumbnail(row["path"], load_image)
        shown.append(
            WrongImage(
                uri, reason, small, row["path"], CLASSES[row["label"]], row["generator"], row["probability"]
            )
        )
    return Wrong(shown, counts.real_as_generated + counts.generated_as_real, len(predictions))


def undefined(predictions: Mapping[str, pa.Table]) -> list[str]:
    """A sentence for each split whose figures are partly undefined, and why."""
    said = []
    for split, table in predictions.items():
        labels = set(pc.unique(table["label"]).to_pylist())
        if not labels:
            said.append(f"The {split} split holds no image; all its figures are undefined.")
        elif len(labels) == 1:
            only = CLASSES[labels.pop()]
            said.append(
                f"The {split} split holds {only} images only ({len(table):,}): what needs both "
                "classes (AUROC, average precision, balanced accuracy) is undefined, and accuracy says "
                "nothing of the other class."
            )
        unnamed = int(
            pc.sum(pc.and_(pc.equal(table["label"], 1), pc.is_null(table["generator"]))).as_py() or 0
        )
        generated = int(pc.sum(table["label"]).as_py() or 0)
        if 0 < unnamed < generated:
            said.append(
                f"{unnamed:,} of {generated:,} generated {split} images name no generator; they count in "
                "the whole and in no generator's line."
            )
    return said


def absences(shown: pa.Table | None, split: str | None, trained: bool) -> dict[str, str]:
    """Why a picture may be missing, by its name."""
    empty = f"The {split} split holds no image."
    some = shown is not None and len(shown) > 0
    both = f"Undefined: the {split} split holds one class only." if some else empty
    return {
        "training_curve": no_curve(trained),
        "roc": both,
        "precision_recall": both,
        "confusion": empty,
        "scores": empty,
        "generators": f"No generated {split} image names its generator." if some else empty,
        "reliability": empty,
        "wrong": empty,
    }


def _bounds(text: str, why: str) -> str:
    return f"95 % interval {text}" if text else why
