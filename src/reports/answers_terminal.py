"""What a run of questions ends with on the terminal: its scores beside those of an answer given blindly."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from ..evaluation.vlm import SCORES
from .format import number, percent

_SPLITS = ("test", "val")


def baseline_table(metrics: Mapping[str, float]) -> list[Table]:
    """Scores of test, else val, and those of the most frequent training answers; none without the latter."""
    split = next((one for one in _SPLITS if f"{one}/most_frequent/exact_match" in metrics), None)
    if split is None:
        return []
    table = Table(title=f"{split}, against answers without a look", title_justify="left", header_style="bold")
    for column in ("score", "this model", "most frequent to the question", "most frequent of all"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for name in SCORES:
        of = (name, f"most_frequent_of_question/{name}", f"most_frequent/{name}")
        table.add_row(name, *(Text(number(metrics[f"{split}/{one}"])) for one in of))
    return [table]


def written_line(metrics: Mapping[str, float]) -> list[str]:
    """What became of the answers that were written, in a line for test, else val; none without any."""
    split = next((one for one in _SPLITS if f"{one}/invalid" in metrics), None)
    if split is None:
        return []
    return [
        f"{split}, as written: accuracy {number(metrics[f'{split}/written_accuracy'])}, neither answer "
        f"{percent(metrics[f'{split}/invalid'])}; the table goes by the likelihood of both answers"
    ]
