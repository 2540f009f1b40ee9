"""Where a search keeps its trials: an optuna study, opened by the search and by each of its jobs.

`trial.json` in a job's directory says which trial of which study it is.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, TapetumError
from .directory import RunDirectory, write_json

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage

_SQLITE = "sqlite:///"
_LOCKED_S = 60  # that a process waits for another one that writes to the same database


@dataclass(frozen=True)
class TrialOf:
    """storage: a journal's path or sqlite:///FILE. epochs: most that a trial trains, 0 = no bound."""

    storage: str
    study: str
    number: int
    epochs: int


def write_trial(directory: Path, trial: TrialOf) -> None:
    """Tell a job, before it starts, which trial it is."""
    write_json(_file(directory), asdict(trial))


def read_trial(run: RunDirectory) -> TrialOf | None:
    """Which trial a run is, None where no search made it."""
    file = _file(run.path)
    return TrialOf(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def absolute(storage: str) -> str:
    """A storage as it is found from any folder; ConfigError for what is neither a journal nor sqlite."""
    file = storage.removeprefix(_SQLITE)
    if "://" in file or not (storage.startswith(_SQLITE) or storage.endswith(".journal")) or not file:
        raise ConfigError(
            f"sweep.storage={storage} is no storage: type sweep.storage=FILE.journal or "
            f"sweep.storage={_SQLITE}FILE.db"
        )
    whole = Path(file).absolute()
    if whole.is_dir() or not whole.parent.is_dir():
        why = "is a folder" if whole.is_dir() else f"lies in {whole.parent}, which does not exist"
        raise ConfigError(f"sweep.storage={storage} {why}: type a file in a folder that is there")
    return f"{_SQLITE}{whole}" if storage.startswith(_SQLITE) else str(whole)


def open_storage(storage: str) -> BaseStorage:
    """The storage at an absolute place, which is made if need be; TapetumError for a file that is none."""
    from filelock import FileLock
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.exc import DatabaseError

    try:
        if storage.startswith(_SQLITE):
            # two searches that start at once would both make its tables
            with FileLock(f"{storage.removeprefix(_SQLITE)}.lock"):
                return RDBStorage(storage, engine_kwargs={"connect_args": {"timeout": _LOCKED_S}})
        return JournalStorage(JournalFileBackend(storage))
    except (DatabaseError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise TapetumError(
            f"sweep.storage={storage} can't be read as a storage of studies ({reason}): type another "
            f"sweep.storage=FILE.journal"
        ) from error


def pruner_of(sweep: Mapping[str, Any], epochs: int) -> BasePruner:
    """What decides that a trial is given up; a step is a whole epoch of training, counted from 1.

    sweep: the keys of `config.schema.Sweep`. epochs: most that a trial trains.
    """
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

    first = max(1, sweep["warmup"])
    if sweep["pruner"] == "median":
        return MedianPruner(sweep["startup_trials"], n_warmup_steps=first)
    if sweep["pruner"] == "halving":
        return SuccessiveHalvingPruner(min_resource=first)
    if sweep["pruner"] == "hyperband":
        return HyperbandPruner(min_resource=first, max_resource=max(first, epochs))
    return NopPruner()


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna tells what happens to each trial, as we do, and which of its classes may still change."""
    from optuna import logging
    from optuna.exceptions import ExperimentalWarning

    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            yield
        finally:
            logging.set_verbosity(before)


def _file(directory: Path) -> Path:
    return directory / "trial.json"
