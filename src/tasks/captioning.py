"""Captioning: a sentence an image, judged by how near it comes to what people wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from ..backbones.generation import Generation
from ..evaluation.captioning import BASELINE, Interval, figures, intervals, read_caption_predictions
from ..indexes.table import Index
from ..inference.caption import caption
from ..inference.predictions import caption_predictions
from ..reports.captioning import write_captioning_report
from ..reports.captioning_terminal import baseline_table, written
from ..reports.run import RunReport
from ..reports.terminal import metrics_table, run_line
from ..runs.trackers import Sample
from .task import Predicted, Task

_OF_LIKELIHOOD = ("val/loss", "val/perplexity", "train/loss")
_SAMPLES = 24


class Captioning(Task):
    """Images and what is said of them."""

    samples_are = "captions"

    def facts(self, index: Index) -> dict[str, Any]:
        """Nothing: a captioner's words are its tokenizer's."""
        return {}

    def problems(self, config: Mapping[str, Any], index: Index) -> list[str]:
        """A figure that chooses the checkpoint and is only sometimes there."""
        monitor, every = config["train"]["monitor"], config["model"].get("generate_every_n_epochs", 1)
        if not config["model"]["fit"] or monitor in _OF_LIKELIHOOD or every == 1:
            return []
        when = "never" if every == 0 else f"in every {every}th epoch only"
        return [
            f"train.monitor={monitor} scores captions, which are written {when} "
            f"(model.generate_every_n_epochs={every}): type train.monitor=val/loss train.mode=min, or "
            "model.generate_every_n_epochs=1"
        ]

    def adjust(self, module: Any, config: Mapping[str, Any]) -> None:
        """How captions are written."""
        module.generation = Generation(**config["model"]["generation"])

    def predict(
        self, module: Any, batches: Any, index: Index, part: str, *, device: torch.device, precision: str
    ) -> Predicted:
        """A caption of each image of a split, and the likelihood of its references."""
        found = caption(module, batches, device=device, precision=precision)
        table = caption_predictions(index, found.rows, found.texts, found.nll, found.tokens)
        baseline = _most_frequent(index)
        if baseline is not None:
            table = table.replace_schema_metadata({BASELINE: baseline.encode()})
        return Predicted(table, found.images_per_second)

    def figures(
        self, predictions: Mapping[str, pa.Table], module: Any, *, known: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Flat metrics of every split."""
        return {
            f"{split}/{name}": value
            for split, table in predictions.items()
            for name, value in figures(table).items()
        }

    def read(self, path: Path) -> pa.Table:
        """Columns of `evaluation.captioning.CAPTIONING`."""
        return read_caption_predictions(path)

    def report(self, source: RunReport, out: Path) -> Path:
        """Scores beside the most frequent caption's, and captions under their pictures."""
        return write_captioning_report(source, out)

    def tables(
        self, metrics: Mapping[str, float], config: Mapping[str, Any], *, monitor: str | None, title: str
    ) -> list[Any]:
        """The figures, those of the most frequent caption beside them, and the line of the run."""
        own = {name: value for name, value in metrics.items() if "/most_frequent/" not in name}
        found: list[Any] = [metrics_table(own, monitor=monitor, title=title)]
        return [*found, *baseline_table(metrics), *filter(None, [run_line(metrics)])]

    def samples(
        self, predictions: Mapping[str, pa.Table], index: Index, config: Mapping[str, Any]
    ) -> list[Sample]:
        """The first images, each with its caption and its references."""
        split = next((split for split in ("test", "val") if split in predictions), None)
        found = []
        for row in predictions[split].slice(0, _SAMPLES).to_pylist() if split else []:
            pixels = self.thumbnail(index, row["index"], config)
            if pixels is None:
                continue
            columns = {"caption": row["text"], "references": "\n".join(row["references"])}
            whole = written(row["text"], row["references"])
            found.append(Sample(row["path"], whole, pixels, columns))
        return found

    def intervals(
        self, predictions: Mapping[str, pa.Table], metrics: Mapping[str, float], config: Mapping[str, Any]
    ) -> dict[str, Interval]:
        """Wilson and bootstrap bounds of every split."""
        return {
            f"{split}/{name}": bounds
            for split, table in predictions.items()
            for name, bounds in intervals(table).items()
        }


def _most_frequent(index: Index) -> str | None:
    """The caption that most images of train have, the first one of several; None without any."""
    rows = index.rows("train")
    captions = index.table.column("captions").take(pa.array(rows)).combine_chunks().flatten()
    counted = Counter(captions.to_pylist())
    return counted.most_common(1)[0][0] if counted else None


TASK = Captioning()
