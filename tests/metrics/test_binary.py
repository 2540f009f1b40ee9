import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle
from tapetum.errors import DataError, TrainingError
from tapetum.metrics.binary import binary_metrics, fit_threshold

# A coarse grid makes ties frequent; the wide range saturates a float32 sigmoid.
LOGITS = st.one_of(st.integers(-6, 6).map(lambda i: i / 2), st.floats(-200, 200, width=32))
ROWS = st.lists(st.tuples(LOGITS, st.integers(0, 1)), min_size=2, max_size=60)


def _tensors(rows):
    logits, labels = zip(*rows, strict=True)
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


@settings(deadline=None)
@given(ROWS, st.floats(-3, 3))
def test_metrics_equal_scikit_learn_with_ties_and_saturated_logits(rows, threshold):
    logits, labels = _tensors(rows)
    assume(0 < labels.sum() < len(labels))
    found = binary_metrics(logits, labels, threshold)
    scores, truth = logits.double().numpy(), labels.numpy()
    called = (scores > threshold).astype(int)
    expected = {
        "accuracy": oracle.accuracy_score(truth, called),
        "balanced_accuracy": oracle.balanced_accuracy_score(truth, called),
        "precision": oracle.precision_score(truth, called, zero_division=np.nan),
        "recall": oracle.recall_score(truth, called),
        "f1": oracle.f1_score(truth, called, zero_division=np.nan),
        "auroc": oracle.roc_auc_score(truth, scores),
        "ap": oracle.average_precision_score(truth, scores),
        "real_accuracy": oracle.recall_score(truth, called, pos_label=0),
        "fake_accuracy": oracle.recall_score(truth, called),
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_ranking_does_not_saturate_where_a_float32_sigmoid_does():
    logits = torch.tensor([20.0, 25.0, 30.0, 40.0])
    labels = torch.tensor([0, 0, 1, 1])
    assert len(set(logits.sigmoid().tolist())) == 1
    found = binary_metrics(logits, labels)
    assert (found["auroc"], found["ap"]) == (1.0, 1.0)


@pytest.mark.parametrize("label", [0, 1])
def test_with_one_class_only_what_needs_both_is_nan(label):
    found = binary_metrics(torch.tensor([-1.0, 2.0, 3.0, 4.0]), torch.full((4,), label))
    share = 0.25 if label == 0 else 0.75
    present, absent = ("real", "fake") if label == 0 else ("fake", "real")
    assert found["accuracy"] == found[f"{present}_accuracy"] == share
    undefined = {"balanced_accuracy", "precision", "f1", "auroc", "ap", f"{absent}_accuracy"}
    undefined |= {"recall"} if label == 0 else set()
    assert {name for name, value in found.items() if math.isnan(value)} == undefined


def test_precision_is_nan_and_f1_zero_when_nothing_is_called_generated():
    found = binary_metrics(torch.tensor([-1.0, -2.0]), torch.tensor([0, 1]))
    assert math.isnan(found["precision"])
    assert found["f1"] == 0.0


def test_metrics_of_no_image_are_nan():
    assert all(math.isnan(value) for value in binary_metrics(torch.empty(0), torch.empty(0).long()).values())


def test_a_logit_at_the_threshold_is_real():
    found = binary_metrics(torch.tensor([0.0, 0.0]), torch.tensor([0, 1]))
    assert (found["real_accuracy"], found["fake_accuracy"]) == (1.0, 0.0)


def test_a_nan_logit_is_an_error_that_counts():
    with pytest.raises(TrainingError, match="1 of 2 logits are NaN"):
        binary_metrics(torch.tensor([0.0, math.nan]), torch.tensor([0, 1]))


def test_a_foreign_label_is_an_error_that_names_it():
    with pytest.raises(DataError, match=r"found \[7\]"):
        binary_metrics(torch.tensor([0.0, 1.0]), torch.tensor([0, 7]))


@settings(deadline=None)
@given(ROWS)
def test_fitted_threshold_has_the_highest_balanced_accuracy(rows):
    logits, labels = _tensors(rows)
    assume(0 < labels.sum() < len(labels))
    threshold = fit_threshold(logits, labels)

    def balanced(cut):
        return oracle.balanced_accuracy_score(labels.numpy(), (logits > cut).int().numpy())

    # Every distinct decision: one just at each logit, and one below all of them.
    candidates = [*logits.tolist(), float(logits.min()) - 1000]
    assert balanced(threshold) == pytest.approx(max(balanced(cut) for cut in candidates), abs=1e-12)


def test_fitted_threshold_is_the_middle_of_the_widest_of_the_best_gaps():
    logits = torch.tensor([-4.0, -3.0, 1.0, 2.0])
    assert fit_threshold(logits, torch.tensor([0, 0, 1, 1])) == -1.0
    # Between -3 and -1, and between 0 and 5, three of four are right: the wider gap wins.
    assert fit_threshold(torch.tensor([-3.0, -1.0, 0.0, 5.0]), torch.tensor([0, 1, 0, 1])) == 2.5
    # Equally wide: the one nearer to 0.
    assert fit_threshold(torch.tensor([-3.0, -1.0, 4.0, 6.0]), torch.tensor([0, 1, 0, 1])) == -2.0


def test_fitted_threshold_separates_neighbouring_floats():
    low = torch.tensor(1.0)
    high = torch.nextafter(low, torch.tensor(2.0))
    logits, labels = torch.stack([low, high]), torch.tensor([0, 1])
    assert binary_metrics(logits, labels, fit_threshold(logits, labels))["accuracy"] == 1.0
    assert (logits > fit_threshold(logits, labels)).tolist() == [False, True]


def test_fitted_threshold_survives_infinite_logits():
    logits = torch.tensor([-math.inf, math.inf])
    assert (logits > fit_threshold(logits, torch.tensor([0, 1]))).tolist() == [False, True]


@pytest.mark.parametrize(
    ("logits", "labels", "threshold"),
    [([2.0, 2.0], [0, 1], 0.0), ([-2.0, -2.0], [0, 1], 0.0), ([-1.0, 3.0], [1, 0], -1.0)],
)
def test_threshold_of_a_useless_detector_calls_all_by_one_name_near_zero(logits, labels, threshold):
    assert fit_threshold(torch.tensor(logits), torch.tensor(labels)) == pytest.approx(threshold, abs=1e-6)


def test_threshold_needs_both_classes():
    with pytest.raises(DataError, match="2 real and 0 generated"):
        fit_threshold(torch.tensor([0.0, 1.0]), torch.tensor([0, 0]))
