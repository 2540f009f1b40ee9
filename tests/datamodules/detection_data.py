"""Tiny detection data for the tests of loaders, modules and predictors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tapetum.datamodules.detection import DetectionDataModule
from tapetum.images.augment import Augment
from tapetum.images.geometry import InputSpec
from tapetum.indexes import build, folder
from tapetum.indexes.table import Index

SPEC = InputSpec(size=(24, 24), resize="squash")


def build_index(root: Path, **arguments) -> Index:
    layout = partial(folder.index, real=["real"], generated=["ai_generated"])
    return build.build(layout, root=root, **({"seed": 0, "cache": None, "name": "folder"} | arguments))


def data_module(index: Index, cache_dir: Path, *, spec: InputSpec = SPEC, **arguments) -> DetectionDataModule:
    defaults = {
        "augment": Augment(),
        "seed": 5,
        "batch_size": 4,
        "eval_batch_size": 5,
    }
    return DetectionDataModule(index, spec, cache_dir=cache_dir, **(defaults | arguments))
