import csv
import math
from pathlib import Path

import pytest
import tapetum
from hypothesis import given
from hypothesis import strategies as st
from tapetum.errors import TapetumError
from tapetum.runs.directory import create_run
from tapetum.runs.history import MetricsCsv, read_history

from modules.training import detector, fit


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


@pytest.mark.parametrize(
    ("line", "problem"),
    [("0,7,much", "much"), ("0,7,1.0,2.0", "more cells"), ("nan,7,1.0", "NaN")],
)
def test_a_line_that_nobody_wrote_is_named(tmp_path, line, problem):
    path = tmp_path / "metrics.csv"
    path.write_text(f"epoch,step,loss\n0,6,0.5\n{line}\n")
    with pytest.raises(TapetumError, match=rf"metrics.csv is damaged behind line 2 \(.*{problem}"):
        read_history(path)


def test_a_file_of_other_columns_is_no_history(tmp_path):
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TapetumError, match=r"damaged behind line 1 \(its columns are a, b\)"):
        read_history(tmp_path / "metrics.csv")


# --- one row an epoch ---


def made(tmp_path: Path, rows: list[dict[str, float]], mode: str = "max", place: str = "run") -> Path:
    """A run's directory whose metrics.csv holds `rows`, monitored by `m`."""
    run = create_run({"task": "detection", "train": {"monitor": "m", "mode": mode}}, tmp_path / place)
    history = MetricsCsv(run.history)
    for row in rows:
        values = {name: value for name, value in row.items() if name != "step"}
        history.log_metrics(values, step=row["step"])
    return run.path


def test_a_trained_run_has_a_row_an_epoch_that_counts_from_one(tmp_path):
    config = {"task": "detection", "train": {"monitor": "val/auroc", "mode": "max"}}
    run = create_run(config, tmp_path / "run").path
    fit(detector(), run, max_epochs=2)
    table = tapetum.history(run)
    assert table["epoch"].to_pylist() == [1, 2]
    assert table["step"].to_pylist() == [8, 16]
    logged = read_history(run / "metrics.csv")
    for name in ("train/loss", "val/loss", "val/auroc", "lr/head", "speed/images_per_second"):
        values = {row["epoch"]: row[name] for row in logged if name in row}  # the last of each epoch
        assert table[name].to_pylist() == [values[0], values[1]], name
    best = max(table["val/auroc"].to_pylist())
    assert table["best"].to_pylist().count(True) == 1
    assert table["val/auroc"].to_pylist()[table["best"].to_pylist().index(True)] == best
    assert "train/loss_step" not in table.column_names
    images, seconds = table["speed/images_per_second"].to_pylist(), table["speed/epoch_seconds"].to_pylist()
    # 32 images were trained on; the epoch also holds its validation
    assert all(second > 32 / rate for rate, second in zip(images, seconds, strict=True))


@pytest.mark.parametrize(("mode", "best"), [("max", [False, True, False]), ("min", [True, False, False])])
def test_the_first_of_the_best_is_marked(tmp_path, mode, best):
    rows = [{"epoch": epoch, "step": epoch, "m": value} for epoch, value in enumerate([0.1, 0.9, 0.9])]
    assert tapetum.history(made(tmp_path, rows, mode))["best"].to_pylist() == best


def test_a_broken_value_is_kept_and_never_best(tmp_path):
    rows = [
        {"epoch": epoch, "step": epoch, "m": value} for epoch, value in enumerate([math.nan, 0.2, math.inf])
    ]
    table = tapetum.history(made(tmp_path, rows))
    assert math.isnan(table["m"].to_pylist()[0])
    assert table["best"].to_pylist() == [False, True, False]


def test_of_several_validations_the_best_one_stands_for_the_epoch(tmp_path):
    rows = [
        {"epoch": 0, "step": 5, "m": 0.7, "val/loss": 1.0},
        {"epoch": 0, "step": 10, "m": 0.6, "val/loss": 2.0},
        {"epoch": 0, "step": 10, "train/loss": 0.5},
        {"epoch": 1, "step": 15, "m": 0.5, "val/loss": 3.0},
        {"epoch": 1, "step": 20, "m": 0.8, "val/loss": 4.0},
    ]
    table = tapetum.history(made(tmp_path, rows))
    assert table["m"].to_pylist() == [0.7, 0.8]
    assert table["val/loss"].to_pylist() == [1.0, 4.0]
    assert table["step"].to_pylist() == [10, 20]
    assert table["best"].to_pylist() == [False, True]


def test_the_epoch_under_way_has_a_row_with_nothing_yet(tmp_path):
    rows = [
        {"epoch": 0, "step": 10, "m": 0.7},
        {"epoch": 0, "step": 10, "train/loss": 0.5},
        {"epoch": 1, "step": 14, "train/loss_step": 0.4, "lr/head": 0.01},
    ]
    run = made(tmp_path, rows)
    with (run / "metrics.csv").open("a") as file:
        file.write("1,16,")  # and a line that is being written
    table = tapetum.history(run)
    assert table.column_names == ["epoch", "step", "lr/head", "train/loss", "m", "best"]
    assert table.to_pylist()[1] == {
        "epoch": 2, "step": 14, "lr/head": 0.01, "train/loss": None, "m": None, "best": False,
    }  # fmt: skip


def test_a_row_without_an_epoch_belongs_to_the_next_that_names_one(tmp_path):
    rows = [
        {"step": 3, "lr-AdamW": 0.1},
        {"epoch": 0, "step": 10, "m": 0.7},
        {"step": 13, "lr-AdamW": 0.2},
        {"epoch": 1, "step": 20, "m": 0.8},
        {"step": 21, "lr-AdamW": 0.3},
    ]
    assert tapetum.history(made(tmp_path, rows))["lr-AdamW"].to_pylist() == [0.1, 0.3]


def test_averaged_weights_that_are_validated_behind_the_last_epoch_are_no_epoch(tmp_path):
    rows = [
        {"epoch": 0, "step": 10, "m": 0.7},
        {"epoch": 0, "step": 10, "train/loss": 0.5},
        {"epoch": 1, "step": 10, "m": 0.9},
    ]
    table = tapetum.history(made(tmp_path, rows))
    assert table.select(["epoch", "m", "best"]).to_pylist() == [{"epoch": 1, "m": 0.9, "best": True}]


def test_a_run_that_crashed_before_it_logged_anything_has_no_row(tmp_path):
    run = create_run({"task": "detection", "train": {"monitor": "m", "mode": "max"}}, tmp_path / "run").path
    table = tapetum.history(run)
    assert table.num_rows == 0
    assert table.column_names == ["epoch", "step", "best"]


def test_a_sweeps_job_and_a_checkpoint_are_runs(tmp_path):
    rows = [{"epoch": 0, "step": 10, "m": 0.7}]
    job = made(tmp_path, rows, place="sweeps/sizes/2026/0")
    (job / "checkpoints" / "best.ckpt").touch()
    assert tapetum.history(job).num_rows == 1
    assert tapetum.history(job / "checkpoints" / "best.ckpt").num_rows == 1


def test_what_is_no_run_is_told_which_runs_there_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(tmp_path / "nothing"))
    job = made(tmp_path, [], place="outputs/sweeps/sizes/2026/0")
    sweep = job.parent
    (sweep / "sweep.yaml").touch()
    with pytest.raises(TapetumError, match=rf"{sweep} is a sweep, and each of its jobs a run. .*: {job}$"):
        tapetum.history(sweep)
    with pytest.raises(TapetumError, match=rf"outputs is not a run: .* latest first: {job}$"):
        tapetum.history(tmp_path / "outputs")
    with pytest.raises(TapetumError, match=rf"no directory .*/1. These are runs, latest first: {job}$"):
        tapetum.history(sweep / "1")
    with pytest.raises(TapetumError, match=r"sweep.yaml is a file: a run is a directory"):
        tapetum.history(sweep / "sweep.yaml")
    evaluation = job / "evaluations" / "folder-abc"
    evaluation.mkdir(parents=True)
    (evaluation / "config.yaml").touch()
    with pytest.raises(
        TapetumError, match=rf"holds an evaluation: nothing was trained there. The run is {job}$"
    ):
        tapetum.history(evaluation)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(TapetumError, match=r"There are no runs in .*nothing: python train.py makes one"):
        tapetum.history(empty)
