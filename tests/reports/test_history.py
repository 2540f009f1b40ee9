import math

from tapetum.reports.history import best, curve, epochs_run, names, series

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


def test_a_value_stands_where_its_epoch_was():
    rows = [
        {"epoch": 0, "step": 5, "x": 1.0},
        {"epoch": 0, "step": 10, "x": 2.0, "val/auroc": 0.5},
        {"epoch": 1, "step": 14, "x": 3.0},
        {"epoch": 1, "step": 18, "train/loss": 0.1},
        {"epoch": 2, "step": 18, "val/auroc": 0.6},  # averaged weights, behind the last epoch
    ]
    assert curve(rows, "x") == ([0.5, 1.0, 1.5], [1.0, 2.0, 3.0])
    assert curve(rows, "val/auroc") == ([1.0, 2.0], [0.5, 0.6])
    assert curve(rows, "nothing") == ([], [])


def test_without_steps_a_value_stands_at_the_end_of_its_epoch():
    assert curve([{"epoch": 0, "x": 1.0}, {"epoch": 1, "x": 2.0}], "x") == ([1, 2], [1.0, 2.0])


def test_an_epoch_is_run_once_its_own_loss_is_written():
    assert epochs_run(ROWS) == 1
    assert epochs_run([{"epoch": 0, "step": 3, "train/loss_step": 0.5}]) == 0
