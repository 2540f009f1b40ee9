"""metrics.csv: every value that was logged, one row each time, and a resumed run goes on in the same file.

`history` reads it as one row an epoch. Lightning's CSVLogger deletes the previous file on resume; this one
drops the rows behind the checkpoint that the run is resumed from, and rewrites the file only when a new
column appears.
"""

from __future__ import annotations

import csv
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from ..errors import TapetumError
from .finding import find_run

_FIRST = ("epoch", "step")
_ORDER = ("lr", "train", "val", "speed", "memory")


def history(run: str | Path) -> pa.Table:
    """A run's training as a table of one row an epoch, whether it has finished, crashed or still goes on.

    Columns: `epoch` int64, from 1 as the log counts; `step` int64, optimizer steps taken by its end; float64
    `lr/…`, `train/…`, `val/…`, `speed/…`, `memory/…` and whatever else was logged, null where it was not (in
    the epoch that is under way, or where only every n-th is validated); `best` bool, the epoch with the best
    monitored value. Where an epoch was validated several times, the validation that was best by the monitor
    stands for it. Values of single steps (`…_step`) are in metrics.csv only. A run that crashed before it
    logged anything has no row.

    run: a run's directory, a sweep job's, or one of its checkpoints. Raises TapetumError where there is no
    run, naming those nearby, or where metrics.csv is damaged.
    """
    directory = find_run(run)
    train = directory.read_config()["train"]
    logged = read_history(directory.history) if directory.history.is_file() else []
    epochs = by_epoch(logged, train["monitor"], train["mode"])
    names = dict.fromkeys(name for row in epochs for name in row if name not in _FIRST)
    columns: dict[str, Any] = {
        "epoch": pa.array([int(row["epoch"]) + 1 for row in epochs], pa.int64()),
        "step": pa.array([None if "step" not in row else int(row["step"]) for row in epochs], pa.int64()),
    }
    for name in sorted(names, key=_place):  # stable, so that names stay as they were logged
        columns[name] = pa.array([row.get(name) for row in epochs], pa.float64())
    values = [row.get(train["monitor"], math.nan) for row in epochs]
    best = _best(values, train["mode"])
    columns["best"] = pa.array([number == best for number in range(len(epochs))], pa.bool_())
    return pa.table(columns)


class MetricsCsv(Logger):
    """A Lightning logger of one csv file with the columns epoch, step and one a metric."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = list(_FIRST)
        if path.is_file():
            with path.open(newline="") as file:
                self.columns = next(csv.reader(file), list(_FIRST))
        self._ends_well = False  # not before this process has written the file, or seen to its last line

    @property
    def name(self) -> str:
        """Lightning's hook."""
        return "csv"

    @property
    def version(self) -> str:
        """Lightning's hook."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Lightning's hook; the config stands in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row; a metric never seen before adds a column."""
        row: dict[str, Any] = {"step": step, **metrics}
        if row.get("epoch") is not None:
            row["epoch"] = int(row["epoch"])
        new = [name for name in row if name not in self.columns]
        if new or not self._ends_well or not self.path.is_file():
            rows = read_history(self.path) if self.path.is_file() else []
            self.columns += new
            self._write(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def truncate(self, step: int, *, validates: bool = False) -> None:
        """Drop what was logged behind an optimizer step: the resumed run will log it again.

        validates: whether it begins with the validation behind that step, so that of the step itself only
        its own figures stay.
        """
        if not self.path.is_file():
            return
        rows = read_history(self.path)
        if validates:
            rows = [row for row in rows if row.get("step", 0) < step or _of_a_step(row)]
        self._write([row for row in rows if row.get("step", 0) <= step])

    def _write(self, rows: list[dict[str, float]]) -> None:
        unfinished = self.path.with_name(self.path.name + ".tmp")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        unfinished.replace(self.path)
        self._ends_well = True


def _of_a_step(row: Mapping[str, float]) -> bool:
    return any(name.endswith("_step") for name in row)


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv; cells that were not logged are absent from their row.

    A last line without its end was cut off by a kill or a full disk, and is left out. Raises TapetumError
    where a line is not what was written.
    """
    rows: list[dict[str, float]] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            whole = [line for line in file if line.endswith("\n")]
        reader = csv.DictReader(whole)
        if whole and not {*_FIRST} <= {*(reader.fieldnames or ())}:
            raise ValueError(f"its columns are {', '.join(reader.fieldnames or ())}")
        for row in reader:
            if None in row:
                raise ValueError("more cells than columns")
            rows.append({name: _number(name, value) for name, value in row.items() if value})
    except (ValueError, OverflowError, csv.Error) as error:
        raise TapetumError(
            f"{path} is damaged behind line {len(rows) + 1} ({error}): mend or remove what follows; "
            f"the figures of a finished run stand in metrics.json, too"
        ) from error
    return rows


def by_epoch(rows: Sequence[Mapping[str, float]], monitor: str, mode: str) -> list[dict[str, float]]:
    """Rows of metrics.csv as one an epoch, which counts from 0 as in the file: the last value of each name.

    Where an epoch has several values of `monitor`, the row of the best wins. `…_step` is left out.
    """
    found: dict[int, dict[str, float]] = {}
    chosen: dict[int, float] = {}
    for row, epoch in zip(rows, _epochs_of(rows), strict=True):
        merged = found.setdefault(epoch, {"epoch": epoch})
        kept = {name: value for name, value in row.items() if not name.endswith("_step")}
        step = max(row.get("step", 0), merged.get("step", 0))
        value = row.get(monitor)
        if value is not None and epoch in chosen and _best([chosen[epoch], value], mode) != 1:
            kept = {name: value for name, value in kept.items() if name not in merged}
        elif value is not None:
            chosen[epoch] = value
        merged.update(kept | {"epoch": epoch, "step": step})
    return [found[epoch] for epoch in sorted(found)]


def _epochs_of(rows: Sequence[Mapping[str, float]]) -> list[int]:
    """Each row's epoch; one that names none (a callback's own) belongs to the next that does.

    Averaged weights are validated behind the last epoch, without a step: they belong to that one.
    """
    epochs: list[int | None] = [None if "epoch" not in row else int(row["epoch"]) for row in rows]
    known = [epoch for epoch in epochs if epoch is not None]
    following = known[-1] if known else 0
    filled: list[int] = []
    for epoch in reversed(epochs):
        following = following if epoch is None else epoch
        filled.append(following)
    filled.reverse()
    ends = {epoch: row["step"] for row, epoch in zip(rows, filled, strict=True) if "train/loss" in row}
    return [
        epoch - 1 if epoch not in ends and row.get("step") == ends.get(epoch - 1, math.nan) else epoch
        for row, epoch in zip(rows, filled, strict=True)
    ]


def _best(values: Sequence[float], mode: str) -> int | None:
    """Where the first of the best finite values stands; None without one."""
    finite = [number for number, value in enumerate(values) if math.isfinite(value)]
    choose = max if mode == "max" else min
    return choose(finite, key=values.__getitem__, default=None)


def _place(name: str) -> int:
    kind = name.partition("/")[0]
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def _number(name: str, value: str) -> float:
    return int(float(value)) if name in _FIRST else float(value)
