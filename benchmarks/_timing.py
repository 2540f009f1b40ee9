"""What the benchmarks share: interleaved measurements, medians, and a table that says what was to be reached.

Every figure is a ratio, or a difference, of two things measured in one run, in turns, so that a busy machine
slows both.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from rich.console import Console
from rich.table import Table

T = TypeVar("T")

console = Console(width=110, highlight=False)


@dataclass(frozen=True)
class Goal:
    """One figure to reach: at least `bar` with sense `>=`, at most with `<=`."""

    name: str
    value: float
    sense: str
    bar: float
    unit: str = ""
    timed: bool = True

    @property
    def met(self) -> bool:
        """Whether the value is on the right side of the bar."""
        return self.value >= self.bar if self.sense == ">=" else self.value <= self.bar


def quick(description: str | None) -> bool:
    """Read the command line: `--quick` runs everything on little data and judges no time."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    parser.add_argument(
        "--quick", action="store_true", help="little data, to see that it runs; no time is judged"
    )
    chosen: bool = parser.parse_args().quick
    return chosen


def interleaved(variants: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """What each variant returned in `repeats` rounds, every other round backwards."""
    found: dict[str, list[T]] = {name: [] for name in variants}
    for number in range(repeats):
        names = list(variants) if number % 2 == 0 else list(variants)[::-1]
        for name in names:
            found[name].append(variants[name]())
    return found


def ratio(found: Mapping[str, list[float]], above: str, below: str) -> float:
    """Median over the rounds of `above` / `below`: each pair was measured side by side."""
    return median(a / b for a, b in zip(found[above], found[below], strict=True))


def wall(work: Callable[[], object]) -> float:
    """Seconds on the clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cpu(work: Callable[[], object]) -> float:
    """Seconds of processor time of this process, all threads; other people's jobs do not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


def children_cpu() -> float:
    """Seconds of processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print one table, first column to the left and the others to the right."""
    shown = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        shown.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def conclude(goals: list[Goal], *, quick: bool) -> int:
    """Print the goals beside what was measured, and the machine; 1 where one was missed, else 0.

    With `quick` only what does not depend on time is judged.
    """
    rows = []
    for goal in goals:
        verdict = "met" if goal.met else "missed"
        rows.append(
            [
                goal.name,
                f"{goal.value:.4g} {goal.unit}".strip(),
                f"{goal.sense} {goal.bar:g} {goal.unit}".strip(),
                "not judged" if quick and goal.timed else verdict,
            ]
        )
    table("goals", ["figure", "measured", "goal", ""], rows)
    one, five, _ = os.getloadavg()
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, load average {one:.1f} (1 min) {five:.1f} (5 min), "
        f"Python {platform.python_version()}"
    )
    return int(any(not goal.met for goal in goals if not (quick and goal.timed)))
