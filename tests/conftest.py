"""What every test stands on: no network, two cores, and no file of the user's touched or read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Two workers share two cores, and nothing is ever fetched. Set before torch and transformers are imported;
# every process that a test starts inherits it.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "WANDB_MODE": "offline",
    "MPLBACKEND": "Agg",
}

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches and data of a test session lie in a folder of its own, never in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAPETUM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TAPETUM_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setenv("WANDB_DIR", str(tmp_path_factory.mktemp("wandb")))
        yield


@pytest.fixture(autouse=True)
def no_hydra_left_behind() -> Iterator[None]:
    """Hydra keeps one global state; a test that composes must not decide what the next one gets."""
    yield
    if "hydra.core.global_hydra" in sys.modules:
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real image archives: $TAPETUM_SHARED_DATA, else shared/data beside the repository."""
    folder = Path(os.environ.get("TAPETUM_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; name their folder in TAPETUM_SHARED_DATA")
    return folder
