import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss
from tapetum.metrics.calibration import brier, ece, nll, reliability

PROBABILITIES = st.one_of(st.integers(0, 15).map(lambda i: i / 15), st.floats(0, 1))
ROWS = st.lists(st.tuples(PROBABILITIES, st.integers(0, 1)), min_size=1, max_size=80)


def _brute_force_equal_width(rows, bins):
    edges = np.linspace(0, 1, bins + 1)
    table = []
    for number in range(bins):
        inside = [(p, y) for p, y in rows if (edges[number] < p or number == 0) and p <= edges[number + 1]]
        if inside:
            p, y = np.array(inside).T
            table.append((edges[number], edges[number + 1], len(inside), p.mean(), y.mean()))
    return table


@settings(deadline=None)
@given(ROWS, st.integers(1, 20))
def test_equal_width_table_and_ece_equal_a_loop_over_bins(rows, bins):
    p, y = zip(*rows, strict=True)
    table = reliability(p, y, bins)
    expected = _brute_force_equal_width(rows, bins)
    found = zip(table.lower, table.upper, table.count, table.confidence, table.frequency, strict=True)
    np.testing.assert_allclose(list(found), expected, atol=1e-12)
    error = sum(n * abs(c - f) for _, _, n, c, f in expected) / len(rows)
    assert ece(p, y, bins) == pytest.approx(error, abs=1e-12)


@settings(deadline=None)
@given(ROWS, st.integers(1, 20))
def test_equal_mass_bins_partition_the_sorted_images_and_differ_by_one_without_ties(rows, bins):
    p, y = zip(*rows, strict=True)
    table = reliability(p, y, bins, "equal_mass")
    assert table.count.sum() == len(rows)
    if len(set(p)) == len(p):
        assert len(table.count) == min(bins, len(rows))
        assert table.count.max() - table.count.min() <= 1
    parts = np.split(np.sort(p), np.cumsum(table.count)[:-1])
    np.testing.assert_allclose(table.confidence, [part.mean() for part in parts], atol=1e-12)
    np.testing.assert_array_equal(table.lower, [part[0] for part in parts])
    np.testing.assert_array_equal(table.upper, [part[-1] for part in parts])
    assert all(table.upper[:-1] < table.lower[1:])
    assert np.dot(table.count, table.frequency) == pytest.approx(sum(y))


@settings(deadline=None)
@given(ROWS, st.integers(1, 20), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows, bins, random):
    shuffled = random.sample(rows, len(rows))
    for binning in ("equal_width", "equal_mass"):
        one, other = (ece(*zip(*table, strict=True), bins, binning) for table in (rows, shuffled))
        assert one == pytest.approx(other, abs=1e-12)


def test_a_calibrated_detector_has_a_small_error_and_an_overconfident_one_the_known_one():
    generator = np.random.default_rng(0)
    p = generator.uniform(size=200_000)
    y = generator.uniform(size=p.size) < p
    for binning in ("equal_width", "equal_mass"):
        assert ece(p, y, binning=binning) < 0.005
        assert ece(np.full(1000, 0.9), np.arange(1000) < 600, binning=binning) == pytest.approx(0.3)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-30, 30), st.integers(0, 1)), min_size=1))
def test_brier_and_nll_equal_scikit_learn(rows):
    z, y = map(np.array, zip(*rows, strict=True))
    p = 1 / (1 + np.exp(-z))
    assert brier(p, y) == pytest.approx(brier_score_loss(y, p), abs=1e-12)
    both = np.stack([1 / (1 + np.exp(z)), p], axis=1)
    assert nll(z, y) == pytest.approx(log_loss(y, both, labels=[0, 1]), rel=1e-3, abs=1e-9)


def test_nll_of_extreme_logits_is_exact():
    assert nll([1000.0, -1000.0], [0, 1]) == 1000.0
    assert nll([math.inf, -math.inf], [1, 0]) == 0.0


def test_scores_of_no_row_are_nan():
    assert all(math.isnan(score([], [])) for score in (ece, brier, nll))
    assert len(reliability([], []).count) == 0


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_a_value_that_is_no_probability_is_refused(p):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        brier([0.5, p], [0, 1])


def test_a_foreign_label_is_refused():
    with pytest.raises(ValueError, match="found 2"):
        nll([0.0], [2])
