"""After the weights stand: predictions, figures, table, report. The same for `train` and `evaluate`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..config.joined import each
from ..datamodules.samplers import Shard
from ..evaluation.advice import Advice, advise
from ..indexes.table import Index
from ..inference.predictions import write_predictions
from ..inference.predictor import best_device
from ..reports.run import RunReport
from ..runs.directory import RunDirectory, write_json
from ..runs.ending import ending
from ..runs.history import read_history
from ..tasks import task_of
from ..tasks.task import Task

log = logging.getLogger("tapetum")


def infer(
    task: Task,
    module: Any,
    datamodule: Any,
    splits: Sequence[str],
    *,
    trainer: Mapping[str, Any],
    device: torch.device | None = None,
) -> dict[str, pa.Table]:
    """The tables that the task predicts for these splits: part → table."""
    device = device or device_of(trainer)
    module.to(device)  # where a loader has features to compute, it does so there
    found: dict[str, pa.Table] = {}
    for part in task.parts(datamodule.index, splits):
        loader = datamodule.eval_dataloader(part, shard=Shard())  # this process predicts every image
        limit = 1 if trainer.get("fast_dev_run") else trainer.get(f"limit_{part}_batches")
        batches = loader if limit is None else _FirstBatches(loader, limit)
        if not len(batches):
            log.info("%s: left out, trainer.limit_%s_batches=%s", part, part, limit)
            continue
        predicted = task.predict(
            module, batches, datamodule.index, part, device=device, precision=str(trainer["precision"])
        )
        found[part] = predicted.table
        log.info(
            "%s: %d images predicted, %.0f images/s", part, len(predicted.table), predicted.images_per_second
        )
    return found


class _FirstBatches:
    """The first batches of a loader: so many, or a share, as Lightning counts its limits."""

    def __init__(self, loader: Any, limit: int | float) -> None:
        self.loader = loader
        share = isinstance(limit, float)
        self.count = int(len(loader) * limit) if share else min(len(loader), int(limit))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.loader), self.count)


def write_results(
    run: RunDirectory, predictions: Mapping[str, pa.Table], metrics: Mapping[str, float]
) -> None:
    """predictions/<split>.parquet, then metrics.json, whose presence says that the run is finished."""
    for split, table in predictions.items():
        write_predictions(table, run.predictions(split))
    write_json(run.metrics, dict(sorted(metrics.items())))


def write_notes(run: RunDirectory, index: Index, bad: Mapping[int, str], limits: Sequence[str] = ()) -> None:
    """What a reader of the figures must know: notes.json, and bad_images.json where there are any.

    bad: Index row → why it could not be read.
    """
    notes = [f"{note}: {count:,}" for note, count in index.notes.items()]
    found = run.path / "found.json"
    if found.is_file():
        notes += [
            f"found by a search: {key}={value:.4g}" for key, value in json.loads(found.read_text()).items()
        ]
    if bad:
        listed = [{"path": index.location(row)[1], "reason": reason} for row, reason in sorted(bad.items())]
        write_json(run.path / "bad_images.json", listed)
        images = "1 image" if len(bad) == 1 else f"{len(bad):,} images"
        notes.append(f"{images} could not be read and were left out, see bad_images.json")
        log.warning(notes[-1])
    carved = bool(index.notes.get("validation images taken from train"))
    counted = {"counts": index.counts(), "carved": carved}
    write_json(run.path / "notes.json", {"notes": notes, "limits": list(limits), **counted})


def what_to_try(run: RunDirectory) -> list[Advice]:
    """What a run suggests to try next, from its files; works on a run that crashed, too."""
    config = run.read_config()
    written = {
        file.name: json.loads(file.read_text()) if file.is_file() else {}
        for file in (run.path / "notes.json", run.path / "found.json", run.environment)
    }
    for key, value in written["found.json"].items():  # what a search decided is not in config.yaml
        group, name = key.split(".")
        config[group] = {**config[group], name: value}
    return advise(
        read_history(run.history) if run.history.is_file() else [],
        config,
        written["notes.json"].get("counts", {}),
        run.read_metrics(),
        carved=written["notes.json"].get("carved", False),
        cores=written[run.environment.name].get("cpu", {}).get("cores"),
        ended_by=ending(run).reason,
    )


def advice_line(run: RunDirectory) -> str:
    """One line for the terminal about what to try next; empty where nothing stands out."""
    advice = what_to_try(run) if run.history.is_file() else []
    if not advice:
        return ""
    things = "1 thing" if len(advice) == 1 else f"{len(advice)} things"
    where = "the report" if (run.report / "index.html").is_file() else f"tapetum report {run.path}"
    return f"{things} to try next ({', '.join(one.rule for one in advice)}): see {where}"


def report_run(run: RunDirectory, roots: Sequence[Path] = ()) -> Path:
    """Build `report/index.html` from the run's files alone; works on a run that crashed, too.

    roots: where thumbnails are looked for; without them, data.root of the run's config.
    """
    config = run.read_config()
    metrics = run.read_metrics()
    task = task_of(config)
    predictions = read_parts(run, task)
    notes = json.loads((run.path / "notes.json").read_text()) if (run.path / "notes.json").is_file() else {}
    places = [*roots, *(Path(one["data"]["root"]).expanduser() for one in each(config).values())]

    def load_image(path: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        root = next((place for place in places if (place / path.split("::")[0]).is_file()), places[-1])
        return task.picture(root, path, config["data"]["decoder"])

    advice = what_to_try(run) if run.history.is_file() else None  # an evaluation trains nothing
    return task.report(
        RunReport(
            title=config["name"],
            config=config,
            environment=json.loads(run.environment.read_text()) if run.environment.is_file() else {},
            command=run.command.read_text().strip() if run.command.is_file() else "",
            history=read_history(run.history) if run.history.is_file() else [],
            metrics=metrics,
            predictions=predictions,
            monitor=config["train"]["monitor"],
            mode=config["train"]["mode"],
            load_image=load_image,
            notes=notes.get("notes", []),
            limits=[*unfinished(run), *notes.get("limits", [])],
            threshold=metrics.get("val/threshold"),
            duration_s=metrics.get("run/seconds"),
            advice=advice,
        ),
        run.report,
    )


def unfinished(run: RunDirectory) -> list[str]:
    """How a run ended that has no final figures, as a sentence; nothing of one that has."""
    from ..reports.history import epochs_run

    epochs = epochs_run(read_history(run.history)) if run.history.is_file() else 0
    said = ending(run).sentence(epochs, run.read_config()["trainer"].get("max_epochs"))
    return [f"The run {said}."] if said else []


def read_parts(run: RunDirectory, task: Task) -> dict[str, pa.Table]:
    """The Predictions tables that a run has: part → table, validation before test."""
    found = sorted(run.path.glob("predictions/*.parquet"), key=lambda file: (file.stem == "test", file.stem))
    return {file.stem: task.read(file) for file in found}


def device_of(trainer: Mapping[str, Any]) -> torch.device:
    """The device that a Trainer config means."""
    name = {"gpu": "cuda"}.get(trainer["accelerator"], trainer["accelerator"])
    return best_device() if name == "auto" else torch.device(name)
