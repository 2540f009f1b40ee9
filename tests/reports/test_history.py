import math

from tapetum.reports.history import best, best_axis, names, series

ROWS = [
    {"epoch": 0, "step": 4, "train/loss": 0.9},
    {"epoch": 0, "step": 9, "train/loss": 0.7},
    {"epoch": 0, "step": 9, "val/auroc": 0.8, "lr/head": ""},
    {"epoch": 1, "step": 19, "val/auroc": 0.9, "train/loss": None},
    {"epoch": 2, "step": 29, "val/auroc": 0.9},
    {"epoch": 3, "step": 39, "val/auroc": math.nan},
]


def test_empty_cells_are_no_points():
    assert series(ROWS, "train/loss", "step") == ([4, 9], [0.9, 0.7])
    assert series(ROWS, "lr/head", "step") == ([], [])
    assert names(ROWS) == ["train/loss", "val/auroc"]


def test_cells_read_as_text_are_numbers():
    rows = [{"epoch": "0", "step": "4", "val/loss": "0.5"}, {"epoch": "1", "step": "", "val/loss": "1e-3"}]
    assert series(rows, "val/loss", "epoch") == ([0, 1], [0.5, 0.001])
    assert series(rows, "val/loss", "step") == ([4], [0.5])


def test_a_broken_value_stays_in_the_curve_and_is_never_best():
    assert math.isnan(series(ROWS, "val/auroc", "epoch")[1][-1])
    assert best(ROWS, "val/auroc", "max").value == 0.9


def test_the_first_of_equals_is_best():
    assert best(ROWS, "val/auroc", "max").epoch == 1
    assert best(ROWS, "train/loss", "min").step == 9
    assert best(ROWS, "val/f1", "max") is None


def test_steps_are_the_axis_only_where_an_epoch_has_several_values():
    assert best_axis(ROWS) == "step"
    assert best_axis(ROWS[1:]) == "epoch"
    assert best_axis([{"epoch": 0, "x": 1.0}, {"epoch": 0, "x": 2.0}]) == "epoch"
    assert best_axis([]) == "epoch"
