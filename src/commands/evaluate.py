"""`tapetum evaluate`: finished runs, or a model with weights, on their own or on other data.

What it writes stands beside the run's own files and never replaces them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.check import check_config
from ..config.compose import Composed, compose
from ..config.joined import copy_key, places, replaced, with_own
from ..config.overrides import is_a_file, prepare
from ..config.schema import ANSWERING, ANY_MODEL
from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from ..indexes.table import Index


def main(arguments: Sequence[str]) -> int:
    """Evaluate, print one table a run, write predictions, figures and a report; hold several runs against
    each other. The exit code."""
    flags = [one for one in arguments if one.startswith("-")]
    if flags:
        raise ConfigError(
            f"{flags[0]} is a flag, and there are none: tapetum evaluate RUN… [data=… data.key=…]"
        )
    runs = [one for one in arguments if "=" not in one or is_a_file(one)]
    overrides = [one for one in arguments if one not in runs]
    if runs:
        _check_runs(runs)
        made = [evaluate_run(run, overrides) for run in runs]
        if len(made) > 1:
            from .side_by_side import side_by_side

            side_by_side(runs, made)
    else:
        evaluate_weights(prepare(overrides, multirun=False))
    return 0


def _check_runs(runs: Sequence[str]) -> None:
    """Before the first of several is evaluated: all are there, and none twice."""
    from ..runs.directory import open_run

    paths = [open_run(run).path.resolve() for run in runs]
    twice = [run for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1]
    if twice:
        raise ConfigError(f"{' and '.join(twice)} are one run: name each run once")


def evaluate_run(run: str, overrides: Sequence[str] = ()) -> Path:
    """A run's best weights on its own data, or on other data named by overrides; the new directory.

    Overrides: `data=…` and its keys, single keys of the run's own data, `accelerator=…`, `trainer.…`,
    `paths.…`, keys that say how the run answers (`model.generation.…`), and `allow_targets=[…]`, which a
    checkpoint can't bring along.
    """
    from ..launch.libraries import load_libraries
    from ..runs.directory import open_run

    own = open_run(run)
    other = named_by(overrides, "evaluate RUN takes", task=own.read_config()["task"])
    load_libraries()
    import torch

    from ..runs.loading import load_module
    from ..tasks import task_of

    loaded = load_module(run, allow=other.config["allow_targets"])
    config, name = with_data(loaded.config, other, overrides)
    task_of(config).adjust(loaded.module, config)
    directory = own.path / "evaluations" / f"{name}-{secrets.token_hex(3)}"
    with torch.inference_mode():
        return _evaluate(
            config,
            loaded.module,
            directory,
            title=f"{config['name']} on {name}",
            known=_known(own.read_metrics(), overrides),
            trained_on=str(loaded.metadata["index"]),
        )


_MAY_CHANGE = ("data.", "trainer.", "paths.")


def named_by(overrides: Sequence[str], takes: str, *, task: str) -> Composed:
    """What overrides of a finished run compose to, single keys of its own data left out.

    takes: whose overrides they are, for the ConfigError about one that would change the model. task: of the
    run, which decides the DataModule that keys of data=NAME belong to.
    """
    keys = _keys(overrides)
    for one, key in zip(overrides, keys, strict=True):
        answering = _answering(task)
        may = (*_MAY_CHANGE, *answering)
        if key not in ("data", "accelerator", "allow_targets") and not key.startswith(may):
            raise ConfigError(
                f"{one} would change the run's model: {takes} data=…, data.key=…, accelerator=…, "
                f"trainer.precision=…{''.join(f', {one}…' for one in answering)} and allow_targets=[…] only"
            )
    if "data.val_fraction" in keys:
        raise ConfigError(
            f"data.val_fraction: {takes.split()[0]} sets nothing aside; it takes the test split as it is"
        )
    words = [one for one in overrides if one not in _of_own_data(overrides)]
    return compose(prepare([f"model={ANY_MODEL[task]}", *words], multirun=False))


def with_data(
    saved: Mapping[str, Any], other: Composed, overrides: Sequence[str]
) -> tuple[dict[str, Any], str]:
    """A saved config with the data and the device that overrides name, checked; and a name of the data.

    other: as `named_by` gives it for the same overrides.
    """
    from ..runs.building import data_name

    keys = _keys(overrides)
    swaps = "data" in keys
    config: dict[str, Any] = {**saved, "allow_targets": other.config["allow_targets"]}
    config["data"] = other.config["data"] if swaps else replaced(config, _of_own_data(overrides))["data"]
    if swaps and "radiometry" in saved["data"] and not any(key.startswith("data.radiometry") for key in keys):
        # what a count of the sensor looks like to these weights
        config["data"] = {**config["data"], "radiometry": saved["data"]["radiometry"]}
    settings = ("accelerator", "devices", "strategy", "precision") if "accelerator" in keys else ()
    named = [key.removeprefix("trainer.") for key in keys if key.startswith("trainer.")]
    config["trainer"] = config["trainer"] | {key: other.config["trainer"][key] for key in (*settings, *named)}
    config["paths"] = config["paths"] | {
        key: other.config["paths"][key]
        for key in ("data", "cache")  # of this machine, now
    }
    for key in keys:
        if key.startswith("model."):  # how it answers: `named_by` has let nothing else pass
            copy_key(key, other.config, config)
    check_config(Composed(config={**config, "weights": None, "resume": None}, choices=other.choices))
    return config, other.choices["data"] if swaps else data_name(config)


def _known(metrics: dict[str, float], overrides: Sequence[str]) -> dict[str, float]:
    """Figures of the run that its weights take along: no threshold where another question is asked."""
    asks = any(key in ("model.prompt", "model.answers", "model.answer_score") for key in _keys(overrides))
    return {name: value for name, value in metrics.items() if not asks or name != "val/threshold"}


def _answering(task: str) -> tuple[str, ...]:
    """Keys that say how a run of a task answers; verdicts are judged at every threshold anyway."""
    return tuple(key for key in ANSWERING[task] if not key.startswith("model.thresholds."))


def _keys(overrides: Sequence[str]) -> list[str]:
    return [one.lstrip("+~").split("=")[0] for one in overrides]


def _of_own_data(overrides: Sequence[str]) -> list[str]:
    """Single keys of the data that the run has."""
    keys = _keys(overrides)
    if "data" in keys:
        return []
    return [one for one, key in zip(overrides, keys, strict=True) if key.startswith("data.")]


def evaluate_weights(overrides: Sequence[str]) -> Path:
    """A network with given weights, or one that needs no training, on a data set; the new directory."""
    from ..launch.libraries import load_libraries
    from ..runs.directory import stamp

    composed = compose(overrides)
    check_config(composed)
    load_libraries()
    from .weights import module_as_given

    config = composed.config
    module = module_as_given(
        config,
        "name a run (tapetum evaluate outputs/detection/…) or weights (tapetum evaluate model=… weights=FILE "
        "data=…)",
    )
    directory = Path(config["paths"]["outputs"]) / config["task"] / config["name"] / stamp()
    return _evaluate(config, module, directory, title=config["name"], known={}, trained_on=None)


def _evaluate(
    config: dict[str, Any],
    module: Any,
    directory: Path,
    *,
    title: str,
    known: Mapping[str, float],
    trained_on: str | None,
) -> Path:
    """Predict, judge and report; on the Index that the run was trained on, its validation split, too."""
    import sys

    from ..inference.bank import fill_bank
    from ..runs.building import build_datamodule
    from ..runs.directory import RunDirectory, create_run, write_json
    from ..runs.environment import environment
    from ..tasks import task_of
    from .console import console, progress_to
    from .finish import device_of, infer, report_run, write_notes, write_results
    from .memory import explained
    from .preflight import hardware_problems
    from .vocabulary import without_tokenizer

    problems = hardware_problems(config["trainer"])
    if problems:
        raise ConfigError(problems)
    index, splits = judged_index(config, trained_on)
    data = build_datamodule(config, index, module, progress_to(console, "decoding"))
    settings = config["trainer"]
    task = task_of(config)
    try:
        fill_bank(module, data, device=device_of(settings), precision=str(settings["precision"]))
        predictions = infer(task, module, data, splits, trainer=settings)
    except (RuntimeError, MemoryError) as error:
        raise explained(error, config, "predicting") from error
    run: RunDirectory = create_run(without_tokenizer(config), directory)
    run.checkpoints.rmdir()
    run.command.write_text(" ".join(sys.argv) + "\n")
    write_json(run.environment, environment())
    metrics = task.figures(predictions, module, known=known)
    write_notes(run, index, data.bad)
    write_results(run, predictions, metrics)
    page = report_run(run, index.roots)
    for table in task.tabulate(predictions, metrics, config, directory, title=title, width=console.width):
        console.print(table)
    console.print(f"written {directory}\nreport  {page}", highlight=False, soft_wrap=True)
    return directory


def judged_index(config: dict[str, Any], trained_on: str | None) -> tuple[Index, list[str]]:
    """The Index and the splits of it that are judged.

    On the Index that a run was trained on: its val, which chose, and its test. On any other data nothing is
    set aside: every data set's test split, or all of its images where it has none.
    """
    from ..indexes.build import OneClass
    from ..runs.building import build_index

    def listed() -> Index:
        try:
            return build_index(config)
        except OneClass as found:
            return found.index

    index = listed()
    if index.fingerprint == trained_on:
        splits = [split for split in ("val", "test") if len(index.rows(split))]
        if not splits:
            raise DataError(
                f"{places(config)} has nothing but the images that the run was trained on: name "
                f"others with data=folder data.root=DIR"
            )
        return index, splits
    config["data"] = with_own(config, val_fraction=0.0)["data"]
    return listed().judged(), ["test"]
