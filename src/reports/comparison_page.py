"""The page of a comparison: index.html, its pictures and runs.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from .compare import MOST_SHOWN, Comparison, spread_text
from .comparison_pairs import main_difference
from .format import plain
from .labels import ABSENT
from .page import Picture, write_page
from .parameters import Varied, varied
from .terminal import run_line

MOST_CURVES = 10
"""Groups whose curves are drawn: the lines of more can't be told apart."""


def write_comparison(found: Comparison, out: Path) -> Path:
    """`out/index.html`, its pictures and `out/runs.csv`; returns the page's path.

    Of more than 20 groups the page shows the best 20, of more than 10 the curves of the best 10.
    """
    from .matrix import heat_map, matrix, write_matrix

    parameters = varied(found)
    drawn = [*_comparison_pictures(found), *(_parameter_pictures(parameters) if parameters else [])]
    crossed = matrix([(run.config, run.metrics) for run in found.runs])
    if crossed is not None:
        drawn.append(("matrix", heat_map(crossed), f"{crossed.figure}, trained on by tested on"))
    pictures = [Picture(name, png, alt) for name, png, alt in drawn if png is not None]
    every = [*found.runs, *found.pruned]
    finished = [run for run in found.runs if run.metrics]
    ended = [*(run for run in found.runs if not run.metrics), *found.pruned]
    judged = [group for group in found.groups if any(run.metrics for run in group.runs)]
    values: dict[str, object] = {
        "title": f"{len(every)} runs compared" if len(every) > 1 else "1 run",
        "found": found,
        "judged": judged[:MOST_SHOWN],
        "groups": found.groups[:MOST_SHOWN],
        "finished": finished[:MOST_SHOWN],
        "unfinished": ended[:MOST_SHOWN],
        "more": {
            "judged": len(judged) - MOST_SHOWN,
            "groups": len(found.groups) - MOST_SHOWN,
            "finished": len(finished) - MOST_SHOWN,
            "unfinished": len(ended) - MOST_SHOWN,
        },
        "most_shown": MOST_SHOWN,
        "most_curves": MOST_CURVES if len(found.groups) > MOST_CURVES else None,
        "pictures": {picture.name: picture for picture in pictures},
        "seeds": {run.name: plain(run.config.get("seed")) for run in every},
        "names": sorted({name for run in finished[:MOST_SHOWN] for name in run.metrics}),
        "training": {run.name: run_line(run.metrics) for run in finished},
        "spread_text": spread_text,
        "crossed": crossed,
        "varied": parameters,
    }
    page = write_page("compare.html", values, pictures, out)
    write_csv(found, out / "runs.csv", parameters)
    if crossed is not None:
        write_matrix([(run.config, run.metrics) for run in found.runs], out / "matrix.csv")
    return page


def write_csv(found: Comparison, path: Path, parameters: Varied | None = None) -> Path:
    """One line a run, the pruned last: name, seed, how it ended, parameters, differing keys, metrics.

    Bounds stand as `<metric> low` and `… high`, the last value of a pruned run as `last <monitor>`.
    """
    names = list(dict.fromkeys(name for run in found.runs for name in run.metrics))
    bounded = [name for name in names if any(name in run.intervals for run in found.runs)]
    chosen = [one for one in parameters.parameters if one.key not in found.differing] if parameters else []
    columns = ["run", "seed", "state", *(one.key for one in chosen), *found.differing, *names]
    columns += [f"{name} {side}" for name in bounded for side in ("low", "high")]
    last = f"last {found.monitor}"
    columns += [last] if found.pruned else []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for run in [*found.runs, *found.pruned]:
            row: dict[str, object] = {"run": run.name, "seed": run.config.get("seed"), "state": run.state}
            row |= {one.key: one.typed.get(run.name, ABSENT) for one in chosen}
            row |= {key: found.values[key][run.name] for key in found.differing}
            if run.pruned is not None:
                writer.writerow(row | {last: run.pruned.value})
                continue
            row |= run.metrics
            for name, (low, high) in run.intervals.items():
                if name in bounded:
                    row |= {f"{name} low": low, f"{name} high": high}
            writer.writerow(row)
    return path


_Drawn = tuple[str, bytes | None, str]
"""A picture's name, its bytes where there was something to draw, what to say where it can't be seen."""


def _comparison_pictures(found: Comparison) -> Sequence[_Drawn]:
    from . import comparison_plots as plots

    curves = plots.overlaid_curves(
        [
            (group.label, place, run.history)
            for place, group in enumerate(found.groups[:MOST_CURVES])
            for run in group.runs
        ],
        found.monitor,
        found.mode,
    )
    drawn: list[_Drawn] = [("curves", curves, f"{found.monitor} and loss over the epochs")]
    if found.main is not None:
        main = found.main
        rows = [
            (
                group.label,
                [(run.metrics[main], run.intervals.get(main)) for run in group.runs if main in run.metrics],
            )
            for group in found.groups[:MOST_SHOWN]
        ]
        drawn.append(("figures", plots.dots(rows, main), f"{main} of every run"))
    shown = main_difference(dict.fromkeys(found.figures), found.main)
    if shown is not None:
        lines = [
            (one.label, one.paired.differences[shown])
            for one in found.against
            if shown in one.paired.differences
        ]
        png = plots.differences(lines, f"test/{shown}", found.reference)
        drawn.append(("differences", png, f"differences in test/{shown} to {found.reference}"))
    return drawn


def _parameter_pictures(parameters: Varied) -> Sequence[_Drawn]:
    from . import parameter_plots as plots

    monitor = parameters.monitor
    panels = ("parameters", plots.panels(parameters), f"{monitor} over each parameter")
    if len(parameters.parameters) < 2:  # two axes would show what the one panel shows
        return [panels]
    lines = plots.parallel_coordinates(parameters)
    return [("parallel", lines, f"every run's parameters and its {monitor}, a line each"), panels]
