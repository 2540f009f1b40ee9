"""What a captioning run ends with on the terminal: its scores beside those of one caption for all images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from ..evaluation.captioning import SCORES
from .format import number

_SPLITS = ("test", "val")


def baseline_table(metrics: Mapping[str, float]) -> list[Table]:
    """Scores of test, else val, and those of the most frequent training caption; none without the latter."""
    for split in _SPLITS:
        names = [name for name in SCORES if f"{split}/most_frequent/{name}" in metrics]
        if names:
            break
    else:
        return []
    table = Table(title=f"{split}, against one caption for all", title_justify="left", header_style="bold")
    for column in ("score", "this captioner", "most frequent caption"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for name in names:
        cells = (metrics.get(f"{split}/{name}"), metrics[f"{split}/most_frequent/{name}"])
        table.add_row(name, *(Text(number(value)) for value in cells))
    references = metrics.get(f"{split}/references")
    table.caption = (
        f"references an image: {references:.3g}; scores in [0, 1], cider as coco-caption has it (1.13 is 113)"
        if references is not None
        else None
    )
    table.caption_justify = "left"
    return [table]


def written(text: str, references: Sequence[str]) -> str:
    """A caption with its references, in a line."""
    return f"{text or '(no word)'} [{' | '.join(references)}]"
