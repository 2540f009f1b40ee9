"""`tapetum predict`: a run, or a model with weights, over images of one's own, into a table."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..config.check import check_config
from ..config.compose import Composed, compose
from ..config.joined import copy_key
from ..config.overrides import is_a_file, prepare
from ..config.schema import ANSWERING, ANY_MODEL
from ..errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from ..inference.files import Written
    from ..inference.trained import Trained
    from ..inference.verdicts import Threshold

SOME_UNREADABLE = 3
"""Exit code: the output is written, and lacks images that could not be read."""

_FOR_RUNS = (
    "data.eval_batch_size",
    "data.num_workers",
    "data.decoder",
    "trainer.precision",
)
_ANSWERING = tuple(sorted({key for keys in ANSWERING.values() for key in keys}))
_ASKING = ("model.prompt", "model.answers", "model.answer_score")
_LACKS = {
    "model.thresholds.": "gives no verdicts, and has no thresholds",
    "model.generation.": "writes no texts, and has no model.generation",
}


def main(arguments: Sequence[str]) -> int:
    """Predict, and say what the answers mean, what was left out and what could not be read. The exit code."""
    paths, words = parted(arguments, _USAGE)
    given = [word.removeprefix("threshold=") for word in words if word.startswith("threshold=")]
    overrides = [word for word in words if not word.startswith("threshold=")]
    keys = {key_of(one) for one in overrides}
    run = None if keys & {"model", "weights"} else paths[0] if paths else None
    if len(paths) < (2 if run is None else 3):
        raise ConfigError(_usage(paths))
    *inputs, output = paths[0 if run is None else 1 :]

    from ..inference.inputs import find_images
    from ..inference.output import check_output
    from ..launch.libraries import load_libraries
    from .console import console

    check_output(output)
    images = find_images(inputs)
    load_libraries()
    from .memory import explained

    predictor = from_weights(overrides) if run is None else from_run(run, overrides)
    threshold = _threshold(given[-1]) if given else None
    workers = predictor.config["data"]["num_workers"] if "data.num_workers" in keys else None
    notes = [f"{note}: {count:,}" for note, count in images.notes.items()]
    for line in (*notes, predictor.described(threshold)):
        console.print(line, highlight=False, soft_wrap=True)
    try:
        with (
            progress_bar(len(images.paths), "predicting", "predicted") as progress,
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", module=r"PIL\.")  # what it means is listed as a reason
            written = predictor.predict_files(
                images, output, workers=workers, threshold=threshold, progress=progress
            )
    except (RuntimeError, MemoryError) as error:
        raise explained(error, predictor.config, "predicting") from error
    _say(written)
    return SOME_UNREADABLE if written.unreadable else 0


def from_run(run: str, overrides: Sequence[str] = (), takes: str | None = None) -> Trained:
    """A run's best weights, or those of one of its checkpoints; `predict_files` is what the verb then does.

    Overrides: data.eval_batch_size, data.num_workers, data.decoder, trainer.precision, model.thresholds.…,
    accelerator (without it the best device there is), and allow_targets, which a checkpoint can't bring
    along. Raises ConfigError for any other, saying what the verb takes instead, and what `tapetum.load`
    raises.
    """
    from ..inference.predictor import load
    from ..tasks import task_of

    keys = [key_of(one) for one in overrides]
    for one, key in zip(overrides, keys, strict=True):
        if key not in ("accelerator", "allow_targets") and not key.startswith((*_FOR_RUNS, *_ANSWERING)):
            raise ConfigError(f"{one} would change the run, or says nothing to predict: {takes or _TAKES}")
    plain = [one for one, key in zip(overrides, keys, strict=True) if not key.startswith(_ANSWERING)]
    other = compose(prepare(plain, multirun=False)).config
    # The device is this machine's, whatever the run was trained on; the precision is the run's own.
    trainer = {"accelerator": other["trainer"]["accelerator"], "devices": 1, "strategy": "auto"}
    if "accelerator" in keys:
        trainer["precision"] = other["trainer"]["precision"]
    predictor = load(run, device="cpu", allow_targets=other["allow_targets"])
    config = predictor.config
    for one, key in zip(overrides, keys, strict=True):
        if key.startswith(_ANSWERING) and not key.startswith(ANSWERING[config["task"]]):
            why = next((why for prefix, why in _LACKS.items() if key.startswith(prefix)), "is asked nothing")
            raise ConfigError(f"{one}: a run of {config['task']} {why}")
    if len(plain) < len(overrides):
        own = [f"model={ANY_MODEL[config['task']]}", *overrides]
        other = compose(prepare(own, multirun=False)).config
    config["trainer"] = {**config["trainer"], **trainer}
    for key in keys:
        if key.startswith((*_FOR_RUNS, *_ANSWERING)):
            copy_key(key, other, config)
    if "model.prompt" in keys and "model.answers" not in keys:
        config["model"] = {**config["model"], "answers": None}  # those of the run belong to its own question
    check_config(Composed({**config, "weights": None, "resume": None}, {}), need_files=False)
    task_of(config).adjust(predictor.module, config)
    if any(key.startswith(_ASKING) for key in keys):
        predictor = predictor.without_threshold()  # which validation chose for the run's own question
    return _placed(predictor)


def from_weights(overrides: Sequence[str]) -> Trained:
    """A network with given weights, or one that needs no training, as `model=… weights=FILE` compose it.

    Of the data only batch size, decoder and workers matter. Raises ConfigError with every problem of the
    config, CheckpointError where the weights don't fit.
    """
    from ..inference.predictor import trained
    from .weights import module_as_given

    composed = compose(prepare(overrides, multirun=False))
    check_config(composed)
    module = module_as_given(
        composed.config,
        "name a run (tapetum predict RUN INPUT OUTPUT) or weights (tapetum predict INPUT OUTPUT model=… "
        "weights=FILE)",
    )
    return _placed(trained(module.eval(), composed.config, _metadata(composed.config["weights"])))


def _metadata(weights: str | None) -> dict[str, Any]:
    """What a run's checkpoint says of the images that these weights have learnt from."""
    from pathlib import Path

    from ..runs.checkpoints import read_checkpoint
    from ..runs.loading import checkpoint_file

    path = Path(weights or "").expanduser()
    if not weights or not (path.is_dir() or path.suffix == ".ckpt"):
        return {}
    try:
        metadata = read_checkpoint(checkpoint_file(path))["tapetum"]["metadata"]
    except CheckpointError:  # they have been loaded: a published file that ends so
        return {}
    return {name: metadata[name] for name in ("modalities",) if name in metadata}


def _placed(predictor: Trained) -> Trained:
    """On the device of its config; ConfigError where this machine lacks it or its precision."""
    from dataclasses import replace

    from .finish import device_of
    from .preflight import hardware_problems

    trainer = predictor.config["trainer"]
    problems = hardware_problems(trainer)
    if problems:
        raise ConfigError(problems)
    device = device_of(trainer)
    return replace(predictor, module=predictor.module.to(device), device=device)


def parted(arguments: Sequence[str], usage: str) -> tuple[list[str], list[str]]:
    """(paths, overrides); a word that looks like an override and is a file is a path."""
    flags = [one for one in arguments if one.startswith("-")]
    if flags:
        raise ConfigError(f"{flags[0]} is a flag, and there are none: {usage}")
    is_path = [not _OVERRIDE.match(one) or is_a_file(one) for one in arguments]
    paths = [one for one, path in zip(arguments, is_path, strict=True) if path]
    return paths, [one for one, path in zip(arguments, is_path, strict=True) if not path]


_OVERRIDE = re.compile(r"(\+{1,2}|~)?[A-Za-z_][\w./@]*=|~\w")
_TAKES = (
    "predict RUN takes threshold=…, accelerator=…, data.eval_batch_size=…, data.num_workers=…, "
    "data.decoder=…, trainer.precision=…, model.thresholds.high=…, model.thresholds.low=…, of what writes "
    "model.generation.strategy=… and the like, of what is asked model.prompt=…, and allow_targets=[…]"
)
_USAGE = "tapetum predict RUN INPUT… OUTPUT, or tapetum predict INPUT… OUTPUT model=… weights=FILE"


def _usage(paths: Sequence[str]) -> str:
    named = ", ".join(paths) or "nothing"
    return f"a run (or model=… weights=FILE), images and an output are needed, and there is {named}: {_USAGE}"


def key_of(override: str) -> str:
    """`data.root` of `+data.root=DIR`."""
    return override.lstrip("+~").split("=")[0]


def _threshold(text: str) -> Threshold:
    try:
        return float(text)
    except ValueError:
        return text  # type: ignore[return-value]  # judged where it is used


@contextmanager
def progress_bar(total: int, doing: str, done: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, now and then a line elsewhere; takes (done, all)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .console import console, progress_to

    if not console.is_terminal:
        yield progress_to(console, done)
        return
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda images, _: bar.update(task, completed=images)


def left_out(what: str, count: int, first: Sequence[tuple[str, str]], listed: object) -> list[str]:
    """Lines about `count` images without a `what`, of which some are named and all are in `listed`."""
    if not count:
        return []
    more = count - len(first)
    lines = [f"no {what} for {count:,}, all listed in {listed}"]
    lines += [f"{path}: {reason}" for path, reason in first]
    return [*lines, f"… and {more:,} more"] if more else lines


def _say(written: Written) -> None:
    from .console import console

    lines = left_out("prediction", written.unreadable, written.first, written.listed)
    counts = [f"{count:,} {name}" for name, count in sorted(written.verdicts.items())]
    counts += [f"{written.bands['uncertain']:,} uncertain"] if written.verdicts else []
    rate = (written.images + written.unreadable) / written.seconds
    said = ", ".join([f"{written.images:,} images", *counts, f"{rate:.0f} images/s"])
    lines.append(f"written {written.output}: {said}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
