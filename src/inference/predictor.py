"""A trained model in Python: `tapetum.load(run).predict(paths)`."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import pyarrow as pa
import torch

from ..errors import CheckpointError, ConfigError, DataError
from ..modules.detection import DetectionModule
from ..runs.directory import RunDirectory
from ..runs.loading import Which, load_module
from .feeding import cores
from .files import Progress, Written, write_parts
from .inputs import Images, find_images
from .items import Item
from .output import check_output
from .stream import ITEM_SCHEMA, Part, stream
from .verdicts import Rule, Threshold, choose_rule


def load(
    run_or_file: str | Path,
    which: Which = "best",
    device: str | torch.device | None = None,
    allow_targets: Sequence[str] = (),
) -> Predictor:
    """The model of a run or checkpoint, ready to predict.

    device: where it runs; None takes cuda, then mps, then cpu. allow_targets: packages of yours that the
    run was built from; a checkpoint can't allow them itself. Raises CheckpointError for a damaged, pickled
    or foreign file, ConfigError for a `_target_` that is not allowed.
    """
    loaded = load_module(run_or_file, which, allow=allow_targets)
    chosen = torch.device(device) if device is not None else best_device()
    fitted = _fitted_threshold(loaded.file)
    return Predictor(loaded.module.to(chosen), loaded.config, loaded.metadata, chosen, fitted)


@dataclass(frozen=True)
class Predictor:
    """A module with its config and metadata (epoch, step, metrics, best value, the Index's fingerprint).

    fitted_threshold: the logit above which these weights say `generated`, chosen on the run's validation
        split; None where there is none.

    What the methods take in common. batch_size: images at a time, None for the config's data.eval_batch_size.
    workers: threads that read files, None for one a core. threshold: where the verdict changes, `config` for
    model.thresholds.classification, `fitted`, a probability, or None: fitted if there is one, else config.
    Precision and decoder are those of the config.
    """

    module: lightning.LightningModule = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    metadata: dict[str, Any]
    device: torch.device
    fitted_threshold: float | None = None

    def predict(
        self,
        items: Sequence[Item],
        batch_size: int | None = None,
        *,
        workers: int | None = None,
        threshold: Threshold | None = None,
    ) -> pa.Table:
        """`item, logit, probability, verdict, band` of images, in order.

        items: paths (`photos.tar::a.jpg` is a member of an archive), PIL images as a file of the same pixels
        would be read, or uint8 arrays [H, W] or [H, W, 3]. Raises DataError naming the first item that can't
        be read.
        """
        tables = [ITEM_SCHEMA.empty_table()]
        for part in self.stream(items, batch_size, workers=workers, threshold=threshold):
            if part.bad:
                bad = part.bad[0]
                item = items[bad.number]
                name = bad.name if isinstance(item, str | Path) else type(item).__name__
                raise DataError(f"item {bad.number} ({name}) can't be used: {bad.reason}")
            tables.append(part.table)
        return pa.concat_tables(tables).combine_chunks()

    def stream(
        self,
        items: Iterable[Item],
        batch_size: int | None = None,
        *,
        workers: int | None = None,
        threshold: Threshold | None = None,
    ) -> Generator[Part]:
        """The same as it comes, of any number of items; they are taken when needed, and memory stays flat.

        A part has the rows of some items, and the number, name and reason of those that can't be read.
        """
        if isinstance(items, str | Path) or (isinstance(items, np.ndarray) and items.ndim != 4):
            raise DataError("several items are predicted: put a single one into a list, predict([item])")
        data = self.config["data"]
        size = data["eval_batch_size"] if batch_size is None else batch_size
        threads = cores() if workers is None else workers
        if size < 1 or threads < 0:
            raise ConfigError(f"batch_size={size} must be at least 1, and workers={threads} at least 0")
        return stream(
            cast(DetectionModule, self.module),
            items,
            rule=self.rule(threshold),
            device=self.device,
            precision=str(self.config["trainer"]["precision"]),
            backend=data["decoder"],
            batch_size=size,
            threads=threads,
        )

    def predict_files(
        self,
        inputs: str | Path | Sequence[str | Path] | Images,
        output: str | Path,
        batch_size: int | None = None,
        *,
        workers: int | None = None,
        threshold: Threshold | None = None,
        progress: Progress | None = None,
    ) -> Written:
        """Predict all images of the inputs and write `path, logit, probability, verdict, band`.

        inputs: files, folders, patterns, lists or archives, see `find_images`, or what it found. output:
        .csv, .json or .parquet, written whole or not at all. Images that can't be read are left out and
        listed with the reason in `<output>.unreadable.csv`. progress: called with (done, all) images.

        Raises DataError where an input holds no image, where none can be read, and where nothing can be
        written.
        """
        check_output(output)
        images = inputs if isinstance(inputs, Images) else find_images(inputs)
        parts = self.stream(images.paths, batch_size, workers=workers, threshold=threshold)
        return write_parts(parts, images, output, progress)

    def rule(self, threshold: Threshold | None = None) -> Rule:
        """What makes verdicts and bands of logits; as text it says at which thresholds."""
        return choose_rule(threshold, cast(DetectionModule, self.module).thresholds, self.fitted_threshold)


def best_device() -> torch.device:
    """cuda, then mps, then cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _fitted_threshold(file: Path) -> float | None:
    """val/threshold of the run that a checkpoint lies in, if it is the checkpoint that the run ended with."""
    run = RunDirectory(file.absolute().parent.parent)
    if file.absolute().parent != run.checkpoints or not run.finished:
        return None
    if run.best_or_last() != file.absolute():
        return None
    value = run.read_metrics().get("val/threshold")
    if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
        raise CheckpointError(
            f"{run.metrics} says val/threshold={value!r}, which is no logit: remove the entry"
        )
    return value
