"""Detection: one logit an image, judged by class and by generator."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..datamodules.detection import labels
from ..evaluation.curves import most_confidently_wrong
from ..evaluation.detection import Interval, evaluate, intervals
from ..evaluation.paired import Judged
from ..evaluation.predictions import read_predictions
from ..evaluation.table import evaluation_table
from ..indexes.table import Index
from ..inference.detect import detect
from ..inference.predictions import detection_predictions
from ..metrics.binary import fit_threshold
from ..metrics.thresholds import Thresholds
from ..reports.detection import write_detection_report
from ..reports.detection_sections import CLASSES, WORST
from ..reports.evaluation_table import terminal_table, write_tables
from ..reports.published import published_beside, published_tables
from ..reports.run import RunReport
from ..reports.terminal import generator_table, metrics_table, run_line
from ..runs.trackers import Sample
from .task import Predicted, Task, class_counts

log = logging.getLogger("tapetum")

_OF_BOTH_CLASSES = (
    "auroc",
    "ap",
    "balanced_accuracy",
    "f1",
    "precision",
    "recall",
    "real_accuracy",
    "fake_accuracy",
)


class Detection(Task):
    """Real or generated."""

    def facts(self, index: Index) -> dict[str, Any]:
        """The generators, in the order of a k-way head's classes."""
        return {"generators": index.generators()}

    def learnt_from(self, index: Index) -> dict[str, Any]:
        """How many training images each label has."""
        return {"class_counts": class_counts(index)}

    def problems(self, config: Mapping[str, Any], index: Index) -> list[str]:
        """A validation split of one class, where the figure that chooses needs both."""
        monitor = config["train"]["monitor"]
        validation = labels(index)[index.rows("val")]
        one_class = len(validation) > 0 and validation.min() == validation.max()
        if one_class and config["model"]["fit"] and monitor.removeprefix("val/") in _OF_BOTH_CLASSES:
            return [
                f"the val split has images of one class only ({len(validation)}, all "
                f"{index.class_name(validation[0])}), where train.monitor={monitor} is not defined: type "
                f"train.monitor=val/loss train.mode=min, or set more aside with data.val_fraction=0.2"
            ]
        return []

    def adjust(self, module: Any, config: Mapping[str, Any]) -> None:
        """Where verdicts change."""
        module.thresholds = Thresholds(**config["model"]["thresholds"])

    def predict(
        self, module: Any, batches: Any, index: Index, part: str, *, device: torch.device, precision: str
    ) -> Predicted:
        """Logits and verdicts of a split."""
        found = detect(module, batches, device=device, precision=precision)
        table = detection_predictions(index, found.rows, found.logits, module.thresholds)
        return Predicted(table, found.images_per_second)

    def figures(
        self, predictions: Mapping[str, pa.Table], module: Any, *, known: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Flat metrics of every split; on test also at the threshold, the run's or fitted on val."""
        if known is None:
            threshold = fitted_threshold(predictions.get("val"))
        else:
            threshold = known.get("val/threshold")
        metrics: dict[str, float] = {}
        own = getattr(module, "metrics", None)
        for split, table in predictions.items():
            test = split == "test"
            found = evaluate(table, threshold=threshold if test else None, metrics=own, oracle=test)
            metrics |= {f"{split}/{name}": value for name, value in found.items()}
        if threshold is not None:
            metrics["val/threshold"] = threshold
        return metrics

    def read(self, path: Path) -> pa.Table:
        """Columns of `evaluation.predictions.DETECTION`."""
        return read_predictions(path)

    def report(self, source: RunReport, out: Path) -> Path:
        """Curves, confusion, generators, calibration and what was confidently wrong."""
        return write_detection_report(source, out)

    def tables(
        self, metrics: Mapping[str, float], config: Mapping[str, Any], *, monitor: str | None, title: str
    ) -> list[Any]:
        """All figures, generator by generator, and the line of the run."""
        found: list[Any] = [metrics_table(metrics, monitor=monitor, title=title)]
        generators = generator_table(metrics)
        if generators is not None:
            found.append(generators)
        return [*found, run_line(metrics)] if run_line(metrics) else found

    def samples(
        self, predictions: Mapping[str, pa.Table], index: Index, config: Mapping[str, Any]
    ) -> list[Sample]:
        """The images that the report shows as most confidently wrong, at most 512 pixels wide and high."""
        split = next((split for split in ("test", "val") if split in predictions), None)
        found = []
        for row in most_confidently_wrong(predictions[split], WORST).to_pylist() if split else []:
            pixels = self.thumbnail(index, row["index"], config)
            if pixels is None:
                continue
            what = " ".join(filter(None, (CLASSES[row["label"]], row["generator"])))
            caption = f"{row['path']}: {what}, probability of generated {row['probability']:.3f}"
            found.append(Sample(row["path"], caption, pixels))
        return found

    def tabulate(
        self,
        predictions: Mapping[str, pa.Table],
        metrics: Mapping[str, float],
        config: Mapping[str, Any],
        directory: Path,
        *,
        title: str,
        width: int,
    ) -> list[Any]:
        """The evaluation's table beside published figures, as `table.{csv,json,md,tex}`, too."""
        shown: list[Any] = [metrics_table(metrics, title=title)]
        if "test" not in predictions:
            return shown
        found = evaluation_table(predictions["test"], metrics)
        published = published_beside(found, config)
        shown.append(terminal_table(found, f"{title}: test"))
        for method, table, own in published:
            shown += published_tables(method, table, own, width)
        write_tables(found, directory, title=title, published=published)
        return shown

    def intervals(
        self, predictions: Mapping[str, pa.Table], metrics: Mapping[str, float], config: Mapping[str, Any]
    ) -> dict[str, Interval]:
        """Wilson and bootstrap bounds of both splits."""
        bounds: dict[str, Interval] = {}
        for split, table in predictions.items():
            threshold = metrics.get("val/threshold") if split == "test" else None
            found = intervals(table, threshold=threshold)
            bounds |= {f"{split}/{name}": value for name, value in found.items()}
        return bounds

    def judged(self, predictions: Mapping[str, pa.Table], metrics: Mapping[str, float]) -> Judged | None:
        """The test predictions at the fitted threshold."""
        return Judged(predictions["test"], metrics.get("val/threshold")) if "test" in predictions else None


def fitted_threshold(validation: pa.Table | None) -> float | None:
    """The logit with the best balanced accuracy on validation; None without one, or with one class only."""
    if validation is None:
        return None
    values, logits = validation["label"].to_numpy(), validation["logit"].to_numpy()
    known = values >= 0
    if len(np.unique(values[known])) < 2:
        return None
    return float(fit_threshold(torch.from_numpy(logits[known]), torch.from_numpy(values[known])))


TASK = Detection()
