"""A real embedder, real infrared files and a real Trainer, all tiny."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from tapetum.datamodules.retrieval import RetrievalDataModule
from tapetum.embedders.small_resnet import SmallEmbedder
from tapetum.images.augment import Augment
from tapetum.indexes import infrared_folder
from tapetum.indexes.build import build
from tapetum.modules.retrieval import RetrievalModule
from tapetum.tasks.task import class_counts

from layouts import make_infrared_folder


def index_of(root: Path, **arguments: Any) -> Any:
    if not root.exists():
        make_infrared_folder(root)
    return build(
        partial(infrared_folder.index, test_fraction=0.0, **arguments),
        root=root,
        val_fraction=0.25,
        seed=0,
        cache=None,
        required=("label", "class"),
        name="infrared_folder",
    )


def network() -> SmallEmbedder:
    torch.manual_seed(0)
    return SmallEmbedder(size=(16, 16), width=4, blocks=(1, 1), dimension=8)


def embedder(index: Any, net: torch.nn.Module | None = None, **arguments: Any) -> RetrievalModule:
    from pytorch_metric_learning.losses import TripletMarginLoss

    defaults: dict[str, Any] = {
        "loss": partial(TripletMarginLoss),
        "optimizer": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01),
        "class_counts": class_counts(index),
        "log_every_n_steps": 2,
    }
    return RetrievalModule(net or network(), **(defaults | arguments))


def data_for(index: Any, module: RetrievalModule, cache: Path, **arguments: Any) -> RetrievalDataModule:
    defaults = {"batch_size": 8, "images_per_class": 2, "seed": 0, "augment": Augment(), "cache_dir": cache}
    return RetrievalDataModule(index, module.input_spec, **(defaults | arguments))


def trainer_for(folder: Path, **arguments: Any) -> lightning.Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "default_root_dir": folder,
        "num_sanity_val_steps": 0,
    }
    return lightning.Trainer(**(defaults | arguments))
