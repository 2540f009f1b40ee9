import math

import pytest
from tapetum.reports.format import duration, number, percent
from tapetum.reports.terminal import generator_table, metrics_table, run_line

from reports.pages import printed, row

METRICS = {
    "test/accuracy": 0.91,
    "val/auroc": 0.98,
    "test/auroc": math.nan,
    "test/generator/ADM/accuracy": 0.88,
    "epochs": 7,
}


def test_val_stands_before_test_and_what_chose_is_marked():
    text = printed(metrics_table(METRICS, monitor="val/auroc"))
    header = text.splitlines()[1]
    assert header.index("val") < header.index("test")
    assert "* 0.9800" in row(text, "auroc")
    assert text.count("* 0") == 1
    assert "* val/auroc chose the checkpoint" in text
    assert "test figures chose nothing" in " ".join(text.split())


def test_undefined_is_said_and_absent_is_empty():
    text = printed(metrics_table(METRICS))
    assert "undefined" in row(text, "auroc")
    assert row(text, "accuracy").count("0.") == 1
    assert "chose the checkpoint" not in text


def test_generators_have_a_table_of_their_own_with_mean_and_minimum():
    assert "ADM" not in printed(metrics_table(METRICS))
    figures = {
        f"test/{name}/balanced_accuracy": value
        for name, value in {"generator/ADM": 0.88, "generator/a/b": 0.7, "generator_mean": 0.79}.items()
    }
    text = printed(generator_table(figures))
    assert "0.8800" in row(text, "ADM")
    assert "0.7000" in row(text, "a/b")
    assert "0.7900" in row(text, "mean")
    assert generator_table({"test/accuracy": 0.9}) is None


def test_the_run_has_a_line():
    figures = {"run/best_epoch": 7.0, "run/epochs": 10.0, "run/steps": 1340.0, "run/seconds": 80.0}
    assert run_line(figures) == "best epoch 7, 10 epochs run, 1,340 steps, 1 min 20 s"
    assert run_line({"run/epochs": 1.0}) == "1 epoch run"
    assert run_line({"test/accuracy": 0.9}) == ""
    assert "best_epoch" not in printed(metrics_table({**figures, "test/accuracy": 0.9}))


def test_intervals_stand_beside_their_split():
    text = printed(metrics_table(METRICS, intervals={"test/accuracy": (0.9, 0.92)}))
    assert "0.9000–0.9200" in row(text, "accuracy")
    assert text.count("95 % interval") == 1


def test_markup_in_a_name_is_text():
    assert "[red]x[/red]" in printed(metrics_table({"test/[red]x[/red]": 1.0}))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "undefined"),
        (math.inf, "∞"),
        (0.0, "0.0000"),
        (0.98765, "0.9877"),
        (1.5e-7, "1.50e-07"),
        (12, "12"),
        (1234.0, "1,234"),
    ],
)
def test_numbers_are_written(value, text):
    assert number(value) == text


def test_shares_and_durations_have_units():
    assert percent(0.9123) == "91.2 %"
    assert percent(math.nan) == "undefined"
    assert [duration(s) for s in (41.4, 372.4, 11100)] == ["41 s", "6 min 12 s", "3 h 05 min"]
