"""What stands in each section of a run's report, as plain values for the template."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import TapetumError
from ..evaluation.advice import Advice
from ..evaluation.remedies import Overrides
from .format import duration, flatten, plain
from .history import Best
from .page import png_uri

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

LoadImage = Callable[[str], "np.ndarray[Any, Any] | Image"]
Box = Sequence[float]
THUMBNAIL = 192


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


def no_curve(trained: bool) -> str:
    """Why there may be no picture of the training."""
    return "No figure was recorded" + ("." if trained else ": the run has no finished epoch in metrics.csv.")


def thumbnail(path: str, load_image: LoadImage | None, box: Box | None = None) -> tuple[str, str, bool]:
    """(data address, reason why there is none, whether the image is smaller than its place on the page).

    box: what of the image is shown, see `cropped`.
    """
    if load_image is None:
        return "", "images not at hand", False
    from PIL import Image

    try:
        loaded = load_image(path)
    except (TapetumError, OSError) as error:
        return "", str(error), False
    image = loaded if isinstance(loaded, Image.Image) else Image.fromarray(loaded)
    image = cropped(image.convert("RGB"), box)
    small = max(image.size) < THUMBNAIL
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return png_uri(buffer.getvalue()), "", small


def cropped(image: Image, box: Box | None) -> Image:
    """What a box (x0, y0, x1, y1 in pixels) holds, rounded outwards as `datamodules.reading` does; or all."""
    if box is None:
        return image
    x0, y0, x1, y1 = (round(float(edge), 3) for edge in box)
    return image.crop((math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)))


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
