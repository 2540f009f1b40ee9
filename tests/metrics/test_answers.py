"""Answers: which candidate was meant, and SQuAD's scores against a second way to count them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapetum.metrics.answers import answer_metrics, answer_scores, chosen, normalized, token_f1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("real", 0),
        (" Real.", 0),
        ("FAKE!", 1),
        ("a fake", 1),
        ("real fake", None),
        ("it is real", None),
        ("really", None),
        ("", None),
        ("?", None),
    ],
)
def test_an_answer_is_one_of_the_candidates_or_none(text, number):
    assert chosen(text, ("real", "fake")) == number


def test_letters_that_are_articles_stay_answers():
    assert [chosen(text, ("A", "B")) for text in ("A", "a.", "B", "the")] == [0, 0, 1, None]
    assert normalized("the  Red, square") == "red square"


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("red square", "a red square", 1.0),
        ("red", "red square", 2 / 3),
        ("red red square", "red square", 0.8),
        ("blue", "red", 0.0),
        ("", "red", 0.0),
    ],
)
def test_token_f1_is_that_of_the_words_shared(text, answer, expected):
    assert token_f1(text, answer) == pytest.approx(expected)


words = st.lists(st.sampled_from(["red", "blue", "two", "cross", "on"]), min_size=1, max_size=6)


@given(words, words)
def test_token_f1_equals_precision_and_recall_counted_one_by_one(said, right):
    left = list(right)
    shared = 0
    for word in said:
        if word in left:
            left.remove(word)
            shared += 1
    precision, recall = shared / len(said), shared / len(right)
    expected = 2 * precision * recall / (precision + recall) if shared else 0.0
    assert token_f1(" ".join(said), " ".join(right)) == pytest.approx(expected)


def test_means_of_no_answer_are_undefined():
    assert all(math.isnan(value) for value in answer_metrics([], []).values())


def test_scores_are_in_the_order_of_the_texts():
    found = answer_scores(["red", "blue one"], ["red", "blue"])
    assert found["exact_match"] == [1.0, 0.0]
    assert found["rouge_l"][0] == pytest.approx(1.0)
    assert found["token_f1"] == [1.0, pytest.approx(2 / 3)]
