import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tapetum.metrics.open_set import open_set, open_set_figures, rejection_curve


def answers(count=500, seed=0, step=0.05):
    """(similarity, hits, known), rounded so that similarities tie."""
    random = np.random.default_rng(seed)
    known = random.random(count) < 0.6
    similarity = np.clip(np.round(random.normal(0.5 + 0.2 * known, 0.2) / step) * step, -1, 1)
    hits = known & (random.random(count) < 0.8)
    return torch.tensor(similarity, dtype=torch.float32), torch.from_numpy(hits), torch.from_numpy(known)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5]), st.sampled_from([0.001, 0.2]))
def test_the_threshold_is_the_lowest_that_keeps_the_false_alarms(seed, fpr, step):
    similarity, hits, known = answers(seed=seed, step=step)

    point = open_set(similarity, hits, known, fpr)

    # every threshold there is: each similarity itself, compared with `>`
    shares = {
        float(value): float((similarity[~known] > value).double().mean()) for value in similarity.unique()
    }
    best = min(value for value, share in shares.items() if share <= fpr)
    accepted = similarity > best
    assert point.fpr <= fpr
    assert point.fpr == float((accepted[~known]).double().mean())
    assert point.tpr == pytest.approx(float((accepted & hits)[known].double().mean()))
    assert torch.equal(similarity > point.threshold, accepted)


def test_one_of_a_hundred_is_a_percent_whatever_the_rounding():
    similarity = torch.arange(100, 0, -1) / 200
    unknown = torch.zeros(100, dtype=torch.bool)

    for allowed in range(1, 100):
        point = open_set(similarity, unknown, unknown, allowed / 100)
        assert point.fpr == pytest.approx(allowed / 100)


def test_few_unknown_queries_let_none_of_them_pass():
    similarity, hits, known = answers(count=60)

    found = open_set_figures(similarity, hits, known)

    assert found["open_set/fpr_at_0.001"] == 0
    assert found["open_set/threshold_at_0.001"] == float(similarity[~known].max())
    assert found["open_set/tpr_at_0.001"] <= found["open_set/tpr_at_0.01"] <= 1


def test_without_unknown_queries_there_is_nothing_to_tell():
    similarity, hits, known = answers()

    assert open_set_figures(similarity, hits, torch.ones_like(known)) == {}
    assert math.isnan(open_set(similarity, hits, torch.ones_like(known), 0.01).threshold)
    assert math.isnan(open_set(similarity, hits & False, known & False, 0.01).tpr)


def test_the_rejection_curve_is_the_accuracy_of_what_is_accepted():
    similarity, hits, _ = answers()

    curve = rejection_curve(similarity, hits)

    assert curve.threshold.tolist() == sorted(set(similarity.double().tolist()), reverse=True)
    for threshold, coverage, accuracy in zip(curve.threshold, curve.coverage, curve.accuracy, strict=True):
        accepted = similarity >= threshold
        assert float(coverage) == pytest.approx(float(accepted.double().mean()))
        assert float(accuracy) == pytest.approx(float(hits[accepted].double().mean()))
    assert curve.coverage[-1] == 1


@pytest.mark.parametrize("fpr", [-0.1, 1.0, math.nan])
def test_a_rate_that_is_none_is_refused(fpr):
    with pytest.raises(ValueError, match="a share of unknown queries"):
        open_set(*answers(), fpr)
