"""`tapetum evaluate A B C`: what the evaluations of several runs say beside each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def side_by_side(runs: Sequence[str], evaluations: Sequence[Path]) -> Path:
    """Print and write how runs differ on the images that they judged; the report's path.

    runs: as they were typed, each once. evaluations: the directory that each one's evaluation wrote. Beside
    the page lie `table.{csv,json,md,tex}`, with the runs in the page's order.
    """
    from ..evaluation.paired import Judged
    from ..evaluation.table import evaluation_table
    from ..reports.compare import RunSummary, comparison
    from ..reports.comparison_page import write_comparison
    from ..reports.comparison_table import comparison_lines, comparison_table
    from ..reports.labels import run_names
    from ..reports.side_by_side import paired_table, side_table, write_side_tables
    from ..runs.directory import RunDirectory, open_run, stamp
    from ..runs.history import read_history
    from ..tasks import task_of
    from .console import console
    from .finish import read_parts

    opened = [open_run(run) for run in runs]
    summaries, judged_by = [], {}
    names = run_names([run.path for run in opened])
    for own, name, directory in zip(opened, names, evaluations, strict=True):
        made = RunDirectory(directory)
        figures = made.read_metrics()
        # what chose a run's checkpoint is a figure on its own val, which other data lacks
        chose = {key: value for key, value in own.read_metrics().items() if key.startswith("val/")}
        config = _with_training(made.read_config(), own.read_config())
        task = task_of(config)
        predictions = read_parts(made, task)
        judged, bounds = task.judged(predictions, figures), {}
        if judged is None:
            bounds = task.intervals(predictions, figures, config)
        else:
            judged_by[name] = evaluation_table(judged.predictions, figures)
            judged = Judged(_told_apart(judged.predictions), judged.threshold)
        history = read_history(own.history) if own.history.is_file() else []
        summaries.append(RunSummary(name, config, history, chose | figures, bounds, judged))
    found = comparison(summaries)
    tables = [
        (f"{place} {run.name}", judged_by[run.name])
        for place, run in enumerate(found.runs, 1)
        if run.name in judged_by
    ]
    out = Path(os.environ.get("TAPETUM_OUTPUTS", "outputs")) / "reports" / stamp()
    console.print(comparison_table(found, console.width))
    for line in comparison_lines(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if tables:
        console.print(side_table(tables))
    if found.figures:
        console.print(paired_table(found))
    page = write_comparison(found, out)
    if tables:
        write_side_tables(tables, found, out)
    console.print(f"report  {page}", highlight=False, soft_wrap=True)
    return page


def _with_training(judged: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation's config with what its run was trained on under `trained`.

    Runs that were trained on different data are no seeds of each other, though the data they are judged on,
    and with it all of their evaluations' configs, are the same.
    """
    return {**judged, "trained": {"data": trained["data"]}}


def _told_apart(predictions: pa.Table) -> pa.Table:
    """With the data set in front of every path: two sets may hold files of one name."""
    import pyarrow.compute as pc

    if "data" not in predictions.column_names:
        return predictions
    place = predictions.column_names.index("path")
    paths = pc.binary_join_element_wise(predictions["data"], predictions["path"], "/")
    return predictions.set_column(place, "path", paths)
