import math

import numpy as np
import pytest
from scipy.stats import binomtest
from tapetum.metrics.intervals import bootstrap, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 10), (3, 10), (10, 10), (955, 1000), (1, 100_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_equals_scipy(successes, n, confidence):
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_no_trial_is_nan_and_of_more_successes_than_trials_an_error():
    assert all(math.isnan(bound) for bound in wilson(0, 0))
    with pytest.raises(ValueError, match="3 successes of 2 trials"):
        wilson(3, 2)


def test_bootstrap_of_a_mean_has_the_width_of_the_normal_interval():
    values = np.random.default_rng(1).normal(5.0, 2.0, size=2000)
    low, high = bootstrap(np.mean, [values], n=2000, seed=0)
    margin = 1.96 * values.std() / math.sqrt(values.size)
    assert low == pytest.approx(values.mean() - margin, abs=margin / 8)
    assert high == pytest.approx(values.mean() + margin, abs=margin / 8)


def test_bootstrap_by_cluster_equals_the_bootstrap_of_the_clusters():
    # Every image counted 50 times says no more than once: the interval must not shrink by sqrt(50).
    once = np.random.default_rng(2).normal(size=100)
    copies = np.repeat(once, 50)
    clusters = np.repeat(np.arange(100), 50)
    shuffled = np.random.default_rng(3).permutation(copies.size)
    expected = bootstrap(np.mean, [once], seed=7)
    found = bootstrap(np.mean, [copies[shuffled]], clusters[shuffled], seed=7)
    assert found == pytest.approx(expected, abs=1e-12)
    narrow = bootstrap(np.mean, [copies], seed=7)
    assert narrow[1] - narrow[0] < (found[1] - found[0]) / 5


def test_bootstrap_draws_whole_clusters_of_unequal_size_and_keeps_rows_together():
    values, twins = np.arange(10), np.arange(10) * 3
    clusters = np.array(["a", "b", "b", "c", "c", "c", "d", "d", "d", "d"])
    seen = []

    def look(one, other):
        np.testing.assert_array_equal(one * 3, other)
        names, counts = np.unique(clusters[one], return_counts=True)
        sizes = {"a": 1, "b": 2, "c": 3, "d": 4}
        draws = [count / sizes[name] for name, count in zip(names, counts, strict=True)]
        assert sum(draws) == 4
        seen.append(tuple(names))
        return 0.0

    bootstrap(look, [values, twins], clusters, n=50)
    assert len(set(seen)) > 5


def test_bootstrap_is_a_function_of_the_seed():
    values = np.random.default_rng(4).normal(size=50)
    assert bootstrap(np.mean, [values], seed=1) == bootstrap(np.mean, [values], seed=1)
    assert bootstrap(np.mean, [values], seed=1) != bootstrap(np.mean, [values], seed=2)


def test_undefined_resamples_do_not_enter_and_nothing_defined_is_nan():
    labels = np.array([0, 1])

    def needs_both(drawn):
        return float(drawn.mean()) if 0 < drawn.sum() < len(drawn) else math.nan

    assert bootstrap(needs_both, [labels]) == (0.5, 0.5)
    assert all(math.isnan(bound) for bound in bootstrap(needs_both, [np.ones(3)]))
    assert all(math.isnan(bound) for bound in bootstrap(np.mean, [np.empty(0)]))


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="different lengths"):
        bootstrap(lambda a, b: 0.0, [np.ones(2), np.ones(3)])
