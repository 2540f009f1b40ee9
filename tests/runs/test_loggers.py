"""Trackers by themselves: what they are told, what they do when the other side hangs, dies, comes back."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import wandb
import yaml
from mlflow import MlflowClient
from tapetum.errors import ConfigError, TapetumError
from tapetum.runs.directory import RunDirectory
from tapetum.runs.mlflow_logger import MLflow, check_uri, parameters, send
from tapetum.runs.trackers import FinishedRun, Tracker, labels, recall, remember
from tapetum.runs.wandb_logger import WandB

from commands.tracker_servers import mlflow_server, of_type, wandb_records

CONFIG = {
    "task": "detection",
    "name": "mine",
    "model": {"net": {"_target_": "tapetum.detectors.npr.NPR"}},
    "data": {"root": "/somewhere/photos"},
    "logger": {},
}


@pytest.fixture
def made(tmp_path) -> Path:
    """The directory of a run that has just begun."""
    directory = tmp_path / "outputs" / "detection" / "mine" / "2026-11-21_12-00-00-abcdef"
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return directory


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    MlflowClient(uri).search_experiments()
    return uri


@pytest.fixture(autouse=True)
def heard(caplog):
    caplog.set_level(logging.INFO, logger="tapetum")
    logging.getLogger("tapetum").propagate = True


def history(uri: str, made: Path, name: str) -> list[tuple[int, float]]:
    found = MlflowClient(uri).get_metric_history(recall(made, "mlflow")["run_id"], name)
    return [(point.step, point.value) for point in found]


# -- names ---------------------------------------------------------------------------------------------------


def test_a_run_is_called_after_its_directory_and_a_job_after_its_sweep(made, tmp_path):
    own = labels(made, CONFIG)
    assert (own.name, own.group) == (f"mine/{made.name}", None)
    assert own.tags == {"task": "detection", "model": "NPR", "data": "photos"}
    sweep = tmp_path / "sweeps" / "sizes" / "2026-11-21_12-00-00-abcdef"
    (sweep / "3").mkdir(parents=True)
    (sweep / "sweep.yaml").write_text("jobs: {3: [seed=4]}\nwords: []\nswept: []\n")
    job = labels(sweep / "3", CONFIG)
    assert (job.name, job.group) == ("sizes/3", "sizes/2026-11-21_12-00-00-abcdef")


def test_what_is_remembered_of_one_tracker_leaves_the_others_alone(made):
    remember(made, "wandb", {"id": "a"})
    remember(made, "mlflow", {"uri": "b", "run_id": "c"})
    remember(made, "wandb", {"id": "d"})
    assert recall(made, "wandb") == {"id": "d"}
    assert recall(made, "mlflow") == {"uri": "b", "run_id": "c"}


def test_parameters_keep_to_mlflows_limits(database, made):
    config = {"a": {"b": 1, "c": None}, "long": "x" * 5000, "odd*key": [1, 2], "k" * 300: True}
    flat = parameters(config)
    assert {flat["a.b"], flat["a.c"], flat["odd_key"], flat["k" * 250]} == {"1", "None", "[1, 2]", "True"}
    assert len(flat["long"]) == 500
    assert flat["long"].endswith("…")
    many = {f"key{number}": number for number in range(250)}  # MLflow takes 100 at once
    logger = MLflow(made, tracking_uri=database)
    logger.log_hyperparams(config | many)
    logger.close("finished")
    stored = MlflowClient(database).get_run(recall(made, "mlflow")["run_id"]).data.params
    assert stored == parameters(config | many)


# -- mlflow --------------------------------------------------------------------------------------------------


def test_steps_do_not_wait_for_a_server_that_never_answers(made, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.perf_counter()
        logger = MLflow(made, tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}", finish_timeout=0.5)
        time.sleep(0.2)  # the thread is in the middle of its first question
        for step in range(1000):
            before = time.perf_counter()
            logger.log_metrics({"val/auroc": 0.5}, step)
            assert time.perf_counter() - before < 1.0
        logger.close("finished")
    assert time.perf_counter() - began < 30
    assert "did not get everything (not done within 0.5 s)" in caplog.text


def test_a_server_that_comes_back_gets_what_it_missed(made, database, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("tapetum.runs.mlflow_logger._RETRY_S", 0.2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    served = tmp_path / "served"
    served.mkdir()
    (served / "mlflow.db").write_bytes(Path(database.removeprefix("sqlite:///")).read_bytes())
    with mlflow_server(served) as port:
        logger = MLflow(made, tracking_uri=f"http://127.0.0.1:{port}", experiment="served")
        logger.log_metrics({"val/auroc": 0.1}, 1)
        _until(lambda: logger._calls.empty() and bool(logger.version))
    logger.log_metrics({"val/auroc": 0.2}, 2)
    _until(lambda: "can't be used" in caplog.text)
    logger.log_metrics({"val/auroc": 0.3}, 3)
    with mlflow_server(served, port):
        _until(lambda: "answers again" in caplog.text)
        logger.log_metrics({"val/auroc": 0.4}, 4)
        logger.close("finished")
    assert "did not get everything" not in caplog.text
    assert caplog.text.count("can't be used") == 1
    found = history(f"sqlite:///{served}/mlflow.db", made, "val/auroc")
    assert found == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]


def test_what_mlflow_refuses_is_told_and_the_rest_goes_on(made, database, caplog):
    logger = MLflow(made, tracking_uri=database)
    logger.log_metrics({"not/a*name": 1.0}, 1)
    logger.log_metrics({"val/auroc": 0.7}, 2)
    logger.close("finished")
    assert "MLflow refused something and goes on without it" in caplog.text
    assert "did not get everything" not in caplog.text
    assert history(database, made, "val/auroc") == [(2, 0.7)]


def test_a_run_that_was_deleted_at_mlflow_is_made_anew(made, database):
    first = MLflow(made, tracking_uri=database)
    first.log_metrics({"val/auroc": 0.1}, 1)
    first.close("interrupted")
    before = recall(made, "mlflow")["run_id"]
    assert MlflowClient(database).get_run(before).info.status == "KILLED"
    MlflowClient(database).delete_run(before)
    again = MLflow(made, tracking_uri=database)
    again.log_metrics({"val/auroc": 0.2}, 2)
    again.close("finished")
    assert recall(made, "mlflow")["run_id"] != before
    assert history(database, made, "val/auroc") == [(2, 0.2)]


def test_nan_reaches_mlflow_as_nan(made, database):
    logger = MLflow(made, tracking_uri=database)
    logger.log_metrics({"test/auroc": float("nan")}, 1)
    logger.close("finished")
    ((step, value),) = history(database, made, "test/auroc")
    assert step == 1
    assert value != value


def test_send_says_what_is_missing(made):
    with pytest.raises(TapetumError, match="was not logged to MLflow: say where to"):
        send(made)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TapetumError, match=r"can't take .*Connection refused"):
        send(made, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "uri", ["sqlite:///a.db", "http://host:5000", "https://host", "databricks", "postgresql://h/d"]
)
def test_addresses_of_databases_and_servers_are_taken(uri):
    check_uri(uri)


@pytest.mark.parametrize("uri", ["", "mlruns", "file:///mlruns", "C:\\mlruns", "s3://bucket"])
def test_other_addresses_are_refused(uri):
    with pytest.raises(ConfigError, match=r"sqlite:///DIR/mlflow.db"):
        check_uri(uri)


# -- wandb ---------------------------------------------------------------------------------------------------


def test_a_large_predictions_table_is_shown_as_evenly_spaced_rows(made):
    table = pa.table({"index": list(range(1001)), "path": [f"{number}.png" for number in range(1001)]})
    run = RunDirectory(made)
    run.predictions("test").parent.mkdir()
    pq.write_table(table, run.predictions("test"))
    logger = WandB(made, mode="offline", table_rows=11)
    assert isinstance(logger, Tracker)
    logger.log_finished(FinishedRun(run, 5, {"test/auroc": 0.5}))
    logger.close("finished")
    (file,) = made.glob("wandb/offline-run-*/files/media/table/predictions/test_*.table.json")
    assert [row[0] for row in json.loads(file.read_text())["data"]] == list(range(0, 1001, 100))


def test_tags_notes_and_project_arrive(made):
    logger = WandB(made, project="p", tags=["mine", "x" * 80], notes="a word", mode="offline")
    logger.close("interrupted")
    (directory,) = made.glob("wandb/offline-run-*")
    found = wandb_records(directory)
    (began,) = of_type(found, "run")
    assert began["tags"] == ["detection", "NPR", "photos", "mine", "x" * 64]
    assert (began["project"], began["notes"]) == ("p", "a word")
    assert of_type(found, "exit")[0]["exit_code"] == 1


def test_training_goes_on_when_wandbs_process_is_killed(made, caplog):
    wandb.teardown()  # so that the process is a new one
    logger = WandB(made, mode="offline")
    logger.log_metrics({"val/auroc": 0.1}, 1)
    asked = ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())]
    children = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    (core,) = [int(line.split()[0]) for line in children if "wandb-core" in line]
    os.kill(core, signal.SIGKILL)
    time.sleep(0.5)
    for step in range(2, 5):
        logger.log_metrics({"val/auroc": 0.2}, step)
    logger.log_finished(FinishedRun(RunDirectory(made), 5, {"test/auroc": 0.5}))
    logger.close("finished")
    assert caplog.text.count("W&B stopped working") == 1
    assert str(made / "metrics.csv") in caplog.text
    with contextlib.suppress(ConnectionError):
        wandb.teardown()


def _until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
