import math
import re
import statistics

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk
from tapetum.evaluation.detection import evaluate, intervals

from evaluation.prediction_tables import predictions, random_predictions


def arrays(table):
    return table["label"].to_numpy(), table["logit"].to_numpy(), table["probability"].to_numpy()


def test_the_whole_agrees_with_sklearn():
    table = random_predictions(501)
    label, logit, probability = arrays(table)
    said = logit > 0
    found = evaluate(table, threshold=0.7)
    expected = {
        "accuracy": sk.accuracy_score(label, said),
        "balanced_accuracy": sk.balanced_accuracy_score(label, said),
        "precision": sk.precision_score(label, said),
        "recall": sk.recall_score(label, said),
        "f1": sk.f1_score(label, said),
        "auroc": sk.roc_auc_score(label, logit),
        "ap": sk.average_precision_score(label, logit),
        "real_accuracy": sk.recall_score(label, said, pos_label=0),
        "fake_accuracy": sk.recall_score(label, said, pos_label=1),
        "nll": sk.log_loss(label, probability.astype(float)),
        "brier": sk.brier_score_loss(label, probability),
        "accuracy_tuned": sk.accuracy_score(label, logit > 0.7),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_ece_is_the_weighted_distance_of_fifteen_bins():
    table = random_predictions(300)
    label, _, probability = arrays(table)
    distance = 0.0
    for bin_ in range(15):
        inside = [k for k in range(300) if min(14, max(0, math.ceil(probability[k] * 15) - 1)) == bin_]
        if inside:
            distance += abs(sum(float(probability[k]) - label[k] for k in inside)) / 300
    assert evaluate(table)["ece"] == pytest.approx(distance, abs=1e-6)


def test_without_a_threshold_there_is_no_tuned_accuracy():
    assert "accuracy_tuned" not in evaluate(random_predictions(40))
    assert "accuracy_tuned" not in intervals(random_predictions(40))


def test_generators_agree_with_a_loop_over_rows():
    names = ("ADM", "BigGAN", "a/b")
    table = random_predictions(240, names=names)
    found = evaluate(table)
    rows = table.to_pylist()
    per = {name: [] for name in ("accuracy", "ap", "auroc", "real_accuracy", "fake_accuracy")}
    for name in names:
        mine = [row for row in rows if row["generator"] == name or row["label"] == 0]
        label, logit = [row["label"] for row in mine], [row["logit"] for row in mine]
        right = [(row["logit"] > 0) == (row["label"] == 1) for row in mine]
        fake = [hit for hit, row in zip(right, mine, strict=True) if row["label"] == 1]
        real = [hit for hit, row in zip(right, mine, strict=True) if row["label"] == 0]
        expected = {
            "accuracy": sum(right) / len(right),
            "ap": sk.average_precision_score(label, logit),
            "auroc": sk.roc_auc_score(label, logit),
            "real_accuracy": sum(real) / len(real),
            "fake_accuracy": sum(fake) / len(fake),
        }
        for figure, value in expected.items():
            assert found[f"generator/{name.replace('/', '_')}/{figure}"] == pytest.approx(value), figure
            per[figure].append(value)
    for figure, values in per.items():
        assert found[f"generator_mean/{figure}"] == pytest.approx(statistics.fmean(values))
        assert found[f"generator_min/{figure}"] == pytest.approx(min(values))
        assert found[f"generator_std/{figure}"] == pytest.approx(statistics.pstdev(values), abs=1e-12)


def test_names_of_figures_fit_every_logger():
    found = evaluate(random_predictions(60, names=("α β", "x:y", "Midjourney v5")), threshold=0.0)
    assert all(re.fullmatch(r"[A-Za-z0-9_./ -]+", name) for name in found)


def test_one_class_makes_undefined_what_needs_both_and_never_zero():
    found = evaluate(predictions([1, 1, 1], [1.0, 2.0, -1.0], ["ADM"] * 3))
    for name in (
        "auroc",
        "ap",
        "balanced_accuracy",
        "real_accuracy",
        "generator/ADM/auroc",
        "generator_mean/auroc",
    ):
        assert math.isnan(found[name]), name
    assert found["accuracy"] == found["fake_accuracy"] == pytest.approx(2 / 3)
    bounds = intervals(predictions([1, 1, 1], [1.0, 2.0, -1.0]))
    assert not {"auroc", "ap", "real_accuracy", "precision"} & set(bounds)


def test_no_image_makes_every_figure_undefined_and_no_interval():
    found = evaluate(predictions([], []), threshold=0.0)
    assert found
    assert all(math.isnan(value) for value in found.values())
    assert intervals(predictions([], []), threshold=0.0) == {}


def test_equal_generators_have_no_deviation_at_all():
    labels, logits = [0] * 3 + [1] * 9, [-1.0, -1.0, 1.0] + [1.0, 1.0, -1.0] * 3
    generators = [None] * 3 + ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert evaluate(predictions(labels, logits, generators))["generator_std/accuracy"] == 0.0


def test_intervals_of_shares_are_scipys_wilson():
    table = random_predictions(300)
    label, logit, _ = arrays(table)
    right = (logit > 0) == (label == 1)
    mine = np.array([row in ("ADM", None) for row in table["generator"].to_pylist()])
    counted = {
        "accuracy": right,
        "real_accuracy": right[label == 0],
        "fake_accuracy": right[label == 1],
        "recall": right[label == 1],
        "precision": (label == 1)[logit > 0],
        "accuracy_tuned": (logit > 0.5) == (label == 1),
        "generator/ADM/accuracy": right[mine],
    }
    found = intervals(table, threshold=0.5, samples=20)
    for name, hits in counted.items():
        expected = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, "wilson")
        assert found[name] == pytest.approx((expected.low, expected.high)), name


def test_intervals_of_rankings_are_percentiles_of_sklearn_on_the_same_resamples():
    table = random_predictions(60)
    label, logit, _ = arrays(table)
    random = np.random.default_rng(5)
    drawn = [random.integers(60, size=60) for _ in range(200)]
    found = intervals(table, samples=200, seed=5)
    for name, figure in (("auroc", sk.roc_auc_score), ("ap", sk.average_precision_score)):
        values = [figure(label[rows], logit[rows]) for rows in drawn]
        assert found[name] == pytest.approx(tuple(np.quantile(values, [0.025, 0.975]))), name


def test_intervals_repeat_and_hold_the_figure():
    table = random_predictions(200)
    first = intervals(table)
    assert first == intervals(table)
    figures = evaluate(table)
    assert all(low <= figures[name] <= high for name, (low, high) in first.items())
