"""Tiny data and one finished run that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.experiments import HERE, train
from layouts import make_folder


@pytest.fixture(scope="session", autouse=True)
def importable_parts():
    """`own_parts` of this folder is what a user's package is: on the path, and not allowed by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 + 16 + 16 images in train, val and test."""
    return make_folder(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that nothing may change."""
    words = ("trainer.max_epochs=2", "optimizer.lr=0.01", "train.report=true")
    return train(folder, tmp_path_factory.mktemp("finished"), *words)
