"""A tiny finished run of retrieval: one epoch on procedural 16-bit thermal targets."""

from __future__ import annotations

from pathlib import Path

from tapetum.runs.directory import RunDirectory

ARGUMENTS = (
    "model=small_embedder", "model.net.size=[24,24]", "model.net.width=8", "model.net.dimension=16",
    "data=synthetic_infrared", "data.index.train=96", "data.index.test=48", "data.index.size=32",
    "data.batch_size=16", "data.eval_batch_size=20", "data.num_workers=0",
    "accelerator=cpu", "trainer.max_epochs=1",
)  # fmt: skip
"""Batches of 20 leave a smaller last one behind."""


def train_embedder(folder: Path, *more: str) -> RunDirectory:
    """A run of the real command, in this process, with all that it writes below a folder."""
    from tapetum.commands.train import train
    from tapetum.config.compose import compose
    from tapetum.config.overrides import prepare

    places = [f"paths.outputs={folder / 'out'}", f"paths.cache={folder / 'cache'}"]
    train(compose(prepare([*ARGUMENTS, *places, *more], multirun=False)))
    (config,) = (folder / "out").rglob("config.yaml")
    return RunDirectory(config.parent)
