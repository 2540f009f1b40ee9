"""Weights & Biases: online, or offline for `wandb sync`, and never in the way of a training.

W&B's own process stands between the run and the network, and keeps everything in `<run>/wandb` first.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow.parquet as pq
from lightning.pytorch.loggers import WandbLogger

from .directory import RunDirectory
from .trackers import FinishedRun, Labels, Sample, Status, labels, recall, remember
from .wandb_account import choose_mode, reason, silence

if TYPE_CHECKING:
    import wandb

log = logging.getLogger("tapetum")

_START_S = 30  # how long the start of a run waits for W&B's server


class WandB(WandbLogger):
    """One W&B run for one tapetum run, also when that is resumed: its id is kept in the run's directory.

    Args:
        directory: of the run.
        project, entity: where the run appears; entity null is the account's default.
        tags: besides task, model and data.
        notes: a text beside the run.
        mode: null = online where this machine is logged in, else offline.
        checkpoint: whether the tested checkpoint is handed over, as an artifact.
        table_rows: at most so many predictions become a table; all are in the artifact.
        finish_timeout: seconds to wait at the end until everything is uploaded; 0 = as long as it takes.

    Raises ConfigError for mode=online without an account, and where W&B is not installed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        project: str = "tapetum",
        entity: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
        mode: Literal["online", "offline"] | None = None,
        checkpoint: bool = True,
        table_rows: int = 1000,
        finish_timeout: float = 300,
    ) -> None:
        config = RunDirectory(directory).read_config()
        self._directory, self._checkpoint, self._rows = directory, checkpoint, table_rows
        self._gone = self._told = False
        named = labels(directory, config)
        self._arguments: dict[str, Any] = {
            "project": project,
            "entity": entity,
            "notes": notes,
            "name": named.name,
            "group": named.group,
            "tags": _tags(named, tags),
            "config": config | _git(directory),
            "finish_timeout": finish_timeout,
        }
        chosen = choose_mode(mode)
        run = _begin(directory, self._arguments, chosen)
        if chosen == "offline":
            login = (
                "" if mode or "WANDB_MODE" in os.environ else "there is no account here; wandb login, then "
            )
            log.info("wandb   offline; to upload: %swandb sync %s", login, _quoted(directory))
        self._online = chosen == "online" and not run.offline
        super().__init__(experiment=run, project=project, save_dir=directory)

    @property
    def _run(self) -> wandb.Run:
        run: wandb.Run = self.experiment
        return run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Figures of a step; handed to W&B's process, which takes them without waiting for the network."""
        if self._gone:
            return
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # whatever W&B's process died of, training goes on
            self._lost(error)

    def log_finished(self, finished: FinishedRun) -> None:
        """Final figures, plots, samples, report and a table of predictions; predictions and checkpoint as
        artifacts.
        """
        import wandb

        shown: dict[str, Any] = {
            f"report/{name}": wandb.Image(str(file)) for name, file in finished.pictures.items()
        }
        page = finished.run.report / "index.html"
        if page.is_file():
            shown["report/page"] = wandb.Html(page, inject=False)
        if finished.samples:
            shown[finished.samples_are] = _samples(finished.samples)
        self.log_metrics({**finished.final, **shown}, finished.step)
        if self._gone:
            return
        try:
            self._run.summary.update(dict(finished.metrics))
            # of an online run, W&B takes tables and artifacts only while its server answers
            problem = silence() if self._online else ""
            if not problem:
                problem = self._log_files(finished)
            if problem and self._online:
                self._go_offline(problem)
                problem = self._log_files(finished)
            if problem:
                log.warning("W&B took no artifacts (%s); the files are in %s", problem, self._directory)
        except Exception as error:  # as in log_metrics
            self._lost(error)

    def close(self, status: Status) -> None:
        """Finish the W&B run, so that the next run of this process is another one."""
        if self._gone:
            return
        try:
            self._run.finish(exit_code=0 if status == "finished" else 1)
        except TimeoutError:
            self._tell("it did not take everything in time")
        except Exception as error:  # as in log_metrics
            self._lost(error)

    def _log_files(self, finished: FinishedRun) -> str:
        """Hand over the table and the artifacts; what W&B said where it did not take them."""
        import wandb

        try:
            with _staged_in(self._directory):
                for split, file in list(finished.predictions.items())[:1]:
                    self._run.log(
                        {f"predictions/{split}": self._table(file), "trainer/global_step": finished.step}
                    )
                if finished.predictions:
                    self._log_artifact("predictions", list(finished.predictions.values()), {}, [])
                if self._checkpoint and finished.checkpoint is not None:
                    metadata = dict(finished.best or {})
                    if "epoch" in metadata:
                        metadata["epoch"] += 1  # people count from one
                    metadata["config"] = finished.run.read_config()
                    self._log_artifact("model", [finished.checkpoint], metadata, ["best"])
        except (wandb.Error, OSError, ValueError) as error:
            return reason(error)
        return ""

    def _go_offline(self, problem: str) -> None:
        """Put an offline part behind the online one, which wandb sync sends as one run."""
        self._tell(problem)
        with suppress(TimeoutError):
            self._run.finish()
        self._experiment, self._online = _begin(self._directory, self._arguments, "offline"), False

    def _tell(self, problem: str) -> None:
        """Say once that something waits here, and what to type."""
        if not self._told:
            log.warning(
                "W&B did not get everything (%s). Nothing is lost: when it answers, type "
                "wandb sync --include-online %s", problem, _quoted(self._directory),
            )  # fmt: skip
        self._told = True

    def _lost(self, error: Exception) -> None:
        """Say once that W&B's process is gone."""
        if not self._gone:
            log.warning(
                "W&B stopped working (%s): training goes on without it. What it got until now is in %s, all "
                "figures are in %s",
                str(error) or type(error).__name__, self._directory / "wandb",
                RunDirectory(self._directory).history,
            )  # fmt: skip
        self._gone = True

    def _table(self, file: Path) -> wandb.Table:
        """Rows of a predictions table, evenly spaced over all of them."""
        import wandb

        table = pq.read_table(file)
        count = min(self._rows, len(table))
        rows = np.linspace(0, len(table) - 1, count).astype(np.int64)
        return wandb.Table(
            columns=table.column_names, data=[list(row.values()) for row in table.take(rows).to_pylist()]
        )

    def _log_artifact(
        self, kind: str, files: Sequence[Path], metadata: dict[str, Any], aliases: list[str]
    ) -> None:
        import wandb

        artifact = wandb.Artifact(f"{kind}-{self._run.id}", type=kind, metadata=metadata)
        for file in files:
            # read where it lies, by an upload now or a later wandb sync, instead of from a copy in the home
            artifact.add_file(str(file), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact, aliases=aliases or None)


@contextmanager
def _staged_in(directory: Path) -> Iterator[None]:
    """What waits for an upload lies in the run, not in the home, unless the environment says where."""
    variable = "WANDB_DATA_DIR"
    if variable in os.environ:
        yield
        return
    os.environ[variable] = str((directory / "wandb").absolute())
    try:
        yield
    finally:
        del os.environ[variable]


def _begin(directory: Path, chosen: Mapping[str, Any], mode: str) -> wandb.Run:
    """The W&B run, offline where the server can't be reached."""
    import wandb

    known = recall(directory, "wandb").get("id")
    arguments: dict[str, Any] = {
        **{key: value for key, value in chosen.items() if key != "finish_timeout"},
        "dir": directory,
        "job_type": "train",
        "id": known,
        "resume": "allow" if known else None,
        "reinit": "finish_previous",
        "settings": wandb.Settings(
            init_timeout=_START_S,
            finish_timeout=chosen["finish_timeout"],
            finish_timeout_raises=True,
            console="off",  # train.log has it
            x_stats_pid=os.getpid(),  # not of whom a job was forked from
        ),
    }
    run: wandb.Run | None = None
    if mode == "online":
        problem = silence()
        try:
            if not problem:
                run = wandb.init(**arguments, mode="online")
                log.info("wandb   %s", run.url)
        except (wandb.Error, TimeoutError) as error:
            problem = reason(error)
        if run is None:
            log.warning(
                "W&B can't be reached (%s), so this run is kept offline: when it answers, type wandb sync %s",
                problem, _quoted(directory),
            )  # fmt: skip
    if run is None:
        run = wandb.init(**arguments, mode="offline" if mode == "online" else mode)  # type: ignore[arg-type]
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    remember(directory, "wandb", {"id": run.id})
    return run


def _quoted(directory: Path) -> str:
    return shlex.quote(str(directory / "wandb"))


def _tags(named: Labels, more: Sequence[str]) -> list[str]:
    return [tag[:64] for tag in dict.fromkeys([*named.tags.values(), *more])]  # W&B takes no longer ones


def _git(directory: Path) -> dict[str, Any]:
    """`{"git": {"sha": …, "dirty": …}}`, to filter runs by; nothing outside git."""
    file = RunDirectory(directory).environment
    state = json.loads(file.read_text()).get("git") if file.is_file() else None
    return {"git": state} if state else {}


def _samples(samples: Sequence[Sample]) -> Any:
    """A table of images with their columns, or a list of images where they have none."""
    import wandb

    if not samples[0].columns:
        return [wandb.Image(one.image, caption=one.caption) for one in samples]
    names = list(samples[0].columns)
    rows = [[wandb.Image(one.image), one.path, *(one.columns[name] for name in names)] for one in samples]
    return wandb.Table(columns=["image", "path", *names], data=rows)
