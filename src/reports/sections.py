"""What stands in each section of a run's report, as plain values for the template."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import TapetumError
from ..evaluation.advice import Advice
from ..evaluation.remedies import Overrides
from .format import Interval, duration, flatten, interval, number, percent, percent_interval, plain
from .history import Best
from .page import png_uri

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

LoadImage = Callable[[str], "np.ndarray[Any, Any] | Image"]
WORST = 24
THUMBNAIL = 192
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


def facts(
    config: Mapping[str, Any], environment: Mapping[str, Any], duration_s: float | None, top: Best | None
) -> list[tuple[str, str]]:
    """(name, value) of what a reader asks first; what neither config nor environment says is left out."""
    leaves = flatten(config)
    lines: list[tuple[str, list[tuple[str, str]]]] = [
        ("task", [("task", "")]),
        ("network", [("model.net._target_", ""), ("model.net.name", "")]),
        ("pretrained", [("model.net.pretrained", "")]),
        ("data", [("data.index._target_", ""), ("data.root", ""), ("data.limit", "limit ")]),
        ("batch", [("data.batch_size", ""), ("trainer.accumulate_grad_batches", "accumulated over ")]),
        (
            "optimizer",
            [
                ("optimizer._target_", ""),
                ("optimizer.lr", "lr "),
                ("optimizer.weight_decay", "weight decay "),
            ],
        ),
        ("schedule", [("scheduler._target_", "")]),
        ("epochs", [("trainer.max_epochs", "at most ")]),
        ("precision", [("trainer.precision", "")]),
        ("seed", [("seed", "")]),
    ]
    found: list[tuple[str, str]] = []
    for name, keys in lines:
        values = [
            prefix + _short(key, leaves[key])
            for key, prefix in keys
            if leaves.get(key) is not None and (key, leaves[key]) != ("trainer.accumulate_grad_batches", 1)
        ]
        if values:
            found.append((name, ", ".join(values)))
    if top is not None and top.epoch is not None:
        found.append(("best epoch", f"{top.epoch + 1:g}"))
    found += _machine(environment)
    if duration_s is not None:
        found.append(("duration", duration(duration_s)))
    return found


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
        uri, reason, small = _thumbnail(row["path"], load_image)
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


Typed = tuple[str, str]
"""A command line in two parts: what stays as it was, and what is new."""


def advice(
    found: Sequence[Advice] | None, command: str
) -> list[tuple[str, Advice, Typed | None, list[Typed]]]:
    """(heading, advice, what to type, what to type instead) of each thing to try."""
    return [
        (
            one.rule.replace("_", " ").capitalize(),
            one,
            typed(command, one.overrides) if one.overrides else None,
            [typed(command, choice) for choice in one.instead],
        )
        for one in found or ()
    ]


def typed(command: str, overrides: Overrides) -> Typed:
    """The run's command line with overrides in place of what it said of the same keys.

    command: command.txt, one line a start, of which the last is what the run became. A line of no training
    of one run (a sweep, a call from Python) leaves the overrides alone.
    """
    lines = [line for line in command.splitlines() if line.strip()]
    words = _words_of(lines[-1]) if lines else None
    if words is None:
        return "", shlex.join(overrides)
    program, given = words
    # The options of `callbacks` are joined by one more; a key below any other group may be gone with it.
    keys = [override.split("=", 1)[0] for override in overrides]
    below = tuple(f"{key}." for key in keys if key != "callbacks")
    below += ("callbacks.early_stopping.",) if "debug" in keys else ()  # debug=overfit takes it away
    kept = []
    for word in given:
        key = word.lstrip("+~").split("=", 1)[0]
        if key not in ("resume", *keys) and not key.startswith(below):
            kept.append(word)
    return shlex.join([*program.split(), *kept]) + " ", shlex.join(overrides)


def _words_of(line: str) -> tuple[str, list[str]] | None:
    """(program, overrides) of a recorded line that trains one run; None of any other."""
    try:
        program, *words = shlex.split(line)
    except ValueError:
        return None
    verb = words[:1] == ["train"]
    known = {"train.py": "python train.py"}
    if verb:
        known = {"tapetum": "tapetum train", "__main__.py": "python -m tapetum train"}
    given = words[1:] if verb else words
    if program not in known or any(
        word[0:1] != "~" and ("=" not in word or word[0] == "-") for word in given
    ):
        return None
    return known[program], given


def absences(shown: pa.Table | None, split: str | None, trained: bool) -> dict[str, str]:
    """Why a picture may be missing, by its name."""
    curve = "No figure was recorded" + ("." if trained else ": the run has no finished epoch in metrics.csv.")
    empty = f"The {split} split holds no image."
    some = shown is not None and len(shown) > 0
    both = f"Undefined: the {split} split holds one class only." if some else empty
    return {
        "training_curve": curve,
        "roc": both,
        "precision_recall": both,
        "confusion": empty,
        "scores": empty,
        "generators": f"No generated {split} image names its generator." if some else empty,
        "reliability": empty,
        "wrong": empty,
    }


def _thumbnail(path: str, load_image: LoadImage | None) -> tuple[str, str, bool]:
    """(data address, reason why there is none, whether the image is smaller than its place on the page)."""
    if load_image is None:
        return "", "images not at hand", False
    from PIL import Image

    try:
        loaded = load_image(path)
    except (TapetumError, OSError) as error:
        return "", str(error), False
    image = loaded if isinstance(loaded, Image.Image) else Image.fromarray(loaded)
    image = image.convert("RGB")
    small = max(image.size) < THUMBNAIL
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return png_uri(buffer.getvalue()), "", small


def _machine(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """git, hardware and versions out of environment.json, as `runs.environment` writes it."""
    found = []
    git = environment.get("git")
    if git:
        found.append(("git", str(git["sha"])[:12] + (", with uncommitted changes" if git["dirty"] else "")))
    gpus = list(environment.get("gpus") or ())
    parts = [f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus)]
    cpu = environment.get("cpu")
    if cpu:
        parts.append(f"{cpu['model']} ({cpu['cores']} cores)")
    if environment.get("memory_gb"):
        parts.append(f"{environment['memory_gb']} GB")
    if parts:
        found.append(("hardware", ", ".join(parts)))
    packages = environment.get("packages") or {}
    versions = [f"{name} {packages[name]}" for name in ("tapetum", "torch") if packages.get(name)]
    if versions:
        found.append(("versions", ", ".join(versions)))
    return found


def _short(key: str, value: Any) -> str:
    """A dotted target by its last names: `tapetum.detectors.npr.NPR` as `npr.NPR`."""
    text = plain(value)
    return ".".join(text.split(".")[-2:]) if key.endswith("_target_") else text


def _bounds(text: str, why: str) -> str:
    return f"95 % interval {text}" if text else why
