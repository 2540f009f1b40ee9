"""How a run ended, read from what a real log left behind."""

import logging

import pytest
from rich.console import Console
from tapetum.errors import TrainingError
from tapetum.runs.directory import RunDirectory, write_json
from tapetum.runs.ending import ending
from tapetum.runs.logs import logging_to


def log_of(run: RunDirectory, error: BaseException | None) -> None:
    run.path.mkdir(exist_ok=True)
    with logging_to(run.log, Console(quiet=True)):
        logging.getLogger("tapetum").info("epoch 1/3  train/loss 0.5")
        if error is not None:
            raise error


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


def test_a_defect_is_named_by_the_last_line_of_its_traceback(run):
    with pytest.raises(ZeroDivisionError):
        log_of(run, ZeroDivisionError("my own mistake"))
    found = ending(run)
    assert not found.finished
    assert found.reason == "ZeroDivisionError: my own mistake (train.log)"
    assert found.sentence(0, 3) == (
        "did not finish: it crashed in epoch 1 of 3: ZeroDivisionError: my own mistake (train.log)"
    )
    assert found.sentence(2, -1).startswith("did not finish: 2 epochs are complete, then it stopped: ")


def test_an_error_that_explains_itself_is_its_message_cut_to_a_line(run):
    with pytest.raises(TrainingError):
        log_of(run, TrainingError("the loss became nan " * 20))
    reason = ending(run).reason
    assert reason.startswith("the loss became nan the loss")
    assert reason.endswith(" … (train.log)")
    assert len(reason) < 180


def test_a_run_that_goes_on_after_an_error_has_no_end(run):
    with pytest.raises(TrainingError):
        log_of(run, TrainingError("no"))
    log_of(run, None)
    assert ending(run).sentence(1, 3) == (
        "has not finished: 1 of 3 epochs are complete, and no end is recorded; "
        "it is still running, or was killed"
    )


def test_a_run_without_a_log_has_no_end(run):
    assert "no epoch is complete, and no end is recorded" in ending(run).sentence(0, None)


def test_final_figures_finish_a_run(run):
    with pytest.raises(TrainingError):
        log_of(run, TrainingError("no"))
    write_json(run.metrics, {})
    assert ending(run).finished
    assert ending(run).sentence(3, 3) == ""
