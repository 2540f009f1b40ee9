"""The report of captions: what was said under every picture, what was not measured said so."""

import numpy as np
import pyarrow as pa
import pytest
from tapetum.errors import ImageError
from tapetum.evaluation.captioning import BASELINE
from tapetum.reports.captioning import write_captioning_report
from tapetum.reports.captioning_terminal import baseline_table, written
from tapetum.reports.run import RunReport


def predictions(count=30):
    words = ("red", "green", "blue")
    return pa.table(
        {
            "index": list(range(count)),
            "path": [f"test/{number:02}.png" for number in range(count)],
            "split": ["test"] * count,
            "text": [f"a {words[number % 3]} square" if number % 5 else "" for number in range(count)],
            "references": [[f"a {words[number % 3]} square", "<b>one</b> square"] for number in range(count)],
            "nll": [2.0] * count,
            "tokens": [10] * count,
        }
    ).replace_schema_metadata({BASELINE: b"a red square"})


def source(**changes):
    defaults = {
        "title": "captions",
        "config": {"task": "captioning", "seed": 1},
        "environment": {},
        "command": "train.py model=pixel_llm_small",
        "history": [{"epoch": 0, "step": 5, "train/loss": 2.0, "val/loss": 1.5, "val/cider": 0.4}],
        "metrics": {},
        "predictions": {"test": predictions()},
        "monitor": "val/loss",
        "mode": "min",
        "load_image": lambda path: np.full((8, 8, 3), 200, np.uint8),
    }
    return RunReport(**(defaults | changes))


def test_pictures_stand_with_their_captions_and_references(tmp_path):
    page = write_captioning_report(source(), tmp_path).read_text()
    assert page.count('class="captioned"') == 36
    assert page.count('class="said right"') > 20
    assert "(no word)" in page
    assert "&lt;b&gt;one&lt;/b&gt; square" in page  # what people write is shown, not obeyed
    assert "<b>one</b>" not in page
    assert "most frequent caption" in page
    assert {file.name for file in tmp_path.glob("*.png")} == {
        "training_curve.png",
        "scores.png",
        "lengths.png",
    }


def test_the_worst_come_first(tmp_path):
    page = write_captioning_report(source(), tmp_path).read_text()
    worst = page.split("Farthest from their references")[1].split("Nearest to their references")[0]
    assert worst.count("(no word)") == 6


def test_a_picture_that_is_gone_says_why(tmp_path):
    def gone(path):
        raise ImageError("no such file")

    page = write_captioning_report(source(load_image=gone), tmp_path).read_text()
    assert "no such file" in page


@pytest.mark.parametrize("found", [{}, {"test": predictions(0)}], ids=["none", "empty"])
def test_a_run_without_captions_says_so(tmp_path, found):
    page = write_captioning_report(source(predictions=found, history=[]), tmp_path).read_text()
    assert "No captions were written" in page


def test_the_terminal_sets_the_captioner_beside_one_caption_for_all():
    metrics = {"test/cider": 0.9, "test/most_frequent/cider": 0.2, "test/references": 5.0}
    (table,) = baseline_table(metrics)
    assert list(table.columns[0].cells) == ["cider"]
    assert "references an image: 5" in str(table.caption)
    assert baseline_table({"test/cider": 0.9}) == []
    assert written("", ["a", "b"]) == "(no word) [a | b]"
