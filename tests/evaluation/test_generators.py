import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapetum.errors import DataError
from tapetum.evaluation.generators import metric_name, subsets

from evaluation.prediction_tables import predictions


def test_own_reals_come_before_shared_ones_and_none_is_said():
    labels = [1, 1, 0, 1, 0, 0, 1]
    generators = ["ADM", "ADM", "ADM", "GLIDE", None, None, None]
    found = {subset.name: subset for subset in subsets(predictions(labels, [0.0] * 7, generators))}
    assert list(found) == ["ADM", "GLIDE"]
    assert found["ADM"].rows.tolist() == [0, 1, 2]
    assert (found["ADM"].reals, found["ADM"].generated, found["ADM"].real) == ("own", 2, 1)
    assert found["GLIDE"].rows.tolist() == [3, 4, 5]
    assert (found["GLIDE"].reals, found["GLIDE"].generated, found["GLIDE"].real) == ("shared", 1, 2)


def test_without_own_or_shared_reals_a_generator_stands_alone():
    found = subsets(predictions([1, 1, 0], [0.0] * 3, ["ADM", "GLIDE", "ADM"]))
    assert [(subset.name, subset.rows.tolist(), subset.reals) for subset in found] == [
        ("ADM", [0, 2], "own"),
        ("GLIDE", [1], "none"),
    ]


def test_a_name_on_real_rows_only_is_no_generator():
    assert subsets(predictions([0, 0, 1], [0.0] * 3, ["ADM", None, None])) == []


@given(st.text())
def test_a_metric_name_holds_allowed_characters_only_and_is_stable(name):
    cleaned = metric_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_. -]*", cleaned)
    assert cleaned == cleaned.strip()
    assert metric_name(cleaned) == cleaned
    assert cleaned not in (".", "..")


def test_names_that_need_no_change_keep_theirs():
    assert metric_name("stable_diffusion_v_1.4 (a/b)") == "stable_diffusion_v_1.4 _a_b_"
    assert metric_name("VQ-DM 2") == "VQ-DM 2"


def test_two_generators_of_one_metric_name_are_an_error_that_names_both():
    with pytest.raises(DataError, match="'a/b' and 'a_b' are both 'a_b'"):
        subsets(predictions([1, 1], [0.0, 0.0], ["a_b", "a/b"]))


def test_a_name_without_a_usable_character_is_an_error():
    with pytest.raises(DataError, match="' '"):
        subsets(predictions([1], [0.0], [" "]))
