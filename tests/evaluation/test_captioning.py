"""Figures of captions: those of the metrics, a baseline beside them, other tables refused."""

import math

import numpy as np
import pyarrow as pa
import pytest
from tapetum.errors import DataError
from tapetum.evaluation.captioning import (
    BASELINE,
    check_caption_predictions,
    figures,
    intervals,
    read_caption_predictions,
)
from tapetum.inference.predictions import write_predictions
from tapetum.metrics.captions import caption_metrics

TEXTS = ["a red square", "two dogs run", "a cat", "a  Red SQUARE"]
REFERENCES = [
    ["a red square", "one red square"],
    ["two dogs play"],
    ["a dog sleeps", "a dog"],
    ["a red square"],
]
NLL, TOKENS = [4.0, 6.0, 3.0, 1.0], [8, 4, 5, 4]


def table(**changes):
    columns = {
        "index": [3, 5, 7, 9],
        "path": [f"{number}.png" for number in range(4)],
        "split": ["test"] * 4,
        "text": TEXTS,
        "references": REFERENCES,
        "nll": NLL,
        "tokens": TOKENS,
    }
    return pa.table(columns | changes)


def test_loss_is_the_mean_over_tokens_and_the_scores_are_those_of_the_metrics():
    found = figures(table())
    assert found["loss"] == pytest.approx(sum(NLL) / sum(TOKENS))
    assert found["perplexity"] == pytest.approx(math.exp(14 / 21))
    assert found["exact_match"] == 0.5
    assert found["references"] == 1.5
    for name, value in caption_metrics(TEXTS, REFERENCES).items():
        assert found[name] == value
    assert not [name for name in found if name.startswith("most_frequent")]


def test_the_most_frequent_caption_is_scored_as_if_it_were_given_to_all(tmp_path):
    told = table().replace_schema_metadata({BASELINE: b"a red square"})
    write_predictions(told, tmp_path / "test.parquet")
    found = figures(read_caption_predictions(tmp_path / "test.parquet"))
    assert found["most_frequent/exact_match"] == 0.5
    for name, value in caption_metrics(["a red square"] * 4, REFERENCES).items():
        assert found[f"most_frequent/{name}"] == value


def test_intervals_hold_the_figures_and_shrink_with_the_images():
    once, often = table(), pa.concat_tables([table(index=list(range(n, n + 4))) for n in range(0, 400, 4)])
    found, values = intervals(once), figures(once)
    for name in ("loss", "rouge_l", "cider", "exact_match"):
        low, high = found[name]
        assert low <= values[name] <= high, name
    for name in ("loss", "rouge_l", "exact_match"):
        low, high = intervals(often)[name]
        assert high - low < (found[name][1] - found[name][0]) / 2, name


def test_an_empty_table_has_no_figures():
    assert figures(table().slice(0, 0)) == {}
    assert intervals(table().slice(0, 0)) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": [3, 3, 7, 9]}, "1 rows repeat an index"),
        ({"references": [["a"], [], ["b"], ["c"]]}, "1 images have no reference"),
        ({"nll": [1.0, np.nan, 1.0, 1.0]}, "1 likelihoods are not finite, the first is that of 1.png"),
        ({"text": [1, 2, 3, 4]}, "column 'text' is int64, expected string"),
    ],
)
def test_a_table_that_holds_no_captions_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        check_caption_predictions(table(**changes))


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"column 'text' is missing.*Run `tapetum evaluate RUN`"):
        check_caption_predictions(table().drop_columns(["text"]))
    with pytest.raises(DataError, match="no predictions at"):
        read_caption_predictions(tmp_path / "absent.parquet")
