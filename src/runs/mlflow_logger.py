"""MLflow: a database file of your own, or a server; sent from a thread, so that no step waits for either.

MLflow's file store (`./mlruns`) no longer works; sqlite is the local form.
"""

from __future__ import annotations

import getpass
import logging
import os
import queue
import re
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger

from ..errors import ConfigError, TapetumError
from .directory import RunDirectory, open_run
from .history import read_history
from .resume import flatten
from .trackers import FinishedRun, Labels, Status, labels, recall, remember, require

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("tapetum")

_RETRY_S = 15.0
_LONGEST_VALUE = 500  # of a parameter, by every server there is; config.yaml has the whole of it
_AT_ONCE = 100  # parameters in one call, by MLflow's limit
_ENDED: dict[Status, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks", "databricks-uc", "uc")

_Call = Callable[["MlflowClient", str], None]  # what is done with the client and the id of the MLflow run


class MLflow(Logger):
    """One MLflow run for one tapetum run, also when that is resumed: its id is kept in the run's directory.

    What can't be sent is kept and tried again; what never arrives, `send` sends later from the run's files.

    Args:
        directory: of the run.
        tracking_uri: `sqlite:///DIR/mlflow.db`, or the address of a server.
        experiment: the MLflow experiment, made where it does not exist.
        tags: besides task, model and data.
        notes: a text beside the run.
        checkpoint: whether the tested checkpoint is handed over.
        finish_timeout: seconds to wait at the end until everything has arrived.

    Raises ConfigError for a file store and where MLflow is not installed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tracking_uri: str,
        experiment: str = "tapetum",
        tags: Mapping[str, str] | None = None,
        notes: str | None = None,
        checkpoint: bool = True,
        finish_timeout: float = 300,
    ) -> None:
        super().__init__()
        check_uri(tracking_uri)
        self.run = RunDirectory(directory)
        self.uri, self.experiment_name, self.checkpoint = tracking_uri, experiment, checkpoint
        self.tags, self.finish_timeout = {**(tags or {}), **_note(notes)}, finish_timeout
        self._calls: queue.Queue[_Call | None] = queue.Queue()
        self._closing = threading.Event()
        self._problem = ""  # why the last call failed; empty while everything arrives
        self._sender = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._sender.start()
        outputs = self.run.read_config().get("paths", {}).get("outputs", "")
        shown = ", make mlflow shows it" if self.uri == f"sqlite:///{outputs}/mlflow.db" else ""
        log.info("mlflow  %s%s", self.uri, shown)

    @property
    def name(self) -> str:
        """Lightning's hook."""
        return self.experiment_name

    @property
    def version(self) -> str:
        """Lightning's hook: the id of the MLflow run, empty before there is one."""
        return recall(self.run.path, "mlflow").get("run_id", "")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The config, flat, as MLflow's parameters."""
        flat = parameters(params if isinstance(params, dict) else vars(params))
        self._calls.put(lambda client, run: _log_parameters(client, run, flat))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Figures of a step."""
        row, now = dict(metrics), _now()
        self._calls.put(lambda client, run: _log_rows(client, run, [(row, step or 0)], now))

    def log_finished(self, finished: FinishedRun) -> None:
        """Final figures, and as artifacts the config, the report, the predictions and the checkpoint."""
        self.log_metrics(finished.final, finished.step)
        for file, place in _artifacts(finished, self.checkpoint):
            self._calls.put(
                lambda client, run, file=file, place=place: _log_artifact(client, run, file, place)  # type: ignore[misc]
            )

    def close(self, status: Status) -> None:
        """End the MLflow run, wait for the thread, and say what to type where something did not arrive."""
        self._calls.put(lambda client, run: client.set_terminated(run, _ENDED[status]))
        self._calls.put(None)
        self._closing.set()
        self._sender.join(self.finish_timeout)
        if self._sender.is_alive() or self._problem:
            log.warning(
                "MLflow at %s did not get everything (%s). Nothing is lost: when it answers, type\n"
                "  python -c \"from tapetum.runs.mlflow_logger import send; send('%s')\"",
                self.uri, self._problem or f"not done within {self.finish_timeout:g} s", self.run.path,
            )  # fmt: skip

    def _send_all(self) -> None:
        """The thread: one call after the other, each until it succeeds or the run is over."""
        client: MlflowClient | None = None
        run_id = ""
        while (call := self._calls.get()) is not None:
            while True:
                try:
                    if client is None:
                        client = _client(self.uri)
                    if not run_id:
                        run_id = self._begin(client)
                    call(client, run_id)
                except Exception as error:  # databases, HTTP and clouds each have their own; training goes on
                    if _error_code(error) == "INVALID_PARAMETER_VALUE" and run_id:
                        log.warning("MLflow refused something and goes on without it: %s", _reason(error))
                        break
                    self._complain(error)
                    if self._closing.is_set():
                        return
                    self._closing.wait(_RETRY_S)
                else:
                    if self._problem:
                        log.info("MLflow at %s answers again", self.uri)
                        self._problem = ""
                    break

    def _begin(self, client: MlflowClient) -> str:
        """The id of the run at MLflow: the one of before, or a new one."""
        from mlflow.exceptions import MlflowException

        config, known = self.run.read_config(), recall(self.run.path, "mlflow")
        if known.get("uri") == self.uri:
            try:
                client.update_run(known["run_id"], status="RUNNING")
                return known["run_id"]
            except MlflowException as error:
                if _error_code(error) not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise  # else somebody deleted it there
        named = labels(self.run.path, config)
        return _create_run(client, self.uri, self.experiment_name, self.run.path, named, self.tags)

    def _complain(self, error: Exception) -> None:
        if not self._problem and not self._closing.is_set():
            log.warning(
                "MLflow at %s can't be used (%s): training goes on; its figures are kept in %s and sent as "
                "soon as it answers",
                self.uri, _reason(error), self.run.history,
            )  # fmt: skip
        self._problem = _reason(error)


def send(run: str | Path, tracking_uri: str | None = None) -> str:
    """Send a whole run to MLflow from its files; the id it has there.

    For a run whose server went away, or that was never logged to MLflow. What an earlier, partial attempt
    left at the same address is deleted there.

    Args:
        run: a run's directory.
        tracking_uri: where to; null = as in the run's own config.

    Raises TapetumError where the run has no address, MLflow can't be reached, or refuses something.
    """
    from mlflow.exceptions import MlflowException

    directory = open_run(run)
    config = directory.read_config()
    node = (config.get("logger") or {}).get("mlflow") or {}
    uri = tracking_uri or node.get("tracking_uri")
    if not uri:
        raise TapetumError(f"{run} was not logged to MLflow: say where to, send('{run}', 'sqlite:///FILE')")
    check_uri(uri)
    rows = read_history(directory.history) if directory.history.is_file() else []
    points = [
        ({name: value for name, value in row.items() if name != "step"}, int(row.get("step", 0)))
        for row in rows
    ]
    last = max((step for _, step in points), default=0)
    logged = frozenset(name for row, _ in points for name in row)
    finished = FinishedRun(directory, last, directory.read_metrics(), logged)
    client = _client(uri)
    try:
        before = recall(directory.path, "mlflow")
        named = labels(directory.path, config)
        tags = {**(node.get("tags") or {}), **_note(node.get("notes"))}
        experiment = node.get("experiment", "tapetum")
        run_id = _create_run(client, uri, experiment, directory.path, named, tags)
        if before.get("uri") == uri:
            client.delete_run(before["run_id"])
        _log_parameters(client, run_id, parameters(config))
        _log_rows(client, run_id, [*points, (finished.final, last)], _now())
        for file, place in _artifacts(finished, node.get("checkpoint", True)):
            _log_artifact(client, run_id, file, place)
        client.set_terminated(run_id, _ENDED["finished" if directory.finished else "failed"])
    except (MlflowException, OSError) as error:
        raise TapetumError(f"MLflow at {uri} can't take {run}: {_reason(error)}") from error
    return run_id


def check_uri(uri: str) -> None:
    """ConfigError for an address that MLflow can't use, or a package that is not there."""
    require("mlflow")
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in _SCHEMES:
        raise ConfigError(
            f"logger.mlflow.tracking_uri={uri} is no database and no server (MLflow's file store no longer "
            f"works): type logger.mlflow.tracking_uri=sqlite:///DIR/mlflow.db, or http://HOST:5000"
        )
    if re.match(r"[^/]+://[^/@]*:[^/@]+@", uri):
        raise ConfigError(
            "logger.mlflow.tracking_uri holds a password, which would be written into config.yaml: leave it "
            "out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (of a database: PGPASSWORD)"
        )


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """The config as MLflow's parameters: dotted names, values as text of at most 500 characters."""
    found = {}
    for key, value in flatten(config).items():
        text = str(value)
        text = text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
        found[re.sub(r"[^\w\-. :/]", "_", key)[:250]] = text
    return found


def _client(uri: str) -> MlflowClient:
    """A client; reports of usage are off, and a server that is down is noticed within seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    for name in ("mlflow", "alembic"):  # they tell of every table they make
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if _is_sqlite(uri):
        _database(uri).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri)


def _create_run(
    client: MlflowClient, uri: str, experiment: str, directory: Path, named: Labels, tags: Mapping[str, str]
) -> str:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        # beside a database of one's own; else in ./mlruns of whatever folder one stands in
        place = (_database(uri).parent / "mlflow-artifacts").absolute().as_uri() if _is_sqlite(uri) else None
        number = client.create_experiment(experiment, artifact_location=place)
    else:
        number = found.experiment_id
    group = {"group": named.group} if named.group else {}
    source = {
        "mlflow.source.name": "tapetum train",
        "mlflow.user": getpass.getuser(),
        "directory": str(directory.absolute()),
    }
    created: str = client.create_run(
        number, run_name=named.name, tags={**named.tags, **group, **source, **tags}
    ).info.run_id
    remember(directory, "mlflow", {"uri": uri, "run_id": created})
    return created


def _log_parameters(client: MlflowClient, run: str, flat: Mapping[str, str]) -> None:
    """Parameters that the run does not have yet: MLflow never changes one, a resumed run may have more."""
    from mlflow.entities import Param

    known = client.get_run(run).data.params
    new = [Param(key, value) for key, value in flat.items() if key not in known]
    for start in range(0, len(new), _AT_ONCE):
        client.log_batch(run, params=new[start : start + _AT_ONCE])


def _log_rows(
    client: MlflowClient, run: str, rows: Sequence[tuple[Mapping[str, float], int]], milliseconds: int
) -> None:
    from mlflow.entities import Metric

    points = [
        Metric(name, float(value), milliseconds, step) for row, step in rows for name, value in row.items()
    ]
    for start in range(0, len(points), 1000):
        client.log_batch(run, metrics=points[start : start + 1000])


def _log_artifact(client: MlflowClient, run: str, file: Path, place: str | None) -> None:
    client.log_artifact(run, str(file), place)


def _artifacts(finished: FinishedRun, checkpoint: bool) -> list[tuple[Path, str | None]]:
    """The files that are handed over, each with its folder among the artifacts."""
    run = finished.run
    files: list[tuple[Path, str | None]] = [
        (file, None)
        for file in (run.config, run.command, run.environment, run.history, run.metrics)
        if file.is_file()
    ]
    files += [(file, "report") for file in sorted(run.report.glob("*")) if file.is_file()]
    files += [(file, "predictions") for file in finished.predictions.values()]
    if checkpoint and finished.checkpoint is not None:
        files += [(finished.checkpoint, "checkpoints")]
        files += [
            (file, "checkpoints") for file in [finished.checkpoint.with_suffix(".json")] if file.is_file()
        ]
    return files


def _is_sqlite(uri: str) -> bool:
    return uri.startswith("sqlite:///")


def _database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def _error_code(error: Exception) -> str:
    """MLflow's word for what went wrong; of an argument that it refuses, it will refuse it again."""
    return str(getattr(error, "error_code", ""))


def _reason(error: Exception) -> str:
    """What happened, without the wrapping of every layer that it came through."""
    text = str(error)
    found = re.search(r"\[Errno -?\d+\] ([^'\")\]]+)", text)
    return found[1].rstrip(": ") if found else (text.splitlines() or [type(error).__name__])[0][:300]


def _note(notes: str | None) -> dict[str, str]:
    return {"mlflow.note.content": notes} if notes else {}


def _now() -> int:
    return int(time.time() * 1000)
