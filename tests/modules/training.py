"""A real detector, real files and a real Trainer, all tiny."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from tapetum.detectors.timm_backbone import TimmBackbone
from tapetum.images.augment import Augment
from tapetum.modules.detection import DetectionModule
from tapetum.modules.losses import BinaryCrossEntropy
from tapetum.runs.checkpoints import AtomicCheckpointIO, DescribeCheckpoint
from tapetum.runs.history import MetricsCsv, read_history
from tapetum.runs.throughput import Throughput

from datamodules.detection_data import build_index, data_module
from layouts import make_folder


def network(*, classes: int = 1, dropout: float = 0.0, **arguments: Any) -> TimmBackbone:
    torch.manual_seed(0)
    name = "test_resnet.r160_in1k"
    return TimmBackbone(
        name=name, pretrained=False, size=32, hidden=8, classes=classes, dropout=dropout, **arguments
    )


def detector(
    net: torch.nn.Module | None = None, *, kind: type[DetectionModule] = DetectionModule, **arguments: Any
) -> DetectionModule:
    defaults: dict[str, Any] = {
        "loss": BinaryCrossEntropy(),
        "optimizer": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01),
        "monitor": "val/auroc",
        "log_every_n_steps": 2,
    }
    return kind(net or network(), **(defaults | arguments))


def data_for(module: DetectionModule, root: Path, **arguments: Any) -> Any:
    """8 batches of 4 to train on, 10 images to validate and 8 to test; one generator."""
    if not root.exists():
        make_folder(root, splits={"train": 16, "val": 5, "test": 4}, size=32)
    index = arguments.pop("index", None) or build_index(root)
    defaults = {"spec": module.input_spec, "augment": Augment()}
    return data_module(index, root.parent / "cache", **(defaults | arguments))


def trainer_for(
    folder: Path,
    *,
    callbacks: Sequence[lightning.Callback] = (),
    **more: Any,
) -> lightning.Trainer:
    describe = DescribeCheckpoint({"name": "tiny"}, {}, "val/auroc", "max")
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": [MetricsCsv(folder / "metrics.csv")],
        "log_every_n_steps": 2,
        "enable_progress_bar": False,
        "enable_checkpointing": any(
            isinstance(c, lightning.pytorch.callbacks.ModelCheckpoint) for c in callbacks
        ),
    }
    return lightning.Trainer(
        callbacks=[describe, Throughput(), *callbacks],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **(defaults | more),
    )


def fit(
    module: DetectionModule, folder: Path, *, data: Any = None, ckpt_path: Path | None = None, **trainer: Any
) -> lightning.Trainer:
    folder.mkdir(exist_ok=True)
    made = trainer_for(folder, **trainer)
    data = data or data_for(module, folder / "data")
    made.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return made


def history(folder: Path) -> list[dict[str, float]]:
    return read_history(folder / "metrics.csv")
