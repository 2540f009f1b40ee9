"""One finished run that the tests of this folder share."""

from __future__ import annotations

import pytest
import tapetum
from tapetum.runs.directory import RunDirectory

from layouts import make_folder


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> RunDirectory:
    """A run of the real command, in this process: one epoch on 24 tiny images."""
    from tapetum.commands.train import train
    from tapetum.config.compose import compose
    from tapetum.config.overrides import prepare

    folder = tmp_path_factory.mktemp("run")
    make_folder(folder / "data", splits={"train": 8, "val": 4, "test": 5}, size=40)
    arguments = [
        "model=timm_backbone", "model.net.name=test_resnet.r160_in1k", "model.net.size=32",
        "model.net.hidden=16", "data=folder", f"data.root={folder / 'data'}", "data.batch_size=8",
        "data.num_workers=0", "trainer.accelerator=cpu", "trainer.max_epochs=1",
        f"paths.outputs={folder / 'out'}", f"paths.cache={folder / 'cache'}",
    ]  # fmt: skip
    train(compose(prepare(arguments, multirun=False)))
    (config,) = (folder / "out").rglob("config.yaml")
    return RunDirectory(config.parent)


@pytest.fixture(scope="session")
def predictor(run):
    return tapetum.load(run.path, device="cpu")
