"""A run that stopped is made ready to go on, before anything of it is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TapetumError

if TYPE_CHECKING:
    from ..runs.directory import RunDirectory
    from .preflight import Preflight

_LENGTH = ("max_epochs", "max_steps", "max_time")


def take_up(run: RunDirectory, checkpoint: Path, config: Mapping[str, Any], checked: Preflight) -> None:
    """Make a run ready to go on: same index, something left to do, and its config as it now is.

    Raises TapetumError for a changed index and for a run that has come to its end.
    """
    from ..runs.directory import write_config
    from ..runs.resume import check_index

    metadata = check_index(checkpoint, checked.index.fingerprint)["tapetum"]["metadata"]
    before = run.read_config()["trainer"]
    if run.finished and all(before.get(key) == config["trainer"].get(key) for key in _LENGTH):
        page = run.report / "index.html"
        where = f"its report is {page}" if page.is_file() else f"tapetum report {run.path} shows it"
        longer = 2 * (config["trainer"].get("max_epochs") or 10)
        raise TapetumError(
            f"{run.path} has finished, at step {metadata['step']}: {where}. "
            f"To train on, type trainer.max_epochs={longer}; to start a new run "
            f"from its weights, weights={run.path}"
        )
    run.pruned.unlink(missing_ok=True)  # whoever goes on with it does not give it up
    run.metrics.unlink(missing_ok=True)  # its presence says that a run has finished
    write_config(run, config)
