"""Runs by their directories, and what is near a name that is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import TapetumError
from .directory import RunDirectory, open_run

_DEPTH = 4  # outputs/detection/<name>/<run>, outputs/sweeps/<name>/<sweep>/<job>
_SHOWN = 5
_LOOKED_AT = 5000


def find_run(path: str | Path) -> RunDirectory:
    """The run at a directory, or the one of a checkpoint; TapetumError naming the runs nearby otherwise.

    A sweep's job is a run; what `tapetum evaluate` wrote is none.
    """
    path = Path(path)
    if path.suffix == ".ckpt" or is_run(path):
        return open_run(path)
    if (path / "sweep.yaml").is_file():
        problem = f"{path} is a sweep, and each of its jobs a run"
    elif (path / "config.yaml").is_file():
        problem = f"{path} holds an evaluation: nothing was trained there"
    elif path.is_dir():
        problem = f"{path} is not a run: a run's directory holds config.yaml and checkpoints/"
    elif path.exists():
        problem = f"{path} is a file: a run is a directory, such as outputs/detection/<name>/<run>"
    else:
        problem = f"no directory {path}"
    raise TapetumError(f"{problem}. {nearby(path)}")


def is_run(path: Path) -> bool:
    """Whether a directory is one that `train` made."""
    return (path / "config.yaml").is_file() and (path / "checkpoints").is_dir()


def nearby(path: Path) -> str:
    """A sentence that names what looks like a run below `path`, or below the closest directory there is."""
    place = path
    while not place.is_dir() and place != place.parent:
        place = place.parent
    if place.parent.name == "evaluations" and is_run(place.parent.parent):
        return f"The run is {place.parent.parent}"
    outputs = Path(os.environ.get("TAPETUM_OUTPUTS", "outputs"))
    # a slip near the root of the disk must not make us walk all of it
    places = [place] if len(place.resolve().parts) > 2 else []
    for where in dict.fromkeys([*places, outputs]):
        found = sorted(_runs_below(where), key=lambda run: run.stat().st_mtime, reverse=True)
        if found:
            shown = ", ".join(str(run) for run in found[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            return f"These are runs, latest first: {shown}{more}"
    return f"There are no runs in {outputs}: python train.py makes one"


def _runs_below(place: Path) -> Iterator[Path]:
    """Runs at most `_DEPTH` folders down; hidden ones and links are left alone."""
    level, seen = [place], 0
    for _ in range(_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            seen += 1
            if seen > _LOOKED_AT:
                return
            try:
                if is_run(folder):
                    yield folder
                    continue
                inside = [child for child in os.scandir(folder) if child.is_dir(follow_symlinks=False)]
            except OSError:  # a folder that we may not read holds no run for us
                continue
            below += [Path(child.path) for child in inside if not child.name.startswith(".")]
        level = below
