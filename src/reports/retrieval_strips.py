"""A query and what it found as one picture, for trackers that take pictures only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import TapetumError
from ..runs.trackers import Sample
from .retrieval_sections import NEIGHBOURS, chosen_queries
from .sections import cropped

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..evaluation.retrieval import Judged

log = logging.getLogger("tapetum")

SIDE, FRAME, GAP = 128, 5, 24
RIGHT, WRONG, PAPER = "#228833", "#CC3311", "#ffffff"
LoadRow = Callable[[int], "np.ndarray[Any, Any]"]


def strips(judged: Judged, load_row: LoadRow) -> Iterator[Sample]:
    """The most confidently wrong queries, worst first: the query, right of it its nearest gallery images.

    load_row: Index row → uint8 [H, W, 3]. An image that can't be read is said in the log, and its strip left
    out.
    """
    misses, _ = chosen_queries(judged)
    answers = judged.answers
    for row in misses:
        places = [place for place in answers.rows[row][:NEIGHBOURS].tolist() if place >= 0]
        rights = [judged.gallery["label"][place].as_py() == int(answers.labels[row]) for place in places]
        path = judged.queries["path"][row].as_py()
        try:
            query = _tile(judged.queries, row, load_row, PAPER)
            near = [
                _tile(judged.gallery, place, load_row, RIGHT if right else WRONG)
                for place, right in zip(places, rights, strict=True)
            ]
        except (TapetumError, OSError) as error:
            log.warning("%s is not shown to the trackers with what it found: %s", path, error)
            continue
        names = [judged.classes[judged.gallery["label"][place].as_py()] for place in places]
        found = ", ".join(
            f"{name} {float(similarity):.3f}"
            for name, similarity in zip(names, answers.similarity[row], strict=False)
        )
        said = judged.classes.get(int(answers.predicted[judged.rule][row]), "no answer")
        true = judged.classes[int(answers.labels[row])]
        yield Sample(path, f"{path}: {true}, named {said}; nearest {found}", _beside(query, near))


def _tile(table: Any, row: int, load_row: LoadRow, frame: str) -> Image:
    """A square of SIDE pixels and its frame; small images are enlarged pixel by pixel."""
    from PIL import Image, ImageOps

    box = table["box"][row].as_py() if "box" in table.column_names else None
    image = cropped(Image.fromarray(load_row(table["index"][row].as_py())).convert("RGB"), box)
    how = Image.Resampling.NEAREST if max(image.size) < SIDE else Image.Resampling.BICUBIC
    image = ImageOps.contain(image, (SIDE, SIDE), how)
    return ImageOps.expand(ImageOps.pad(image, (SIDE, SIDE), color=PAPER), FRAME, frame)


def _beside(query: Image, near: list[Image]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from PIL import Image

    whole = SIDE + 2 * FRAME
    canvas = Image.new("RGB", (whole + len(near) * whole + GAP, whole), PAPER)
    canvas.paste(query, (0, 0))
    for number, image in enumerate(near):
        canvas.paste(image, (whole + GAP + number * whole, 0))
    return np.asarray(canvas)
