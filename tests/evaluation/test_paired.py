"""Differences between two detectors, against scipy, sklearn and sums over all pairs."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score
from tapetum.evaluation.paired import Judged, mcnemar, paired

from evaluation.prediction_tables import predictions


def judged(labels, logits, threshold=None, paths=None):
    return Judged(predictions(labels, logits, paths=paths), threshold)


def two_runs(seed, count=80):
    """Two detectors of unlike strength that err on the same images; rounded, so that logits tie."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    shared = random.normal(size=count)
    logits = [
        np.round(gain * (2 * labels - 1) + shared + random.normal(size=count), 1) for gain in (1.2, 0.6)
    ]
    return labels, *logits


def delong(labels, first, second):
    """AUROC difference and its variance by the definition of DeLong et al. (1988): every pair, a loop."""
    fakes, reals = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)

    def wins(logits):
        return np.array(
            [
                [1.0 if logits[f] > logits[r] else 0.5 if logits[f] == logits[r] else 0.0 for r in reals]
                for f in fakes
            ]
        )

    gain = wins(first) - wins(second)
    variance = gain.mean(axis=1).var(ddof=1) / len(fakes) + gain.mean(axis=0).var(ddof=1) / len(reals)
    return gain.mean(), variance


@pytest.mark.parametrize("seed", range(4))
def test_the_auroc_difference_is_delongs(seed):
    labels, first, second = two_runs(seed)
    found = paired([judged(labels, first)], [judged(labels, second)]).differences["auroc"]
    value, variance = delong(labels, first, second)
    assert found.value == pytest.approx(value)
    assert found.value == pytest.approx(roc_auc_score(labels, first) - roc_auc_score(labels, second))
    assert (found.high - found.low) / 2 == pytest.approx(norm.ppf(0.975) * math.sqrt(variance))
    assert found.p == pytest.approx(2 * norm.sf(abs(value) / math.sqrt(variance)))


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(0, 0), (1, 0), (7, 7), (12, 3), (3, 12), (900, 1000)]
)
def test_mcnemar_is_the_exact_binomial_test(only_first, only_second):
    total = only_first + only_second
    expected = binomtest(only_first, total).pvalue if total else 1.0
    assert mcnemar(only_first, only_second) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_accuracy_interval_is_that_of_bonett_and_price(seed):
    labels, first, second = two_runs(seed)
    found = paired([judged(labels, first)], [judged(labels, second)]).differences["accuracy"]
    right, other = (first > 0) == (labels == 1), (second > 0) == (labels == 1)
    gained, lost = int((right & ~other).sum()), int((~right & other).sum())
    p, q = (gained + 1) / (len(labels) + 2), (lost + 1) / (len(labels) + 2)
    margin = norm.ppf(0.975) * math.sqrt((p + q - (p - q) ** 2) / (len(labels) + 2))
    assert found.value == pytest.approx((gained - lost) / len(labels))
    assert (found.low, found.high) == pytest.approx((p - q - margin, p - q + margin))
    assert found.p == pytest.approx(binomtest(gained, gained + lost).pvalue)


def test_a_pair_is_known_better_than_two_runs_apart():
    labels, first, second = two_runs(0, count=400)
    found = paired([judged(labels, first)], [judged(labels, second)]).differences["accuracy"]
    apart = sum(np.var((logits > 0) == (labels == 1)) / len(labels) for logits in (first, second))
    assert found.high - found.low < 0.95 * 2 * norm.ppf(0.975) * math.sqrt(apart)


def test_the_other_way_round_changes_the_sign_only():
    labels, first, second = two_runs(1)
    one = paired([judged(labels, first, 0.3)], [judged(labels, second, -0.2)]).differences
    other = paired([judged(labels, second, -0.2)], [judged(labels, first, 0.3)]).differences
    assert one.keys() == other.keys() == {"accuracy", "accuracy_tuned", "auroc"}
    for name in one:
        assert (one[name].value, one[name].low, one[name].high, one[name].p) == pytest.approx(
            (-other[name].value, -other[name].high, -other[name].low, other[name].p)
        )


def test_seeds_are_averaged():
    labels, first, second = two_runs(2)
    _, again, _ = two_runs(3)
    found = paired([judged(labels, first), judged(labels, again)], [judged(labels, second)]).differences
    mean = (roc_auc_score(labels, first) + roc_auc_score(labels, again)) / 2
    assert found["auroc"].value == pytest.approx(mean - roc_auc_score(labels, second))
    right = [((logits > 0) == (labels == 1)).mean() for logits in (first, again, second)]
    assert found["accuracy"].value == pytest.approx((right[0] + right[1]) / 2 - right[2])
    twice = paired([judged(labels, first)] * 2, [judged(labels, second)] * 2).differences
    once = paired([judged(labels, first)], [judged(labels, second)]).differences
    assert twice["auroc"] == once["auroc"]


def test_rows_are_matched_by_path_whatever_their_order_and_the_rest_is_left_out():
    labels, first, second = two_runs(0)
    paths = np.array([f"{row}.png" for row in range(len(labels))])
    order = np.random.default_rng(0).permutation(len(labels))[:60]
    found = paired(
        [judged(labels, first, paths=list(paths))],
        [judged(labels[order], second[order], paths=list(paths[order]))],
    )
    expected = paired([judged(labels[order], first[order])], [judged(labels[order], second[order])])
    assert (found.images, found.of) == (60, 80)
    assert found.differences == expected.differences


def test_the_tuned_accuracy_uses_each_runs_own_threshold():
    labels, first, second = two_runs(0)
    found = paired([judged(labels, first, 0.4)], [judged(labels, second, -0.4)]).differences["accuracy_tuned"]
    assert found.value == pytest.approx(
        ((first > 0.4) == (labels == 1)).mean() - ((second > -0.4) == (labels == 1)).mean()
    )
    assert "accuracy_tuned" not in paired([judged(labels, first, 0.4)], [judged(labels, second)]).differences


def test_equal_runs_do_not_differ():
    labels, first, _ = two_runs(0)
    for found in paired([judged(labels, first)], [judged(labels, first)]).differences.values():
        assert found.value == 0
        assert found.low <= 0 <= found.high
        assert found.p == 1
        assert not found.shown


def test_a_perfect_and_a_hopeless_ranking_have_no_chance_to_speak_of():
    labels = np.arange(40) % 2
    found = paired([judged(labels, labels - 0.5)], [judged(labels, 0.5 - labels)]).differences["auroc"]
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert math.isnan(found.p)


def test_few_images_of_a_class_have_no_auroc():
    labels = np.array([1] * 9 + [0] * 30)
    logits = np.linspace(-1, 1, 39)
    assert set(paired([judged(labels, logits)], [judged(labels, -logits)]).differences) == {"accuracy"}


def test_what_cannot_be_matched_says_why():
    labels = [0, 1]
    one = judged(labels, [0.0, 1.0], paths=["a", "b"])
    assert "no test image in common" in paired([one], [judged(labels, [0.0, 1.0], paths=["c", "d"])]).reason
    assert "other labels" in paired([one], [judged([1, 0], [0.0, 1.0], paths=["a", "b"])]).reason
    assert "several rows" in paired([one], [judged(labels, [0.0, 1.0], paths=["a", "a"])]).reason
    assert paired([one], [one]).reason == ""
