"""A tiny InstructBLIP, pictures with questions or labels, and a real Trainer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from tapetum.datamodules.vlm import VLMDataModule
from tapetum.images.augment import Augment
from tapetum.indexes import folder, synthetic_vqa
from tapetum.indexes.build import build
from tapetum.modules.vlm import VLMModule
from tapetum.vlms.instructblip import InstructBlip

from layouts import make_folder

ASKED = {"prompt": "Is this image real?", "answers": ["real", "fake"]}


def conversations(root: Path) -> Any:
    """40 pictures with a question each, 12 to test."""
    layout = partial(synthetic_vqa.index, train=40, test=12)
    return build(
        layout, root=root, val_fraction=0.2, seed=0, cache=None, required=("messages|label",), name="vqa"
    )


def labelled(root: Path) -> Any:
    """Real and generated pictures in folders."""
    make_folder(root)
    return build(
        partial(folder.index),
        root=root,
        val_fraction=0.3,
        seed=0,
        cache=None,
        required=("messages|label",),
        name="folder",
    )


def network(**arguments: Any) -> InstructBlip:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"backbone": "tiny:instructblip", "pretrained": True, "dropout": 0.0}
    return InstructBlip(**(defaults | arguments))


def answerer(net: torch.nn.Module | None = None, **arguments: Any) -> VLMModule:
    defaults: dict[str, Any] = {
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "generation": {"max_new_tokens": 4},
        "log_every_n_steps": 2,
    }
    return VLMModule(net or network(), **(defaults | arguments))


def data_for(index: Any, module: VLMModule, folder: Path, **arguments: Any) -> VLMDataModule:
    defaults: dict[str, Any] = {
        "batch_size": 4,
        "eval_batch_size": 3,
        "seed": 0,
        "augment": Augment(),
        "cache_dir": folder,
        "encode": module.encode_fn(),
        "question": module.question,
    }
    return VLMDataModule(index, module.input_spec, **(defaults | arguments))
