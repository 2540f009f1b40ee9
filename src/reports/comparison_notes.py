"""What a reader must know before holding one run's figure against another's."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .format import plain
from .history import Mode

if TYPE_CHECKING:
    from ..evaluation.paired import Judged
    from .compare import RunSummary

_LEARNT_FROM = (".train_generators", ".classes")
"""Arguments of layouts that choose among training images only."""
_MOST_NAMED = 5


def chosen_by(runs: Sequence[RunSummary]) -> tuple[str, Mode, list[str]]:
    """What the runs are sorted by: the figure that chose most of them, if any has it; and what to know."""
    monitors = Counter(
        (str(run.config["train"]["monitor"]), str(run.config["train"]["mode"])) for run in runs
    )
    (monitor, mode), _ = monitors.most_common(1)[0]
    notes = []
    if len(monitors) > 1:
        others = ", ".join(f"{name} ({way})" for name, way in monitors)
        notes.append(f"The runs were chosen by different figures: {others}. They are sorted by {monitor}.")
    there = {name for run in runs for name in run.metrics}
    if there and monitor not in there:
        notes.append(f"No run has a figure called {monitor}, so the order says nothing.")
    return monitor, "min" if mode == "min" else "max", notes


def what_to_know(
    runs: Sequence[RunSummary], differing: Sequence[str], grouped: Sequence[Sequence[RunSummary]]
) -> list[str]:
    """How runs ended, other data, other test images, one config and one seed twice.

    differing: the keys whose values are not the same everywhere. grouped: the runs by config without seed.
    """
    return [*_endings(runs), *_images(runs, differing), *_twins(grouped)]


def named(values: Mapping[str, str]) -> dict[str, list[str]]:
    """Value → the names that have it."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return names


def _endings(runs: Sequence[RunSummary]) -> list[str]:
    ended = [run for run in runs if run.unfinished and run.pruned is None]
    notes = [f"{run.name} {run.unfinished}." for run in ended[:_MOST_NAMED]]
    if len(ended) > _MOST_NAMED:
        left = ended[_MOST_NAMED:]
        notes.append(f"{len(left)} more did not finish: {_listed(run.name for run in left)}; see runs.csv.")
    silent = [run.name for run in runs if run.state == "did not finish"]
    if silent:
        notes.append(f"Without figures, since they did not finish: {_listed(silent)}.")
    pruned = [run.name for run in runs if run.pruned is not None]
    if pruned:
        notes.append(
            f"{len(pruned)} of {len(runs)} were given up by the search (pruned): {_listed(pruned)}. Their "
            "last values are no final figures and stand in no mean."
        )
    return notes


def _images(runs: Sequence[RunSummary], differing: Sequence[str]) -> list[str]:
    images = {_digest(run.judged) for run in runs if run.judged is not None}
    data = [key for key in differing if key.startswith(("data.root", "data.index"))]
    if len(images) == 1 and all(key.endswith(_LEARNT_FROM) for key in data):
        data = []  # what is learnt from differs, as in a cross-generator matrix, and what is judged does not
    if data:
        return [
            f"The runs do not have the same data ({', '.join(data)}): a figure on one set of images can't be "
            "held against a figure on another."
        ]
    if len(images) > 1:
        return [
            "The runs were not judged on the same test images (data.limit draws them by the seed), and their "
            "figures differ for that reason, too. Differences are counted on the images that both judged."
        ]
    return []


def _digest(judged: Judged) -> bytes:
    """Equal for runs that judged the same images, and small where those are millions."""
    return hashlib.sha256("\0".join(sorted(judged.predictions["path"].to_pylist())).encode()).digest()


def _twins(grouped: Sequence[Sequence[RunSummary]]) -> list[str]:
    """Runs with one config and one seed, which are no sample of anything."""
    notes = []
    for members in grouped:
        seeds = {run.name: plain(run.config.get("seed")) for run in members if run.pruned is None}
        for seed, names in named(seeds).items():
            if len(names) > 1:
                notes.append(
                    f"{_listed(names)} have one config and one seed ({seed}): their spread is not one over "
                    "seeds."
                )
    more = len(notes) - _MOST_NAMED
    return [*notes[:_MOST_NAMED], *([f"So do {more} more sets of runs."] if more > 0 else [])]


def _listed(names: Iterable[str]) -> str:
    """All of them, or the first five and how many more."""
    every = list(names)
    more = len(every) - _MOST_NAMED
    return ", ".join(every[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
