import csv
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapetum.runs.history import MetricsCsv, read_history


def test_new_columns_keep_what_was_logged_before(tmp_path):
    history = MetricsCsv(tmp_path / "metrics.csv")
    history.log_metrics({"loss": 0.5, "epoch": 0}, step=1)
    history.log_metrics({"val/auroc": 0.75, "epoch": 0.0}, step=1)
    history.log_metrics({"loss": float("nan")}, step=2)
    first, second, third = read_history(tmp_path / "metrics.csv")
    assert first == {"epoch": 0, "step": 1, "loss": 0.5}
    assert second == {"epoch": 0, "step": 1, "val/auroc": 0.75}
    assert third["step"] == 2
    assert math.isnan(third["loss"])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["epoch", "step", "loss", "val/auroc"]


def test_a_resumed_run_drops_what_lies_behind_its_checkpoint_and_goes_on(tmp_path):
    before = MetricsCsv(tmp_path / "metrics.csv")
    for step in range(1, 6):
        before.log_metrics({"loss": step / 10, "epoch": 0}, step=step)
    before.log_metrics({"val/loss": 0.3, "epoch": 0}, step=5)
    resumed = MetricsCsv(tmp_path / "metrics.csv")
    resumed.truncate(3)
    resumed.log_metrics({"loss": 0.44, "epoch": 0}, step=4)
    rows = read_history(tmp_path / "metrics.csv")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.44)]


def test_nothing_to_truncate_is_no_error(tmp_path):
    MetricsCsv(tmp_path / "metrics.csv").truncate(3)
    assert not (tmp_path / "metrics.csv").exists()


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=True), min_size=1, max_size=5))
def test_numbers_come_back_as_they_were(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("history") / "metrics.csv"
    history = MetricsCsv(path)
    for step, value in enumerate(values):
        history.log_metrics({"value": value}, step=step)
    assert [row["value"] for row in read_history(path)] == values


@pytest.mark.parametrize("cut", range(1, 18))
def test_a_line_that_was_cut_off_is_left_out_and_not_continued(tmp_path, cut):
    path = tmp_path / "metrics.csv"
    history = MetricsCsv(path)
    history.log_metrics({"loss": 0.125, "epoch": 0}, step=11)
    whole = path.read_bytes()
    history.log_metrics({"loss": 0.0625, "epoch": 0}, step=12)
    last = len(path.read_bytes()) - len(whole)
    path.write_bytes(path.read_bytes()[: -min(cut, last)])
    assert [row["step"] for row in read_history(path)] == [11]
    MetricsCsv(path).log_metrics({"loss": 0.5, "epoch": 0}, step=12)
    assert [(row["step"], row["loss"]) for row in read_history(path)] == [(11, 0.125), (12, 0.5)]
