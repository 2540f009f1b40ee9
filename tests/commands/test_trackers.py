"""Trackers through the command line: what arrives, under which names, and what happens when one is absent."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import wandb
import yaml
from mlflow import MlflowClient
from tapetum.evaluation.curves import most_confidently_wrong
from tapetum.runs.resume import flatten
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commands.experiments import jobs_in_this_process, run, runs, tiny, train
from commands.tracker_servers import WandbServer, mlflow_server, of_type, wandb_records

ALL = ("logger=[wandb,tensorboard,mlflow]", "logger.wandb.mode=offline")
SERVED = ("logger=mlflow", "logger.mlflow.experiment=served")
BESIDES = {"epoch", "trainer/global_step"}
"""Names that are axes."""


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    """One for all: making its tables takes MLflow seven seconds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    MlflowClient(uri).search_experiments()
    return uri


@pytest.fixture(scope="module")
def tracked(folder, tmp_path_factory, database) -> Path:
    """A run of two epochs that nothing may change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NETRC", "/nonexistent")
        outputs = tmp_path_factory.mktemp("tracked")
        uri = f"logger.mlflow.tracking_uri={database}"
        words = ("trainer.max_epochs=2", "trainer.log_every_n_steps=2", "train.report=true")
        return train(folder, outputs, *ALL, uri, *words)


@pytest.fixture(scope="module")
def records(tracked) -> list[dict]:
    (directory,) = (tracked / "wandb").glob("offline-run-*")
    return wandb_records(directory)


@pytest.fixture(scope="module")
def events(tracked) -> EventAccumulator:
    found = EventAccumulator(str(tracked / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def config(made: Path) -> dict:
    return yaml.safe_load((made / "config.yaml").read_text())


def final(made: Path) -> dict[str, float]:
    return json.loads((made / "metrics.json").read_text())


def curves(made: Path) -> dict[str, list[tuple[int, float]]]:
    """name → (step, value) of everything in metrics.csv."""
    found: dict[str, list[tuple[int, float]]] = {}
    with (made / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name not in ("epoch", "step") and value:
                    found.setdefault(name, []).append((int(row["step"]), float(value)))
    return found


def expected(made: Path) -> dict[str, list[tuple[int, float]]]:
    """What every tracker must hold: the curves, and the final figures that have none, at the last step."""
    logged, last = curves(made), final(made)
    step = int(last["run/steps"])
    return logged | {name: [(step, value)] for name, value in last.items() if name not in logged}


def same(found: dict[str, list[tuple[int, float]]], wanted: dict[str, list[tuple[int, float]]]) -> None:
    assert found.keys() == wanted.keys()
    for name, points in wanted.items():
        np.testing.assert_allclose(found[name], points, rtol=1e-6, err_msg=name)  # event files hold float32


def mlflow_run(made: Path, database: str):
    known = json.loads((made / "trackers.json").read_text())["mlflow"]
    return MlflowClient(database).get_run(known["run_id"])


def mlflow_points(made: Path, database: str) -> dict[str, list[tuple[int, float]]]:
    stored, client = mlflow_run(made, database), MlflowClient(database)
    history = {name: client.get_metric_history(stored.info.run_id, name) for name in stored.data.metrics}
    return {name: [(point.step, point.value) for point in points] for name, points in history.items()}


def without_axes(points: dict) -> dict:
    return {name: value for name, value in points.items() if name not in BESIDES}


# -- figures, config and files of a run come back out --------------------------------------------------------


def test_wandb_holds_the_figures_of_metrics_csv_and_json_under_the_same_names(tracked, records):
    found: dict[str, list[tuple[int, float]]] = {}
    for row in of_type(records, "history"):
        item = row["item"]
        for name, value in item.items():
            if isinstance(value, int | float) and not name.startswith("_") and "._" not in name:
                found.setdefault(name, []).append((item["trainer/global_step"], value))
    media = re.compile(r"(report|predictions)/\w+\.|most_confidently_wrong\.")
    same(
        {name: value for name, value in without_axes(found).items() if not media.match(name)},
        expected(tracked),
    )


def test_the_summary_of_wandb_is_metrics_json(tracked, records):
    summary: dict[str, object] = {}
    for record in of_type(records, "summary"):
        summary |= record["update"]
    last = final(tracked)
    assert {name: summary[name] for name in last} == pytest.approx(last)


def test_tensorboard_holds_the_figures_of_metrics_csv_and_json_under_the_same_names(tracked, events):
    found = {
        name: [(point.step, point.value) for point in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    same(without_axes(found), expected(tracked))


def test_mlflow_holds_the_figures_of_metrics_csv_and_json_under_the_same_names(tracked, database):
    same(without_axes(mlflow_points(tracked, database)), expected(tracked))


def test_every_tracker_has_the_resolved_config(tracked, records, events, database):
    wanted = config(tracked)
    sent = of_type(records, "config")[-1]["update"]
    assert {key: sent[key] for key in wanted} == wanted
    (text,) = events.Tensors("config/text_summary")
    assert yaml.safe_load(text.tensor_proto.string_val[0]) == wanted
    assert yaml.safe_load((tracked / "tensorboard" / "hparams.yaml").read_text()) == wanted
    params = mlflow_run(tracked, database).data.params
    assert params == {key: str(value) for key, value in flatten(wanted).items()}


def test_names_and_tags_lead_back_to_the_run(tracked, records, database):
    name = f"timm_backbone-folder/{tracked.name}"
    (began,) = of_type(records, "run")
    assert (began["display_name"], began["project"]) == (name, "tapetum")
    assert began["tags"] == ["detection", "test_resnet.r160_in1k", "photos"]
    stored = mlflow_run(tracked, database)
    assert stored.info.run_name == name
    assert (
        stored.data.tags.items() >= {"task": "detection", "data": "photos", "directory": str(tracked)}.items()
    )
    assert stored.info.status == "FINISHED"
    (ended,) = of_type(records, "exit")
    assert ended.get("exit_code", 0) == 0


def test_wandb_gets_checkpoint_and_predictions_as_artifacts_that_lie_in_the_run(tracked, records):
    artifacts = {one["type"]: one for one in of_type(records, "artifact")}
    model = artifacts["model"]
    (stored,) = model["manifest"]["contents"]
    best = tracked / "checkpoints" / "best.ckpt"
    assert stored["digest"] == base64.b64encode(hashlib.md5(best.read_bytes()).digest()).decode()
    assert Path(stored["local_path"]) == best
    assert "best" in model["aliases"]
    metadata = json.loads(model["metadata"])
    described = json.loads(best.with_suffix(".json").read_text())
    assert metadata["epoch"] == described["epoch"] + 1
    assert metadata["monitored"] == described["monitored"]
    assert metadata["config"] == config(tracked)
    files = {Path(one["local_path"]) for one in artifacts["predictions"]["manifest"]["contents"]}
    assert files == {tracked / "predictions" / f"{split}.parquet" for split in ("val", "test")}
    for one in artifacts["run_table"]["manifest"]["contents"]:
        assert Path(one["local_path"]).is_relative_to(tracked)


def test_wandb_gets_plots_page_table_and_the_images_that_the_report_shows(tracked, records):
    row = of_type(records, "history")[-2]["item"]
    plots = {file.stem for file in (tracked / "report").glob("*.png")}
    assert plots == {
        name.split(".")[0].removeprefix("report/") for name in row if name.startswith("report/")
    } - {"page"}
    assert "report/page._type" in row
    predictions = pq.read_table(tracked / "predictions" / "test.parquet")
    wrong = most_confidently_wrong(predictions)
    captions = row["most_confidently_wrong.captions"]
    assert [one.split(":")[0] for one in captions] == wrong["path"].to_pylist()
    (table,) = (tracked / "wandb").glob("offline-run-*/files/media/table/predictions/test_*.table.json")
    shown = json.loads(table.read_text())
    assert shown["columns"] == predictions.column_names
    assert [line[0] for line in shown["data"]] == predictions["index"].to_pylist()


def test_tensorboard_gets_plots_images_and_a_row_of_hparams(tracked, events):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    images = events.Tags()["images"]
    plots = {f"report/{file.stem}" for file in (tracked / "report").glob("*.png")}
    wrong = most_confidently_wrong(pq.read_table(tracked / "predictions" / "test.parquet"))
    numbered = {f"most_confidently_wrong/{number:02}" for number in range(1, len(wrong) + 1)}
    assert set(images) == plots | numbered
    kept = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    row = HParamsPluginData.FromString(kept).session_start_info.hparams
    assert row["optimizer/lr"].number_value == pytest.approx(config(tracked)["optimizer"]["lr"])


def test_mlflow_gets_report_predictions_and_checkpoint(tracked, database):
    stored = mlflow_run(tracked, database)
    place = Path(stored.info.artifact_uri.removeprefix("file://"))
    assert place.is_relative_to(Path(database.removeprefix("sqlite:///")).parent)
    files = [
        "config.yaml",
        "metrics.json",
        "report/index.html",
        "predictions/test.parquet",
        "checkpoints/best.ckpt",
    ]
    for name in [*files, *(f"report/{file.name}" for file in (tracked / "report").glob("*.png"))]:
        assert (place / name).read_bytes() == (tracked / name).read_bytes()


# -- a run that goes on, fails, is one of a sweep ------------------------------------------------------------


def test_a_resumed_run_is_the_same_run_in_every_tracker(folder, tmp_path, database):
    more = (*ALL, f"logger.mlflow.tracking_uri={database}", "logger.wandb.checkpoint=false")
    made = train(folder, tmp_path, *more)
    before = json.loads((made / "trackers.json").read_text())
    assert run("train", *tiny(folder, tmp_path, *more, "trainer.max_epochs=2", f"resume={made}")) == 0
    assert json.loads((made / "trackers.json").read_text()) == before
    first, second = sorted((made / "wandb").glob("offline-run-*"))
    ids = [of_type(wandb_records(one), "run")[0] for one in (first, second)]
    assert [one["run_id"] for one in ids] == [before["wandb"]["id"]] * 2
    assert ids[1]["resume"]  # which makes wandb sync append the second to the first
    steps = [step for step, _ in mlflow_points(made, database)["val/auroc"]]
    assert steps == [step for step, _ in curves(made)["val/auroc"]]
    assert mlflow_run(made, database).info.status == "FINISHED"


def test_a_run_that_fails_has_failed_in_every_tracker(folder, tmp_path, database):
    more = (*ALL, f"logger.mlflow.tracking_uri={database}", "optimizer.lr=1e30", "scheduler.warmup_epochs=0")
    assert run("train", *tiny(folder, tmp_path, *more)) == 1
    (made,) = runs(tmp_path)
    assert mlflow_run(made, database).info.status == "FAILED"
    (directory,) = (made / "wandb").glob("offline-run-*")
    assert of_type(wandb_records(directory), "exit")[0]["exit_code"] == 1


def test_a_sweep_gives_one_finished_run_a_job_in_one_group(folder, tmp_path, database, monkeypatch):
    jobs_in_this_process(monkeypatch)
    more = (*ALL, f"logger.mlflow.tracking_uri={database}", "name=seeds", "seed=1,2")
    assert run("train", "-m", *tiny(folder, tmp_path, *more)) == 0
    (sweep,) = (tmp_path / "sweeps" / "seeds").iterdir()
    for number in ("0", "1"):
        (directory,) = (sweep / number / "wandb").glob("offline-run-*")
        found = wandb_records(directory)
        (began,) = of_type(found, "run")
        name = f"seed={int(number) + 1}"
        assert (began["display_name"], began["run_group"]) == (name, f"seeds/{sweep.name}")
        assert len(of_type(found, "exit")) == 1
        assert mlflow_run(sweep / number, database).data.tags["group"] == f"seeds/{sweep.name}"
        assert mlflow_run(sweep / number, database).info.status == "FINISHED"


def test_a_list_in_an_experiment_chooses_several_trackers(tmp_path):
    from hydra import compose, initialize_config_dir

    conf = tmp_path / "conf"
    shutil.copytree(Path(__file__).parents[2] / "conf", conf, ignore=shutil.ignore_patterns("local"))
    (conf / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# Mine.\ndefaults:\n  - override /logger: [wandb, tensorboard]\n  - _self_\n"
    )
    with initialize_config_dir(str(conf), version_base="1.3"):
        assert set(compose("train", ["experiment=mine"]).logger) == {"wandb", "tensorboard"}


def test_a_logger_of_lightning_gets_the_final_figures(folder, tmp_path):
    node = (
        "logger.plain._target_=lightning.pytorch.loggers.CSVLogger",
        f"logger.plain.save_dir={tmp_path}/csv",
    )
    made = train(folder, tmp_path / "outputs", *node, "trainer.log_every_n_steps=2")
    (file,) = (tmp_path / "csv").rglob("metrics.csv")
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert float(rows[-1]["test/auroc"]) == pytest.approx(final(made)["test/auroc"])


def test_fast_dev_run_starts_no_tracker(folder, tmp_path, database):
    client = MlflowClient(database)
    before = len(client.search_runs(["1"]))
    more = (*ALL, f"logger.mlflow.tracking_uri={database}", "debug=fast_dev_run")
    assert run("train", *tiny(folder, tmp_path, *more)) == 0
    assert len(client.search_runs(["1"])) == before


# -- a tracker that is not there -----------------------------------------------------------------------------


def with_account_at(server: WandbServer, overrides: list[str], monkeypatch, capsys) -> str:
    """Train, with success, where W&B is this server, which its settings learn from the environment once."""
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    wandb.teardown()
    try:
        assert run("train", *overrides) == 0
    finally:
        wandb.teardown()
    return capsys.readouterr().out


def test_without_an_account_wandb_is_offline_and_says_what_to_type(folder, tmp_path, capsys):
    made = train(folder, tmp_path, "logger=wandb")
    said = capsys.readouterr().out
    assert said.count("wandb sync") == 1
    assert f"there is no account here; wandb login, then wandb sync {made / 'wandb'}" in said
    assert list((made / "wandb").glob("offline-run-*"))


def test_online_without_an_account_is_an_error_before_the_run_exists(folder, tmp_path, capsys):
    assert run("train", *tiny(folder, tmp_path, "logger=wandb", "logger.wandb.mode=online")) == 2
    assert "type wandb login, or logger.wandb.mode=offline" in capsys.readouterr().err
    assert runs(tmp_path) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_an_absent_package_is_an_error_with_the_line_to_type(folder, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # what Python's import says of a package that is not there
    assert run("train", *tiny(folder, tmp_path, f"logger={name}")) == 2
    assert f"pip install 'tapetum[{name}]'" in capsys.readouterr().err
    assert runs(tmp_path) == []


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "mlflow.db"])
def test_mlflows_file_store_is_refused_with_the_line_to_type(folder, tmp_path, capsys, uri):
    overrides = tiny(folder, tmp_path, "logger=mlflow", f"logger.mlflow.tracking_uri={uri}")
    assert run("check", *overrides) == 2
    assert "type logger.mlflow.tracking_uri=sqlite:///DIR/mlflow.db" in capsys.readouterr().err


def test_a_password_in_the_address_is_refused_and_not_repeated(folder, tmp_path, capsys):
    address = "logger.mlflow.tracking_uri='http://ann:hunter2@example.org'"
    assert run("train", *tiny(folder, tmp_path, "logger=mlflow", address)) == 2
    said = capsys.readouterr().err
    assert "MLFLOW_TRACKING_PASSWORD" in said
    assert "hunter2" not in said


def test_offline_asks_nobody(folder, tmp_path, monkeypatch, capsys):
    server = WandbServer()
    overrides = tiny(folder, tmp_path, "logger=wandb", "logger.wandb.mode=offline")
    with_account_at(server, overrides, monkeypatch, capsys)
    assert server.seen == []


def test_disabled_by_the_environment_asks_nobody_and_leaves_nothing(folder, tmp_path, monkeypatch, capsys):
    server = WandbServer()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    said = with_account_at(server, tiny(folder, tmp_path, "logger=wandb"), monkeypatch, capsys)
    assert server.seen == []
    assert "wandb sync" not in said
    assert list(tmp_path.rglob("*.wandb")) == []


def test_wandb_that_dies_in_the_middle_costs_the_run_nothing(folder, tmp_path, monkeypatch, capsys):
    server = WandbServer(dies=True)
    more = (
        "trainer.max_epochs=3",
        "trainer.log_every_n_steps=1",
        "logger=wandb",
        "logger.wandb.finish_timeout=3",
    )
    overrides = tiny(folder, tmp_path, *more)
    said = with_account_at(server, overrides, monkeypatch, capsys)
    (made,) = runs(tmp_path)
    assert said.count(f"type wandb sync --include-online {made / 'wandb'}") == 1
    (online,) = (made / "wandb").glob("run-*")
    found = wandb_records(online)
    kept = [row["item"]["val/auroc"] for row in of_type(found, "history") if "val/auroc" in row["item"]]
    assert kept == pytest.approx([value for _, value in curves(made)["val/auroc"]])
    assert of_type(found, "history")[-1]["item"]["test/auroc"] == pytest.approx(final(made)["test/auroc"])
    (behind,) = (made / "wandb").glob(
        "offline-run-*"
    )  # W&B takes artifacts online or offline, not in between
    rest = wandb_records(behind)
    assert {one["type"] for one in of_type(rest, "artifact")} == {"model", "predictions", "run_table"}
    ids = {of_type(part, "run")[0]["run_id"] for part in (found, rest)}
    assert ids == {json.loads((made / "trackers.json").read_text())["wandb"]["id"]}


def test_wandb_that_is_down_at_the_start_is_offline_with_one_warning(folder, tmp_path, monkeypatch, capsys):
    server = WandbServer()
    server.die()
    overrides = tiny(folder, tmp_path, "logger=wandb", "logger.wandb.mode=online")
    said = with_account_at(server, overrides, monkeypatch, capsys)
    (made,) = runs(tmp_path)
    assert said.count("wandb sync") == 1
    assert "W&B can't be reached" in said
    assert "Connection re" in said  # refused, or reset where the port is still going away
    (directory,) = (made / "wandb").glob("offline-run-*")
    last = of_type(wandb_records(directory), "history")[-2]["item"]
    assert last["test/auroc"] == pytest.approx(final(made)["test/auroc"])


def test_mlflow_that_is_down_at_the_start_gets_the_run_later_by_what_was_printed(
    folder, tmp_path, capsys, database
):
    shutil.copy(database.removeprefix("sqlite:///"), tmp_path)
    with mlflow_server(tmp_path) as port:
        pass  # now nobody listens there
    uri = f"http://127.0.0.1:{port}"
    made = train(folder, tmp_path, *SERVED, f"logger.mlflow.tracking_uri={uri}")
    said = capsys.readouterr().out
    assert said.count("can't be used") == 1
    assert "Connection refused" in said
    typed = shlex.split(next(line for line in said.splitlines() if "python -c" in line))
    with mlflow_server(tmp_path, port):
        exec(typed[2], {})
    stored = f"sqlite:///{tmp_path}/mlflow.db"
    same(without_axes(mlflow_points(made, stored)), expected(made))
    assert mlflow_run(made, stored).info.status == "FINISHED"
    (sent,) = (tmp_path / "artifacts").rglob("best.ckpt")
    assert sent.read_bytes() == (made / "checkpoints" / "best.ckpt").read_bytes()


def test_mlflow_that_dies_in_the_middle_costs_the_run_nothing(
    folder, tmp_path, capsys, database, monkeypatch
):
    def second_epoch(path: str, body: bytes) -> bool:
        return b'"val/auroc"' in body and b'"step": 12' in body

    shutil.copy(database.removeprefix("sqlite:///"), tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")  # a server that dies may leave a question open
    more = ("trainer.max_epochs=2", *SERVED)
    with mlflow_server(tmp_path, dies_at=second_epoch) as port:
        uri = f"http://127.0.0.1:{port}"
        made = train(folder, tmp_path, *more, f"logger.mlflow.tracking_uri={uri}")
    said = capsys.readouterr().out
    assert "did not get everything" in said
    known = json.loads((made / "trackers.json").read_text())["mlflow"]["run_id"]
    stored = f"sqlite:///{tmp_path}/mlflow.db"
    assert len(MlflowClient(stored).get_metric_history(known, "val/auroc")) == 1  # of the first epoch
    with mlflow_server(tmp_path, port):
        exec(shlex.split(next(line for line in said.splitlines() if "python -c" in line))[2], {})
    same(without_axes(mlflow_points(made, stored)), expected(made))
    assert (
        MlflowClient(stored).get_run(known).info.lifecycle_stage == "deleted"
    )  # one run, not one and a half
