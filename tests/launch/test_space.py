"""Hydra's syntax as a search space: what a distribution draws, Hydra reads back as the same value."""

from __future__ import annotations

import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from tapetum.errors import ConfigError
from tapetum.launch.space import read_space, written

FINITE = st.floats(-1e12, 1e12, allow_nan=False)


def hydra(override):
    return OverridesParser.create().parse_override(override)


def only(word):
    (parameter,) = read_space([word]).parameters.values()
    return parameter


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optimizer.lr=interval(1e-5,1e-3)", FloatDistribution(1e-5, 1e-3)),
        ("optimizer.lr=interval(1,3)", FloatDistribution(1.0, 3.0)),
        ("optimizer.lr=tag(log,interval(1e-5,1e-3))", FloatDistribution(1e-5, 1e-3, log=True)),
        ("data.batch_size=int(interval(4,32))", IntDistribution(4, 32)),
        ("data.batch_size=tag(log,int(interval(4,32)))", IntDistribution(4, 32, log=True)),
        ("data.batch_size=int(tag(log,interval(4,32)))", IntDistribution(4, 32, log=True)),
        ("data.batch_size=range(1,10,2)", IntDistribution(1, 9, step=2)),
        ("data.batch_size=range(4)", IntDistribution(0, 3)),
        ("data.batch_size=range(9,0,-3)", IntDistribution(3, 9, step=3)),
        ("data.batch_size=tag(log,range(1,9))", IntDistribution(1, 8, log=True)),
        ("x=range(0,1,0.1)", FloatDistribution(0.0, 0.9, step=0.1)),
        ("x=8,16", CategoricalDistribution(["8", "16"])),
        ("x=choice(true,1e-3,'a b')", CategoricalDistribution(["True", "0.001", "a\\ b"])),
        ("x=null,[1,2]", CategoricalDistribution(["null", "[1,2]"])),
        ("model=npr_64,small_resnet", CategoricalDistribution(["npr_64", "small_resnet"])),
    ],
)
def test_hydra_s_syntax_is_optuna_s_distribution(word, expected):
    assert only(word).distribution == expected


@pytest.mark.parametrize(
    "word",
    [
        "x=interval(0.1,3)",
        "x=int(interval(4,32))",
        "x=tag(log,interval(1e-5,1e-3))",
        "x=range(1,10,2)",
        "x=8,b",
    ],
)
def test_a_distribution_is_written_as_it_would_be_typed(word):
    assert only(f"x={written(only(word).distribution)}").distribution == only(word).distribution


@given(FINITE, FINITE)
def test_any_number_of_an_interval_is_read_back_as_itself(one, other):
    parameter = only(f"x=interval({min(one, other)!r},{max(one, other)!r})")
    for value in (one, other, (one + other) / 2, math.nextafter(one, math.inf)):
        assert hydra(parameter.override(value)).value() == value


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(-7, 7).filter(bool))
def test_a_range_has_the_values_that_hydra_enumerates(start, stop, step):
    word = f"x=range({start},{stop},{step})"
    expected = list(hydra(word).sweep_iterator())
    if not expected:
        with pytest.raises(ConfigError, match="has no value"):
            read_space([word])
        return
    assert sorted(only(word).values()) == sorted(expected)


@given(st.integers(0, 20), st.integers(1, 20), st.sampled_from([0.1, 0.25, 0.3, 1.5]))
def test_a_range_of_fractions_too(start, count, step):
    word = f"x=range({start},{start + count * step - step / 2!r},{step})"
    assert only(word).values() == pytest.approx(list(hydra(word).sweep_iterator()))


def typed(value):
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return "null" if value is None else repr(value)


@given(
    st.lists(
        st.one_of(st.integers(), FINITE, st.booleans(), st.none(), st.text("ab ',=", max_size=5)), min_size=2
    )
)
def test_a_choice_is_read_back_as_what_was_typed(values):
    parameter = only(f"x={','.join(map(typed, values))}")
    read = [hydra(parameter.override(one)).value() for one in parameter.values()]
    assert all(any(one == value and type(one) is type(value) for one in read) for value in values)


def test_of_several_words_for_a_key_the_last_counts_and_the_rest_is_fixed():
    space = read_space(
        [
            *("optimizer.lr=1,2", "++model.loss.margin=interval(0,1)", "seed=1"),
            *("optimizer.lr=3", "+model.loss.margin=1,2", "~augment"),
        ]
    )
    assert space.fixed == ("optimizer.lr=3", "seed=1", "~augment")
    assert space.overrides({"model.loss.margin": "2"}) == (*space.fixed, "+model.loss.margin=2")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("x=interval(2,1)", "x=interval(2,1) ends before it starts: type x=interval(1,2)"),
        ("x=tag(log,interval(0,1))", "a logarithmic scale starts above 0"),
        ("x=tag(log,range(1,9,2))", "a logarithmic scale has no steps: type tag(log,interval(…))"),
        ("x=tag(log,choice(1,2))", "a logarithmic scale needs numbers between two ends"),
        ("x=tag(fast,interval(0,1))", "unknown tag fast: the one that is known is log"),
        ("x=interval(1", "a search space can't be read: "),
        ("x=3", "there is nothing to search over: type a range for at least one key"),
    ],
)
def test_what_can_t_be_searched_over_is_refused(word, said):
    with pytest.raises(ConfigError) as caught:
        read_space([word])
    assert said in str(caught.value)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        read_space(["x=interval(2,1)", "y=tag(log,interval(0,1))", "z=1,2"])
    assert len(caught.value.problems) == 2
