"""Retrieval: a vector an image, judged by what its nearest neighbours in the gallery are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ..config.build import build
from ..errors import ConfigError, TapetumError
from ..evaluation.retrieval import Interval, figures, intervals, judge_splits
from ..evaluation.retrieval_predictions import read_retrieval_predictions
from ..images.decode import Backend
from ..images.preview import preview
from ..indexes.roles import roles, train_gallery
from ..indexes.table import Index
from ..inference.embed import embed
from ..inference.predictions import retrieval_predictions
from ..modules.decision import Decision, Target
from ..modules.metric_learning import completed
from ..reports.retrieval import write_retrieval_report
from ..reports.retrieval_strips import strips
from ..reports.retrieval_terminal import warnings, without_classes, worst_classes
from ..reports.run import RunReport
from ..reports.terminal import metrics_table, run_line
from ..runs.trackers import Sample
from .task import Predicted, Task, class_counts


class Retrieval(Task):
    """Queries and the gallery that they search."""

    def facts(self, index: Index) -> dict[str, Any]:
        """The names of the classes by label, and of the modalities that were learnt from."""
        names = {str(label): name for label, name in index.classes().items()}
        return {"classes": names, "modalities": index.codes("modality")[1]}

    def learnt_from(self, index: Index) -> dict[str, Any]:
        """How many training images each label has."""
        return {"class_counts": class_counts(index)}

    def problems(self, config: Mapping[str, Any], index: Index) -> list[str]:
        """Settings that can't be meant, and splits in which nothing can be found."""
        found = _settings_problems(config, index)
        labels = index.table.column("label").to_numpy()
        for split in ("val", "test"):
            if not len(index.rows(split)):
                continue
            try:
                there = roles(index, split)
            except TapetumError as error:
                found.append(str(error))
                continue
            if not np.isin(labels[there.queries], labels[there.gallery]).any():
                found.append(
                    f"none of the {len(there.queries)} {split} queries has a class that its gallery has, so "
                    "nothing can be found: give the split a gallery of its own (the column role), or queries "
                    "of the classes that are searched"
                )
        return found

    def parts(self, index: Index, splits: Sequence[str]) -> list[str]:
        """The splits, and before them `gallery`, where one of them searches the train split."""
        wanted = super().parts(index, splits)
        searched = any(not roles(index, split).own for split in wanted)  # type: ignore[arg-type]
        return ["gallery", *wanted] if searched and len(train_gallery(index)) else wanted

    def predict(
        self, module: Any, batches: Any, index: Index, part: str, *, device: torch.device, precision: str
    ) -> Predicted:
        """Embeddings of a split, or of the gallery."""
        found = embed(module, batches, device=device, precision=precision)
        return Predicted(retrieval_predictions(index, found.rows, found.embeddings), found.images_per_second)

    def figures(
        self, predictions: Mapping[str, pa.Table], module: Any, *, known: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Flat metrics of every split; nothing of the gallery is judged."""
        decision: Decision = module.decision
        metrics: dict[str, float] = {}
        for split, judged in judge_splits(predictions, asdict(decision)).items():
            metrics |= {f"{split}/{name}": value for name, value in figures(judged).items()}
        return metrics

    def read(self, path: Path) -> pa.Table:
        """See `evaluation.retrieval`."""
        return read_retrieval_predictions(path)

    def report(self, source: RunReport, out: Path) -> Path:
        """Figures by rule and class, the confusion, a projection, and what was found for whom."""
        return write_retrieval_report(source, out)

    def picture(self, root: Path, path: str, decoder: Backend) -> npt.NDArray[np.uint8]:
        """Levels of 16 bits are stretched from the image's own 1st to its own 99th percentile."""
        return preview(root, path, backend=decoder).permute(1, 2, 0).numpy()

    def tables(
        self, metrics: Mapping[str, float], config: Mapping[str, Any], *, monitor: str | None, title: str
    ) -> list[Any]:
        """The figures, what must not be overlooked, the classes found worst, and the line of the run."""
        return [
            metrics_table(without_classes(metrics), monitor=monitor, title=title),
            *warnings(metrics, config["model"].get("decision") or {}),
            *worst_classes(metrics),
            *filter(None, [run_line(metrics)]),
        ]

    def samples(
        self, predictions: Mapping[str, pa.Table], index: Index, config: Mapping[str, Any]
    ) -> list[Sample]:
        """The queries that the report shows as most confidently wrong, each beside what it found."""
        splits = {name: predictions[name] for name in ("gallery", "test", "val") if name in predictions}
        split = next((name for name in ("test", "val") if name in splits), None)
        if split is None:
            return []
        parts = {name: splits[name] for name in (split, "gallery") if name in splits}
        judged = judge_splits(parts, config["model"].get("decision") or {})[split]

        def load(row: int) -> npt.NDArray[np.uint8]:
            root, path = index.location(row)
            return self.picture(root, path, config["data"]["decoder"])

        return list(strips(judged, load))

    def intervals(
        self, predictions: Mapping[str, pa.Table], metrics: Mapping[str, float], config: Mapping[str, Any]
    ) -> dict[str, Interval]:
        """Wilson and bootstrap bounds of every split."""
        bounds: dict[str, Interval] = {}
        for split, judged in judge_splits(predictions, config["model"].get("decision") or {}).items():
            bounds |= {f"{split}/{name}": value for name, value in intervals(judged).items()}
        return bounds


def _settings_problems(config: Mapping[str, Any], index: Index) -> list[str]:
    """What the module and the DataModule would refuse once they are built, and what would do nothing."""
    model, data = config["model"], config["data"]
    found: list[str] = []
    decision = Decision()
    for read in (
        lambda: Decision.of(model.get("decision") or {}),
        lambda: Target.of(model.get("target") or {}),
        lambda: _losses(config),
    ):
        try:
            made = read()
        except ConfigError as error:
            found += error.problems
        else:
            decision = made if isinstance(made, Decision) else decision
    if decision.exclude and not index.codes(decision.exclude)[1]:
        found.append(
            f"model.decision.exclude={decision.exclude}, but no image has a {decision.exclude}: type "
            "model.decision.exclude=null, or name them in the data"
        )
    batch, each = data.get("batch_size", 64), data.get("images_per_class", 4)
    if data.get("sampler", "classes") == "classes" and each >= 2 and batch % each == 0 and batch < 2 * each:
        found.append(
            f"data.batch_size={batch} with data.images_per_class={each} makes batches of one class, which "
            f"have nothing to tell apart: type data.batch_size={2 * each}"
        )
    return found


def _losses(config: Mapping[str, Any]) -> None:
    """Build the losses for a moment: a library says only then which arguments it does not take."""
    if not config["model"]["fit"]:
        return
    for key in ("loss", "warm_start"):
        node = config["model"].get(key)
        node = node.get("loss") if key == "warm_start" and node else node
        if isinstance(node, Mapping) and "_target_" in node:
            name = f"model.{key}" if key == "loss" else "model.warm_start.loss"
            completed(build(node, allow=config["allow_targets"]), key=name, classes=2, dimension=8)


TASK = Retrieval()
