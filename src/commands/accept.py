"""`tapetum accept`: does a retrieval run do what was asked of it, on images that taught and chose nothing?"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.joined import places, replaced
from ..errors import ConfigError, DataError, TapetumError, did_you_mean
from .evaluate import judged_index, named_by, with_data

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch

    from ..evaluation.acceptance import Acceptance, Memory
    from ..evaluation.retrieval import Judged
    from ..indexes.table import Index
    from ..metrics.latency import Seconds
    from ..modules.decision import Decision, Target
    from ..runs.directory import RunDirectory
    from ..runs.loading import Loaded
    from ..runs.memory import MemoryEstimate

TIMED = 100
"""Queries that are timed one by one."""

_USAGE = (
    "tapetum accept RUN target_accuracy=0.95 target_seconds=2.0 [classes=[a,b]] [model.decision.rule=…] "
    "[data=… data.key=…] [accelerator=…]"
)
_OWN = ("target_accuracy", "target_seconds", "classes")
_DECISION = "model.decision."


def main(arguments: Sequence[str]) -> int:
    """Judge a run and print a table with the verdict; 0 where it passes, 1 where it fails."""
    from ..launch.libraries import load_libraries
    from .predict import key_of, parted

    paths, words = parted(arguments, _USAGE)
    if len(paths) != 1:
        raise ConfigError(
            f"one run is accepted at a time, and there is {', '.join(paths) or 'none'}: {_USAGE}"
        )
    given = {key_of(word): word.partition("=")[2] for word in words if key_of(word) in _OWN}
    overrides = [word for word in words if key_of(word) not in _OWN]
    near = [
        f"{word}{meant}"
        for word in overrides
        if not key_of(word).startswith(("data", "trainer")) and (meant := did_you_mean(key_of(word), _OWN))
    ]
    if near:
        raise ConfigError(near)
    accuracy = _number("target_accuracy", given.get("target_accuracy"))
    seconds = _number("target_seconds", given.get("target_seconds"))
    classes = _names(given["classes"]) if "classes" in given else None
    load_libraries()
    found, _ = accept_run(paths[0], overrides, accuracy=accuracy, seconds=seconds, classes=classes)
    return 0 if found.passed else 1


def accept_run(
    run: str,
    overrides: Sequence[str] = (),
    *,
    accuracy: float | None = None,
    seconds: float | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[Acceptance, Path]:
    """Judge a run's best weights on the test split of its own or of other data; also where it was written.

    overrides: as `evaluate_run` takes them, and `model.decision.…`, which is not learnt. accuracy, seconds:
    targets; None is what the run's `model.target` says. classes: judge the queries of these only; the gallery
    stays whole. The directory is `<run>/acceptances/<time>/`, with acceptance.json, predictions/ and report/.
    Raises ConfigError without any target, DataError where queries are in the gallery, by place or by content,
    where they were learnt from, and where there is no test split.
    """
    import torch

    from ..modules.decision import Decision
    from ..runs.directory import open_run
    from ..runs.loading import load_module
    from ..runs.throughput import peak_memory_gb
    from .console import console
    from .preflight import hardware_problems

    own = open_run(run)
    saved = own.read_config()
    if saved["task"] != "retrieval":
        raise ConfigError(
            f"{run} is a run of {saved['task']}: accept judges runs of retrieval, such as "
            f"outputs/retrieval/…; tapetum evaluate {run} judges this one"
        )
    choosing = [word for word in overrides if word.startswith(_DECISION)]
    overrides = [word for word in overrides if word not in choosing]
    other = named_by(
        overrides, "accept RUN takes target_accuracy=…, target_seconds=…, classes=[…],", task="retrieval"
    )
    config, _ = with_data(saved, other, overrides)
    node = replaced({"model": {"decision": saved["model"].get("decision") or {}}}, choosing)
    decision = Decision.of(node["model"]["decision"])
    target = _target(saved, accuracy, seconds)
    problems = hardware_problems(config["trainer"])
    if problems:
        raise ConfigError(problems)
    estimated, before = _estimated(config), peak_memory_gb()
    console.print(f"memory, estimated: {estimated}", highlight=False, soft_wrap=True)
    loaded = load_module(run, allow=other.config["allow_targets"])
    config, _ = with_data(loaded.config, other, overrides)  # the checkpoint has the fitted radiometry
    config["model"] = {**config["model"], "decision": asdict(decision)}
    config["trainer"] = {**config["trainer"], "limit_test_batches": None, "fast_dev_run": False}
    asked = [f"target_{name}={value:g}" for name, value in asdict(target).items() if value is not None]
    asked += [] if classes is None else [f"classes=[{','.join(classes)}]"]
    command = shlex.join(["tapetum", "accept", run, *asked, *overrides, *choosing])
    with torch.inference_mode():
        return _accept(config, loaded, own, target, decision, classes, estimated, before, command)


def _accept(
    config: dict[str, Any],
    loaded: Loaded,
    own: RunDirectory,
    target: Target,
    decision: Decision,
    classes: Sequence[str] | None,
    estimated: MemoryEstimate | str,
    before: float,
    command: str,
) -> tuple[Acceptance, Path]:
    """Check the data, embed, time, judge, write and print."""
    from ..evaluation.acceptance import accept, check_classes
    from ..evaluation.acceptance_limits import limits
    from ..evaluation.acceptance_rules import recommend
    from ..indexes.leaks import check_no_copies
    from ..indexes.roles import roles
    from ..inference.predictions import write_predictions
    from ..reports.acceptance import AcceptanceReport, terminal, write_acceptance_report
    from ..runs.building import build_datamodule
    from ..runs.directory import stamp, write_json
    from ..runs.environment import environment
    from .console import console, progress_to
    from .finish import device_of

    device = device_of(config["trainer"])
    index, notes = _judged(config, loaded)
    if classes is not None:
        names = index.classes()
        asked = {
            names[label] for label in index.table["label"].take(roles(index, "test").queries).to_pylist()
        }
        check_classes(classes, sorted(asked))
    check_no_copies(index, "test")
    unseen = not notes
    module: Any = loaded.module
    data = build_datamodule(config, index, module, progress_to(console, "decoding"))
    predictions, judged, seconds = _answered(config, module, data, device, decision, classes)
    found = accept(
        judged,
        target,
        decision,
        seconds=seconds,
        memory=_memory(estimated, before, device, len(judged.gallery) * int(module.net.dimension)),
        classes=classes,
    )
    directory = own.path / "acceptances" / stamp()
    for part, table in predictions.items():
        write_predictions(table, directory / "predictions" / f"{part}.parquet")
    if data.bad:
        notes.append(
            f"{len(data.bad):,} images could not be read and were left out (data.on_bad_image=skip)."
        )
    if decision != module.decision:
        notes.append(
            "How a query is named was typed with this acceptance; the run was trained to be judged otherwise."
        )
    report = AcceptanceReport(
        title=config["name"],
        found=found,
        judged=judged,
        recommendations=recommend(found, judged, config, own.read_metrics()),
        limits=[*notes, *limits(found, judged)],
        measured=_measured(config, loaded, device, found, unseen=unseen),
        environment=environment(),
        config=config,
        command=command,
        trained=own.command.read_text().strip() if own.command.is_file() else "",
        load_image=_shown(index, config),
    )
    page = write_acceptance_report(report, directory / "report")
    write_json(directory / "acceptance.json", report.as_dict())
    for line in terminal(report):
        console.print(line, highlight=False, soft_wrap=isinstance(line, str))
    console.print(f"written {directory}\nreport  {page}", highlight=False, soft_wrap=True)
    return found, directory


def _answered(
    config: Mapping[str, Any],
    module: Any,
    data: Any,
    device: torch.device,
    decision: Decision,
    classes: Sequence[str] | None,
) -> tuple[dict[str, pa.Table], Judged, dict[str, Seconds]]:
    """Predictions by part, what the gallery answered, and the seconds of at most TIMED queries by stage."""
    from ..evaluation.acceptance import of_classes
    from ..evaluation.retrieval import judge
    from ..evaluation.retrieval_predictions import embeddings
    from ..inference.gallery import Gallery
    from ..inference.latency import time_images
    from ..tasks import task_of
    from .finish import infer
    from .memory import explained

    settings = config["trainer"]
    try:
        predictions = infer(task_of(config), module, data, ["test"], trainer=settings)
        test = predictions["test"] if classes is None else of_classes(predictions["test"], classes)
        judged = judge(
            test, predictions.get("gallery"), rule=decision.rule, k=decision.k, exclude=decision.exclude
        )
        seconds = time_images(
            module,
            data.reader(),
            module.input_spec,
            Gallery(judged.gallery, embeddings(judged.gallery), {"decision": asdict(decision)}),
            _drawn(judged.queries["index"].to_numpy(), config["seed"]),
            device=device,
            precision=str(settings["precision"]),
        )
    except (RuntimeError, MemoryError) as error:
        raise explained(error, config, "predicting") from error
    return predictions, judged, seconds


def _measured(
    config: Mapping[str, Any], loaded: Loaded, device: torch.device, found: Acceptance, *, unseen: bool
) -> dict[str, str]:
    """What was measured on what, in words."""
    import torch

    from ..inference.latency import WARM_UP

    timed = found.latency.images if found.latency else 0
    return {
        "run": str(loaded.file.parent.parent),
        "checkpoint": loaded.file.name,
        "data": places(config),
        "queries": "in neither the gallery nor what the run learnt from" if unseen else "not in the gallery",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": str(config["trainer"]["precision"]),
        "timed": f"{timed} queries, one at a time (batch 1), after {min(WARM_UP, timed)} to warm up; their "
        "files came from the operating system's cache",
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _judged(config: dict[str, Any], loaded: Loaded) -> tuple[Index, list[str]]:
    """The Index whose test split is judged, and what could not be looked at.

    On the run's own data its test split; on other data what `judged_index` gives, of which the run must not
    have seen anything.
    """
    from ..indexes.leaks import check_unseen
    from ..runs.building import build_index

    trained_on = str(loaded.metadata["index"])
    index, _ = judged_index(config, trained_on)
    if not len(index.rows("test")):
        raise DataError(
            f"{places(config)} has no test split: its images taught the run or chose its weights. Give it "
            "images that did neither with data.roots.test=DIR, or name other data: data=infrared_folder "
            "data.root=DIR"
        )
    if index.fingerprint == trained_on:
        return index, []
    own = {**loaded.config, "paths": config["paths"]}
    try:
        trained = build_index(own)
    except TapetumError as error:
        return index, [
            "Whether the run was trained on these queries could not be looked up: "
            f"{str(error).splitlines()[0]}."
        ]
    check_unseen(index, "test", trained)
    return index, []


def _estimated(config: Mapping[str, Any]) -> MemoryEstimate | str:
    """What predicting a batch takes, before a weight is read; or why that is not known."""
    from ..images.geometry import with_geometry
    from ..runs.building import build_network_on_meta
    from ..runs.memory import UnknownMemoryError, estimate

    net: Any = build_network_on_meta(config)
    spec = with_geometry(net.input_spec, config["model"]["geometry"])
    try:
        return estimate(net, {**config, "model": {**config["model"], "fit": False}}, spec)
    except UnknownMemoryError as error:
        return str(error)


def _memory(estimated: MemoryEstimate | str, before: float, device: torch.device, numbers: int) -> Memory:
    """The estimate, completed by the gallery of so many float32, beside the highest use until now."""
    from ..evaluation.acceptance import Memory
    from ..runs.throughput import peak_memory_gb

    whole = None if isinstance(estimated, str) else estimated
    return Memory(
        weights=whole.weights if whole else None,
        activations=whole.activations if whole else None,
        batch=whole.batch if whole else 0,
        gallery=4 * numbers,
        measured=round(1e9 * peak_memory_gb()),
        before=round(1e9 * before),
        of="device" if device.type == "cuda" else "process",
        unknown=estimated if isinstance(estimated, str) else "",
    )


def _drawn(rows: np.ndarray[Any, Any], seed: int) -> list[int]:
    """At most TIMED rows, drawn without replacement."""
    import numpy as np

    chosen: list[int] = np.random.default_rng(seed).permutation(rows)[:TIMED].tolist()
    return chosen


def _shown(index: Index, config: Mapping[str, Any]) -> Callable[[str], np.ndarray[Any, Any]]:
    """Path → the whole image as people look at it; the report cuts boxes out itself."""
    from ..tasks import task_of

    rows: dict[str, int] = {path: row for row, path in enumerate(index.table["path"].to_pylist())}
    task, decoder = task_of(config), config["data"]["decoder"]

    def load(path: str) -> np.ndarray[Any, Any]:
        return task.picture(*index.location(rows[path]), decoder)

    return load


def _target(config: Mapping[str, Any], accuracy: float | None, seconds: float | None) -> Target:
    """What was typed, else what the run's config asks for; ConfigError where neither asks for anything."""
    from ..modules.decision import Target

    if accuracy is not None and not 0 < accuracy <= 1:
        raise ConfigError(f"target_accuracy={accuracy:g} must be a share above 0, at most 1: 0.95")
    if seconds is not None and not seconds > 0:
        raise ConfigError(f"target_seconds={seconds:g} must be above 0")
    own = dict(config["model"].get("target") or {})
    typed = {"accuracy": accuracy, "seconds": seconds}
    target = Target.of(own | {name: value for name, value in typed.items() if value is not None})
    if target == Target():
        raise ConfigError(
            "nothing is asked for, and the run's config has no model.target: type target_accuracy=0.95, "
            "target_seconds=2.0, or both"
        )
    return target


def _number(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"{name}={text} is no number: {name}={'0.95' if 'acc' in name else '2.0'}"
        ) from None


def _names(text: str) -> list[str]:
    """`[a,b]` as names, each a text whatever it looks like."""
    import yaml

    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError:
        found = None
    if isinstance(found, str) and found:
        return [found]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"classes={text} is no list of classes: classes=[car,person]")
    return found
