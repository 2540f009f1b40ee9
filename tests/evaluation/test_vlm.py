"""Figures of answers, against sklearn and against counting by hand."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from tapetum.errors import DataError
from tapetum.evaluation.vlm import (
    BASELINE,
    CONVERSATIONS,
    JUDGED,
    by_question,
    intervals,
    is_judged,
    of_conversations,
    of_likelihood,
    of_written,
    prior_of,
    read_answers,
)

ANSWERS = ("real", "fake")


def judged(texts, labels, generators=None):
    count = len(texts)
    logits = np.linspace(-1, 1, count, dtype=np.float32)
    return pa.table(
        {
            "index": range(count),
            "path": [f"{number}.png" for number in range(count)],
            "split": ["test"] * count,
            "label": labels,
            "generator": generators or [None] * count,
            "logit": logits,
            "probability": 1 / (1 + np.exp(-logits)),
            "verdict": ["real"] * count,
            "band": ["uncertain"] * count,
            "text": texts,
            "valid": [text in ANSWERS for text in texts],
            "log_likelihoods": [[-1.0, -2.0]] * count,
            "nll": [2.0] * count,
            "tokens": [2] * count,
        },
        schema=JUDGED,
    )


def conversations(texts, answers, questions=None, prior=None):
    count = len(texts)
    table = pa.table(
        {
            "index": range(count),
            "path": [f"{number}.png" for number in range(count)],
            "split": ["test"] * count,
            "question": questions or ["What?"] * count,
            "answer": answers,
            "text": texts,
            "nll": [float(number) for number in range(count)],
            "tokens": [2] * count,
        },
        schema=CONVERSATIONS,
    )
    return table if prior is None else table.replace_schema_metadata({BASELINE: json.dumps(prior).encode()})


def test_written_answers_are_scored_as_sklearn_scores_classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    said = rng.integers(0, 2, 60)
    found = of_written(judged([ANSWERS[one] for one in said], labels), ANSWERS)
    assert found["written_accuracy"] == pytest.approx(accuracy_score(labels, said))
    assert found["written_precision"] == pytest.approx(precision_score(labels, said))
    assert found["written_recall"] == pytest.approx(recall_score(labels, said))
    assert found["written_f1"] == pytest.approx(f1_score(labels, said))
    assert found["invalid"] == 0


def test_an_answer_that_is_neither_is_wrong_and_counted_apart():
    found = of_written(judged(["real", "who knows", "Fake.", ""], [0, 0, 1, 1]), ANSWERS)
    assert found["written_accuracy"] == 0.5
    assert found["written_accuracy_valid"] == 1.0
    assert found["invalid"] == 0.5
    assert found["written_recall"] == 0.5
    nothing = of_written(judged(["?", "?"], [0, 1]), ANSWERS)
    assert math.isnan(nothing["written_precision"])
    assert math.isnan(nothing["written_accuracy_valid"])


def test_written_answers_are_scored_generator_by_generator():
    table = judged(["real", "fake", "fake", "hm"], [0, 1, 0, 1], ["ADM", "ADM", "VQDM", "VQDM"])
    found = of_written(table, ANSWERS)
    assert found["generator/ADM/written_accuracy"] == 1.0
    assert found["generator/VQDM/written_accuracy"] == 0.0
    assert found["generator/VQDM/invalid"] == 0.5


def test_the_loss_is_a_token_s_not_a_row_s():
    table = conversations(["a", "b", "c"], ["x", "x", "x"])
    assert of_likelihood(table)["loss"] == pytest.approx((0 + 1 + 2) / 6)
    assert of_likelihood(table.slice(0, 0)) == {}


def test_answers_without_a_look_are_scored_beside():
    prior = {"": "red", "How many?": "two"}
    questions = ["How many?", "How many?", "Which colour?"]
    found = of_conversations(conversations(["two", "one", "red"], ["two", "two", "blue"], questions, prior))
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["most_frequent/exact_match"] == 0
    assert found["most_frequent_of_question/exact_match"] == pytest.approx(2 / 3)


def test_the_most_frequent_answers_are_counted_question_by_question():
    pairs = [("A?", "x"), ("A?", "y"), ("A?", "y"), ("B?", "x"), ("B?", "x")]
    assert prior_of(pairs) == {"": "x", "A?": "y", "B?": "x"}
    assert prior_of([]) == {}
    assert set(prior_of([*pairs, ("C?", "z")], most=1)) == {"", "A?"}


def test_questions_come_by_how_often_they_are_asked():
    table = conversations(["a", "b", "c"], ["a", "b", "x"], ["One?", "Two?", "Two?"])
    assert by_question(table) == {"Two?": (2, 0.5), "One?": (1, 1.0)}


def test_intervals_hold_their_figures():
    rng = np.random.default_rng(1)
    texts = [("red", "a red square")[one] for one in rng.integers(0, 2, 50)]
    table = conversations(texts, ["red square"] * 50)
    bounds, found = intervals(table), of_conversations(table)
    for name, (low, high) in bounds.items():
        assert low <= found[name] <= high, name
    assert intervals(table.slice(0, 0)) == {}


def test_tables_are_read_back_as_they_were_written(tmp_path):
    for table in (judged(["real"], [0]), conversations(["a"], ["a"], prior={"": "a"})):
        pq.write_table(table, tmp_path / "t.parquet")
        again = read_answers(tmp_path / "t.parquet")
        assert again.equals(table)
        assert is_judged(again) == is_judged(table)
        assert (again.schema.metadata or {}).get(BASELINE) == (table.schema.metadata or {}).get(BASELINE)


def test_other_tables_are_refused(tmp_path):
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="is not a table of answers: column 'index' is missing"):
        read_answers(tmp_path / "t.parquet")
    odd = conversations(["a"], ["a"])
    broken = odd.set_column(6, "nll", pa.array([math.nan]))
    pq.write_table(broken, tmp_path / "n.parquet")
    with pytest.raises(DataError, match=r"the likelihood of 0\.png is not finite"):
        read_answers(tmp_path / "n.parquet")
