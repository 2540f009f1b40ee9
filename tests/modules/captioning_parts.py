"""A real captioner from scratch, real pictures with captions and a real Trainer, all tiny."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tapetum.backbones.bpe import learn
from tapetum.captioners.pixel_llm import PixelLLM
from tapetum.datamodules.captioning import CaptioningDataModule
from tapetum.images.augment import Augment
from tapetum.indexes import image_text_folder
from tapetum.indexes.build import build
from tapetum.modules.captioning import CaptioningModule

WORDS = ("red", "green", "blue", "dark", "bright")
SAID = {
    "train": [
        [f"a {WORDS[n % 5]} square", f"this one is {WORDS[n % 5]} " + "and plain " * (n % 4)]
        for n in range(12)
    ],
    "val": [[f"a {WORDS[n % 5]} square", f"something {WORDS[n % 5]}", "a square"] for n in range(5)],
    "test": [[f"a {WORDS[n % 5]} square"] for n in range(3)],
}


def write_pictures(root: Path, size: int = 16) -> Path:
    """Folders of pictures for every split, captions in a `manifest.json`; 12, 5 and 3 of them."""
    import json

    manifest = {}
    for split, captions in SAID.items():
        (root / split).mkdir(parents=True)
        for number, texts in enumerate(captions):
            colour = np.random.default_rng([number, len(split)]).integers(0, 255, (size, size, 3), np.uint8)
            Image.fromarray(colour).save(root / split / f"{number:02}.png")
            manifest[f"{split}/{number:02}.png"] = [text.strip() for text in texts]
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def index_of(root: Path) -> Any:
    if not root.exists():
        write_pictures(root)
    return build(
        partial(image_text_folder.index),
        root=root,
        val_fraction=0.0,
        seed=0,
        cache=None,
        required=("captions",),
        name="image_text_folder",
    )


def network(**arguments: Any) -> PixelLLM:
    torch.manual_seed(0)
    learnt = learn([text for texts in SAID["train"] for text in texts], 300)
    defaults: dict[str, Any] = {"size": 16, "patch_size": 8, "width": 16, "depth": 1, "decoder_depth": 1}
    defaults |= {"heads": 2, "dropout": 0.0, "max_caption_length": 24, "tokenizer": learnt}
    return PixelLLM(**(defaults | arguments))


def captioner(net: torch.nn.Module | None = None, **arguments: Any) -> CaptioningModule:
    defaults: dict[str, Any] = {
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "generation": {"max_new_tokens": 8},
        "log_every_n_steps": 2,
    }
    return CaptioningModule(net or network(), **(defaults | arguments))


def data_for(index: Any, module: CaptioningModule, cache: Path, **arguments: Any) -> CaptioningDataModule:
    defaults = {"batch_size": 4, "eval_batch_size": 2, "seed": 0, "augment": Augment(), "cache_dir": cache}
    return CaptioningDataModule(
        index, module.input_spec, encode=module.net.encode_fn(), **(defaults | arguments)
    )
