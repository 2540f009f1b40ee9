"""metrics.csv: every value that was logged, one row each time, and a resumed run goes on in the same file.

Lightning's CSVLogger deletes the previous file on resume; this one drops the rows behind the checkpoint that
the run is resumed from, and rewrites the file only when a new column appears.
"""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

_FIRST = ("epoch", "step")


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

    def truncate(self, step: int) -> None:
        """Drop what was logged behind an optimizer step: the resumed run will log it again."""
        if self.path.is_file():
            self._write([row for row in read_history(self.path) if row.get("step", 0) <= step])

    def _write(self, rows: list[dict[str, float]]) -> None:
        unfinished = self.path.with_name(self.path.name + ".tmp")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        unfinished.replace(self.path)
        self._ends_well = True


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv; cells that were not logged are absent from their row.

    A last line without its end was cut off by a kill or a full disk, and is left out.
    """
    with path.open(newline="") as file:
        whole = [line for line in file if line.endswith("\n")]
    return [
        {name: _number(name, value) for name, value in row.items() if value} for row in csv.DictReader(whole)
    ]


def _number(name: str, value: str) -> float:
    return int(float(value)) if name in _FIRST else float(value)
