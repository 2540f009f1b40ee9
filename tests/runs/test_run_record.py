"""The directory, the log, the environment, the bar and the speed of a run."""

import io
import json
import math
import re
import subprocess
import time

import lightning
import pytest
import torch
from rich.console import Console
from tapetum.errors import CheckpointError, DataError, TapetumError
from tapetum.runs.directory import RunDirectory, create_run, open_run, unfinished_runs, write_json
from tapetum.runs.environment import environment, git_state
from tapetum.runs.logs import log, logging_to
from tapetum.runs.progress import TrainingProgress

from modules.training import detector, fit, history


def config(tmp_path) -> dict:
    return {
        "task": "detection",
        "name": "npr-folder",
        "paths": {"outputs": str(tmp_path)},
        "größe": [1, None],
    }


def test_a_run_is_made_once_and_opened_by_directory_or_checkpoint(tmp_path):
    run = create_run(config(tmp_path))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{6}", run.path.name)
    assert run.path.parent == tmp_path / "detection" / "npr-folder"
    assert run.read_config() == config(tmp_path)
    assert open_run(run.path).path == open_run(run.checkpoints / "best.ckpt").path == run.path
    with pytest.raises(TapetumError, match=rf"already holds a run: continue it with resume={run.path}"):
        create_run(config(tmp_path), run.path)
    with pytest.raises(TapetumError, match=r"is not a run: a run's directory holds a config.yaml"):
        open_run(tmp_path)


def test_a_missing_checkpoint_is_told_with_what_there_is(tmp_path):
    run = create_run(config(tmp_path))
    with pytest.raises(CheckpointError, match="has no checkpoint 'best': it has none at all"):
        run.checkpoint("best")
    (run.checkpoints / "last.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"has no checkpoint 'best': it has last$"):
        run.checkpoint("best")
    assert run.best_or_last().name == "last.ckpt"


def test_unfinished_runs_have_a_checkpoint_and_no_figures_the_latest_first(tmp_path):
    runs = []
    for name in ("2026-01-01_00-00-00-ffffff", "2026-01-02_00-00-00-000000", "2026-01-03_00-00-00-aaaaaa"):
        run = create_run(config(tmp_path), tmp_path / "detection" / "npr-folder" / name)
        (run.checkpoints / "last.ckpt").touch()
        runs.append(run)
    create_run(config(tmp_path))  # stopped before its first checkpoint
    write_json(runs[2].metrics, {})
    assert unfinished_runs(tmp_path, "detection", "npr-folder") == [runs[1], runs[0]]
    assert RunDirectory(runs[2].path).finished


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"schön": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"b": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"schön": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_environment_names_versions_and_hardware_as_plain_data():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"] == torch.__version__.split("+")[0]  # without the build's tag
    assert found["packages"]["lightning"] == lightning.__version__
    assert found["cpu"]["cores"] >= 1
    assert found["memory_gb"] > 0.1


def test_git_state_knows_a_changed_tree(tmp_path):
    assert git_state(tmp_path) is None

    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").touch()
    git("add", "a")
    git("-c", "user.name=n", "-c", "user.email=e", "commit", "-m", "m")
    clean = git_state(tmp_path)
    assert clean["dirty"] is False
    assert re.fullmatch("[0-9a-f]{40}", clean["sha"])
    (tmp_path / "a").write_text("changed")
    assert git_state(tmp_path) == {**clean, "dirty": True}


def test_messages_go_to_the_console_and_with_times_to_the_file(tmp_path):
    heard = io.StringIO()
    with logging_to(tmp_path / "train.log", Console(file=heard, width=20)):
        log.info("epoch [bold]1/2[/bold] and a line that is longer than the console is wide")
        log.warning("no validation split")
    log.info("said to nobody")
    assert heard.getvalue().splitlines() == [
        "epoch [bold]1/2[/bold] and a line that is longer than the console is wide",
        "no validation split",
    ]
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [re.sub(r"^[-\d]+ [:,\d]+ ", "", line) for line in lines] == [
        "INFO epoch [bold]1/2[/bold] and a line that is longer than the console is wide",
        "WARNING no validation split",
    ]


def test_the_log_says_why_a_run_ended(tmp_path):
    heard = io.StringIO()

    def ends_with(error):
        with pytest.raises(type(error)), logging_to(tmp_path / "train.log", Console(file=heard)):
            raise error
        return (tmp_path / "train.log").read_text()

    assert ends_with(DataError("image a.jpg can't be used")).endswith("ERROR image a.jpg can't be used\n")
    assert "Traceback" in ends_with(ZeroDivisionError("a defect of ours"))
    assert "stopped by KeyboardInterrupt" in ends_with(KeyboardInterrupt())
    assert heard.getvalue() == ""  # whoever catches it says it there


def test_without_a_terminal_each_epoch_is_one_line(tmp_path):
    heard, said = io.StringIO(), io.StringIO()
    progress = TrainingProgress(Console(file=heard), "val/auroc")
    with logging_to(tmp_path / "train.log", Console(file=said)):
        fit(detector(), tmp_path, max_epochs=2, enable_progress_bar=True, callbacks=[progress])
    lines = said.getvalue().splitlines()
    assert len(lines) == 2
    ends = [row for row in history(tmp_path) if "train/loss" in row]
    values = [row["val/auroc"] for row in history(tmp_path) if "val/auroc" in row]
    for number, line in enumerate(lines):
        assert line.startswith(f"epoch {number + 1}/2  train/loss {ends[number]['train/loss']:.4f}  ")
        assert f"val/auroc {values[number]:.4f}" in line
        assert line.count("val/auroc") == 1
    assert heard.getvalue() == ""


def test_on_a_terminal_a_bar_shows_loss_and_speed(tmp_path):
    heard = io.StringIO()
    console = Console(file=heard, force_terminal=True, width=160)
    fit(detector(), tmp_path, enable_progress_bar=True, callbacks=[TrainingProgress(console)])
    shown = heard.getvalue()
    assert "epoch 1/1" in shown
    assert "8/8" in shown
    assert re.search(r"loss \d\.\d{4} \(mean \d\.\d{4}\)\s+\d+ images/s", shown)


def test_speed_counts_training_and_waiting_but_not_validation(tmp_path):
    class Slow(lightning.Callback):
        def on_validation_start(self, trainer, module):
            time.sleep(1.0)

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            time.sleep(0.02)

    began = time.perf_counter()
    fit(detector(), tmp_path, callbacks=[Slow()], num_sanity_val_steps=0)
    whole = time.perf_counter() - began
    (row,) = (row for row in history(tmp_path) if "train/loss" in row)
    assert 32 / (whole - 1.0) < row["speed/images_per_second"] < 32 / (8 * 0.02)


def test_an_undefined_figure_is_null_on_the_disk_and_nan_when_read(tmp_path):
    run = RunDirectory(tmp_path)
    write_json(run.metrics, {"test/auroc": math.nan, "test/accuracy": 0.5, "nested": {"a": [math.inf, 1]}})
    text = run.metrics.read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "test/auroc": None,
        "test/accuracy": 0.5,
        "nested": {"a": [None, 1]},
    }
    write_json(run.metrics, {"test/auroc": math.nan, "test/accuracy": 0.5})
    found = run.read_metrics()
    assert math.isnan(found["test/auroc"])
    assert found["test/accuracy"] == 0.5
