"""The joint bootstrap: right in its figures, reproducible, and honest about shared real images."""

import numpy as np
import pytest
from sklearn import metrics as sk
from tapetum.evaluation.detection import evaluate
from tapetum.evaluation.generators import subsets
from tapetum.evaluation.joint import _Judge, _resampled, joint_intervals

from evaluation.prediction_tables import predictions, random_predictions


def test_figures_of_a_draw_are_sklearns_of_the_rows_drawn():
    table = random_predictions(120)
    label, logit = table["label"].to_numpy(), table["logit"].to_numpy().astype(float)
    random = np.random.default_rng(1)
    counts = _resampled([np.flatnonzero(label == value) for value in (0, 1)], 120, 5, random)
    for subset in subsets(table):
        found = _Judge(table, subset, 0.25).figures(counts)
        for draw in range(5):
            rows = np.repeat(subset.rows, counts[draw, subset.rows].astype(int))
            # the draw above is by class, so its size of a generator varies; rates need the drawn size
            assert found["auroc"][draw] == pytest.approx(sk.roc_auc_score(label[rows], logit[rows]))
            assert found["ap"][draw] == pytest.approx(sk.average_precision_score(label[rows], logit[rows]))


def test_every_cell_keeps_its_size_in_every_draw():
    cells = [np.array([0, 2, 4]), np.array([1, 3])]
    counts = _resampled(cells, 5, 50, np.random.default_rng(0))
    assert all((counts[:, cell].sum(1) == len(cell)).all() for cell in cells)
    assert len({tuple(row) for row in counts.tolist()}) > 10


def test_shared_real_images_are_drawn_once_so_a_mean_over_copies_is_no_surer():
    """Three generators with the same scores are one generator: their mean varies as one of them does on the
    reals, which a bootstrap of each alone would make three independent samples of."""
    random = np.random.default_rng(3)
    reals, fakes = random.normal(-1, 2, 40), np.full(200, 9.0)  # all of the variance is in the reals
    table = predictions(
        [0] * 40 + [1] * 600, [*reals, *fakes, *fakes, *fakes], [None] * 40 + list("abc" * 200)
    )
    found = joint_intervals(table, samples=2000)
    assert found["generator_mean/real_accuracy"] == found["generator_mean/real_accuracy"]
    one = found["generator/a/balanced_accuracy"]
    assert found["generator_mean/balanced_accuracy"] == pytest.approx(one, abs=1e-9)
    share = float((reals <= 0).mean())
    spread = 1.96 * np.sqrt(share * (1 - share) / 40)
    low, high = found["generator_mean/real_accuracy"]
    assert (high - low) / 2 == pytest.approx(spread, rel=0.15)


def test_intervals_repeat_hold_the_figure_and_change_with_the_seed():
    table = random_predictions(300)
    figures = evaluate(table, threshold=0.3)
    found = joint_intervals(table, threshold=0.3, samples=300)
    assert found == joint_intervals(table, threshold=0.3, samples=300)
    assert found != joint_intervals(table, threshold=0.3, samples=300, seed=1)
    assert {"generator_mean/accuracy_tuned", "generator_mean/ap", "generator/ADM/auroc"} <= set(found)
    assert all(low <= figures[name] <= high for name, (low, high) in found.items())


def test_what_is_undefined_has_no_interval():
    only_fakes = predictions([1, 1, 1], [1.0, 2.0, -1.0], ["a", "a", "b"])
    found = joint_intervals(only_fakes, samples=50)
    assert "generator_mean/fake_accuracy" in found
    assert not [
        name for name in found if name.endswith(("auroc", "/ap", "real_accuracy", "balanced_accuracy"))
    ]
    assert joint_intervals(predictions([], []), samples=50) == {}
