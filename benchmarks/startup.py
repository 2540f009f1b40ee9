"""How long `tapetum --help`, the first words about a wrong config, and one prediction take.

Whole processes: interpreter, imports, answer, exit, beside `import lightning`. Goal: the first two at most a
tenth of the import each, in processor time and on the clock. Loading a run (the default network, trained for
a moment) and predicting one image has no goal; it is measured from the command line and in Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from _timing import Goal, children_cpu, conclude, interleaved, quick, ratio, table

BAR = 0.1
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import lightning": ["-c", "import lightning"],
    "tapetum --help": ["-m", "tapetum", "--help"],
    "tapetum train optimizer.lrr=1": ["-m", "tapetum", "train", "optimizer.lrr=1"],
    "tapetum predict RUN one.png one.csv": ["-m", "tapetum", "predict", "run", "one.png", "one.csv"],
    "tapetum.load(run).predict(images)": ["-c", "import tapetum; tapetum.load('run').predict(['one.png'])"],
}
EXIT_CODES = {"tapetum train optimizer.lrr=1": 2}


def main() -> int:
    """Run every command in turns and compare."""
    small = quick(__doc__)
    repeats = 1 if small else 5
    with TemporaryDirectory() as folder:
        _make_run(folder)
        if not small:
            for name in COMMANDS:
                _timed(name, folder)()  # files into the page cache
        both = interleaved({name: _timed(name, folder) for name in COMMANDS}, repeats)
    used = {name: [seconds[0] for seconds in runs] for name, runs in both.items()}
    clock = {name: [seconds[1] for seconds in runs] for name, runs in both.items()}
    table(
        f"start-up, median of {repeats}",
        ["command", "CPU s", "of the import", "wall s", "of the import"],
        [
            [
                name,
                f"{median(used[name]):.3f}",
                f"{ratio(used, name, 'import lightning'):.3f}",
                f"{median(clock[name]):.3f}",
                f"{ratio(clock, name, 'import lightning'):.3f}",
            ]
            for name in COMMANDS
        ],
    )
    goals = []
    for name in ("tapetum --help", "tapetum train optimizer.lrr=1"):
        goals.append(
            Goal(f"{name}, CPU, share of import lightning", ratio(used, name, "import lightning"), "<=", BAR)
        )
        goals.append(
            Goal(
                f"{name}, wall, share of import lightning", ratio(clock, name, "import lightning"), "<=", BAR
            )
        )
    return conclude(goals, quick=small)


def _make_run(folder: str) -> None:
    """`run`, a finished run on a few embedded images, and `one.png`, one of them."""
    words = ["data.index.train=32", "data.index.test=8", "trainer.max_epochs=1", "accelerator=cpu"]
    paths = ["paths.outputs=outputs", "paths.cache=cache"]
    done = subprocess.run(
        [sys.executable, "-m", "tapetum", "train", *words, *paths], cwd=folder, capture_output=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"the training ended with {done.returncode}: {done.stderr.decode()}")
    (config,) = Path(folder).glob("outputs/*/*/*/config.yaml")
    (Path(folder) / "run").symlink_to(config.parent)
    image = min(Path(folder).glob("cache/synthetic/**/*.png"))
    (Path(folder) / "one.png").write_bytes(image.read_bytes())


def _timed(name: str, folder: str) -> Callable[[], tuple[float, float]]:
    """A run of one command in an empty folder: (CPU seconds, wall seconds)."""

    def run() -> tuple[float, float]:
        used, began = children_cpu(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, *COMMANDS[name]], cwd=folder, env=os.environ, capture_output=True
        )
        seconds = children_cpu() - used, time.perf_counter() - began
        if done.returncode != EXIT_CODES.get(name, 0):
            raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr.decode()}")
        return seconds

    return run


if __name__ == "__main__":
    sys.exit(main())
