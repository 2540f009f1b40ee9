"""What a frozen tower saves: an epoch from kept features, and adapters in the last blocks only.

CLIP ViT-B/32 with random weights: 12 blocks 768 wide, 224 pixels in patches of 32, float32; with `--quick`
the one that `tapetum tiny clip` writes.

features: `clip_linear` as `tapetum train data.cache=features` runs it. Its first epoch decodes the JPEGs and
takes them through the tower; the others read what was kept.
steps: a training step on one batch in memory, AdamW: all of the tower (`clip_finetune`), adapters in all
blocks and in the last 4 (`clip_lora`), a head on live features and on kept ones (`clip_linear`).

Memory is what a training step needs: on CUDA the allocator's peak, elsewhere weights, gradients, AdamW's two
states and what autograd saves.

Goals: an epoch from features is at least 100 times as fast as the first one, and adapters in the last 4
blocks train at least twice the images per second of the whole tower.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import lightning
import torch
from _timing import Goal, conclude, interleaved, quick, ratio, table, wall
from loader import make_images
from tapetum.backbones import clip, tiny
from tapetum.datamodules.detection import DetectionDataModule
from tapetum.detectors.clip import ClipFinetune, ClipLinear, ClipLoRA
from tapetum.images.augment import Augment
from tapetum.indexes.build import build
from tapetum.indexes.folder import index as folder
from tapetum.modules.detection import DetectionModule
from tapetum.modules.losses import BinaryCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F

EPOCH_BAR, LORA_BAR = 100.0, 2.0
FULL, LAST = "the whole tower", "LoRA, last 4 blocks"
BATCH = 32

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> int:
    """Time epochs and steps, and print the memory beside them."""
    small = quick(__doc__)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with TemporaryDirectory() as name:
        backbone = str(tiny.clip(Path(name) / "clip")) if small else clip.DEFAULT
        goals = [_epochs(Path(name), backbone, 64 if small else 512), _steps(backbone, small)]
    return conclude(goals, quick=small)


def _epochs(place: Path, backbone: str, count: int) -> Goal:
    """Seconds of the first epoch and of later ones."""
    make_images(place / "images", count)
    net = ClipLinear(backbone=backbone, pretrained=False)
    module = DetectionModule(
        net, loss=BinaryCrossEntropy(), optimizer=partial(torch.optim.AdamW, lr=1e-3), monitor="train/loss"
    )
    data = DetectionDataModule(
        build(folder, root=place / "images", seed=0, cache=None, val_fraction=0.0, name="benchmark"),
        module.input_spec,
        augment=Augment(),
        seed=0,
        cache_dir=place / "cache",
        batch_size=BATCH,
        num_workers=2,
        cache="features",
        network=net.to(device),
    )
    computing = wall(data.train_dataloader)
    epochs = _Epochs()
    trainer = lightning.Trainer(
        accelerator=device.type,
        devices=1,
        max_epochs=8,
        callbacks=[epochs],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=place,
    )
    trainer.fit(module, datamodule=data)
    first, later = computing + epochs.seconds[0], median(epochs.seconds[1:])
    table(
        f"clip_linear, {count} JPEGs of 512x512, batch {BATCH}, on {device.type}",
        ["epoch", "seconds", "images/s"],
        [
            ["the first, features computed", f"{first:.3f}", f"{count / first:.0f}"],
            ["the others, features read", f"{later:.4f}", f"{count / later:.0f}"],
        ],
    )
    return Goal("first epoch / an epoch from features", first / later, ">=", EPOCH_BAR)


class _Epochs(lightning.Callback):
    """Seconds of every training epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._began = perf_counter()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        _wait()
        self.seconds.append(perf_counter() - self._began)


def _steps(backbone: str, small: bool) -> Goal:
    """Images per second and memory of a training step, ways of using the tower in turns."""
    batch, repeats = (4, 1) if small else (16, 5)
    nets: dict[str, nn.Module] = {
        FULL: ClipFinetune(backbone=backbone, pretrained=False),
        "LoRA, all blocks": ClipLoRA(backbone=backbone, pretrained=False),
        LAST: ClipLoRA(backbone=backbone, pretrained=False, last_blocks=4),
        "head on live features": ClipLinear(backbone=backbone, pretrained=False),
    }
    side = clip.preprocessing(backbone).input_spec.output_size
    assert side is not None, "a CLIP has one size"
    images = torch.randint(0, 256, (batch, 3, *side), dtype=torch.uint8).to(device)
    steps = {name: _Step(net.to(device).train(), net, images) for name, net in nets.items()}
    head: Any = nets["head on live features"]
    steps["head on kept features"] = _Step(head, head.forward_features, head.frozen_features(images))
    memory = {name: step.memory() for name, step in steps.items()}
    found = interleaved({name: partial(wall, step) for name, step in steps.items()}, repeats)
    table(
        f"a training step, batch {batch}, on {device.type}, median of {repeats}",
        ["", "images/s", "times the whole tower", "memory, MB", "of it for a batch", "parameters trained"],
        [
            [
                name,
                f"{batch / median(found[name]):.1f}",
                f"{ratio(found, FULL, name):.2f}",
                f"{sum(memory[name]) / 1e6:.0f}",
                f"{memory[name][1] / 1e6:.1f}",
                f"{sum(one.numel() for one in step.trained):,}",
            ]
            for name, step in steps.items()
        ],
    )
    return Goal(f"{LAST}, images/s, times {FULL}", ratio(found, FULL, LAST), ">=", LORA_BAR)


class _Step:
    """Forward, backward and AdamW on one batch of images, or of features."""

    def __init__(self, net: nn.Module, run: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
        self.net, self.run, self.inputs = net, run, inputs
        self.labels = torch.arange(len(inputs), device=device) % 2.0
        self.trained = [one for one in net.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(self.run(self.inputs), self.labels).backward()
        self.optimizer.step()
        _wait()

    def memory(self) -> tuple[int, int]:
        """Bytes of a step: those that stay from step to step, and those that come with a batch."""
        held = {one.data_ptr(): one.nbytes for one in self.net.parameters()}
        stays = sum(held.values()) + 3 * sum(one.nbytes for one in self.trained)
        if device.type == "cuda":
            self()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self()
            return stays, max(0, torch.cuda.max_memory_allocated() - before)
        saved: dict[int, int] = {}

        def note(value: Tensor) -> Tensor:
            if value.data_ptr() not in held:
                storage = value.untyped_storage()
                saved[storage.data_ptr()] = storage.nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            self()
        return stays, sum(saved.values())


def _wait() -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
