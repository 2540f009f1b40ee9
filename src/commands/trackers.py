"""Trackers from the config to the end of a run: what is wrong with them, who builds and closes them, and
what they are handed once the files are written.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from ..runs.directory import RunDirectory
    from ..runs.trackers import FinishedRun, Status

log = logging.getLogger("tapetum")


def tracker_problems(config: Mapping[str, Any]) -> list[str]:
    """What keeps a tracker from starting: no package, no account, no such kind of address."""
    problems: list[str] = []
    for node in config["logger"].values():
        try:
            _check(node or {})
        except ConfigError as error:
            problems += error.problems
    return problems


@contextmanager
def tracked(run: RunDirectory, config: Mapping[str, Any]) -> Iterator[list[Logger]]:
    """The loggers of `logger`, knowing the config; closed however the run ends, each exactly once.

    One process speaks for all: on the others, and in a fast_dev_run, there are none.
    """
    from ..runs.interrupt import InterruptedRunError
    from ..runs.trackers import Tracker

    loggers: list[Logger] = []
    status: Status = "failed"
    try:
        if int(os.environ.get("RANK", "0")) == 0 and not config["trainer"].get("fast_dev_run"):
            for node in config["logger"].values():
                if node is not None:
                    loggers.append(_built(node, run, config))
                    loggers[-1].log_hyperparams(dict(config))
        yield loggers
        status = "finished"
    except (KeyboardInterrupt, InterruptedRunError):
        status = "interrupted"
        raise
    finally:
        for logger in loggers:
            if isinstance(logger, Tracker):
                logger.close(status)


def hand_over(loggers: Sequence[Logger], finished: FinishedRun) -> None:
    """Give a finished run to its trackers; a logger of another library gets the final figures.

    A tracker that fails is told of and costs the run nothing: the files are all written.
    """
    from ..runs.trackers import Tracker

    for logger in loggers:
        try:
            if isinstance(logger, Tracker):
                logger.log_finished(finished)
            else:
                logger.log_metrics(finished.final, finished.step)
                logger.save()
        except Exception as error:  # every tracker has its own, and none is worth a finished run
            log.warning(
                "%s could not take the finished run (%s: %s); everything is in %s",
                type(logger).__name__, type(error).__name__, error, finished.run.path,
            )  # fmt: skip


def _check(node: Mapping[str, Any]) -> None:
    from ..runs.trackers import require

    target = str(node.get("_target_"))
    if target == "tapetum.runs.tensorboard_logger.TensorBoard":
        require("tensorboard")
    elif target == "tapetum.runs.wandb_logger.WandB":
        from ..runs.wandb_account import choose_mode

        choose_mode(node.get("mode"))
    elif target == "tapetum.runs.mlflow_logger.MLflow":
        from ..runs.mlflow_logger import check_uri

        check_uri(str(node.get("tracking_uri")))


def _built(node: Mapping[str, Any], run: RunDirectory, config: Mapping[str, Any]) -> Logger:
    """The logger; it is told the run's directory if it asks for one."""
    from ..config.build import build, locate

    allow = config["allow_targets"]
    asked = inspect.signature(locate(node["_target_"], allow)).parameters
    built: Logger = build(node, allow=allow, **({"directory": run.path} if "directory" in asked else {}))
    return built
