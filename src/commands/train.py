"""`tapetum train`: where config, data, network, fit, inference, evaluation and report are wired."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.check import check_config
from ..config.compose import Composed, compose
from ..config.overrides import prepare
from ..errors import ConfigError, TrainingError

if TYPE_CHECKING:
    import lightning
    from lightning.pytorch.loggers import Logger

    from ..runs.directory import RunDirectory
    from .preflight import Preflight

log = logging.getLogger("tapetum")


def main(arguments: Sequence[str]) -> int:
    """Run one experiment, or a sweep with -m; the exit code."""
    from .hydra_flags import hydra_command

    if hydra_command(arguments):
        from .sweep import sweep

        return sweep(arguments)
    overrides = prepare(arguments, multirun=False)
    composed = compose(overrides)
    check_config(composed)
    _check_alone(composed, overrides)
    train(composed, command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    return 0


def _check_alone(composed: Composed, overrides: Sequence[str]) -> None:
    """ConfigError for a launcher that a single run does not use; a search's settings are told of."""
    launcher = composed.choices.get("launcher", "sequential")
    unused = [f"launcher={launcher}"] if launcher != "sequential" else []
    unused += [word for word in overrides if word.lstrip("+~").startswith("launcher.")]
    if unused:
        raise ConfigError(
            f"{unused[0]} is for the jobs of a sweep, and this is one run: type -m {' '.join(unused)}, which "
            f"also takes a single job, or leave it out"
        )
    if composed.config.get("sweep"):
        print("sweep=… without -m: one run, and nothing is searched", flush=True)


def train(composed: Composed, *, command: str = "") -> float | None:
    """Train, predict, evaluate and report one composed experiment; the best monitored value.

    Raises TapetumError for everything that a user can mend.
    """
    from ..launch.libraries import HEAVY, importing, libraries_of, load_libraries
    from ..launch.world import check_started_once, world_size

    check_started_once()
    with importing():
        alone = world_size(composed.config["trainer"]) == 1
        load_libraries(libraries_of(composed.config) if alone else HEAVY)
    from ..runs.directory import RunDirectory, create_run
    from ..runs.lock import held
    from ..runs.resume import find_resumed
    from ..tasks import task_of
    from .console import console
    from .preflight import preflight
    from .resuming import take_up

    config: dict[str, Any] = {**composed.config, "resume": None}
    resume = composed.config["resume"]
    checked = preflight(config)
    config = task_of(config).settled(config, checked.index)
    resumed = find_resumed(resume, config) if resume else None
    if config["trainer"].get("fast_dev_run"):
        with tempfile.TemporaryDirectory() as scratch:
            create_run(config, Path(scratch) / "run")
            launch(RunDirectory(Path(scratch) / "run"), config, checked=checked)
        console.print("fast_dev_run: every part has run on one batch, and nothing was kept", highlight=False)
        return None
    if resumed is None:
        if resume:
            console.print(
                "resume=auto: no unfinished run has this config, so a new one starts", highlight=False
            )
        run, checkpoint = create_run(config), None
    else:
        run, checkpoint = resumed
    with held(run):
        if checkpoint is not None:
            take_up(run, checkpoint, config, checked)
        with run.command.open("a") as file:
            file.write(command + "\n")
        return launch(run, config, checkpoint=checkpoint, checked=checked)


def launch(
    run: RunDirectory,
    config: Mapping[str, Any],
    *,
    checkpoint: Path | None = None,
    checked: Preflight | None = None,
) -> float | None:
    """`execute` on as many processes as the config asks for, in a run that is held for it.

    Raises PrunedRunError where a search gave the run up.
    """
    from ..launch.libraries import importing, libraries_of, load_libraries
    from ..launch.world import world_size

    with importing():
        alone = world_size(config["trainer"]) == 1
        if alone:
            load_libraries(libraries_of(config))
        from ..launch.processes import run_processes
        from ..runs.early_end import PrunedRunError
        from ..runs.logs import failure_in
    if alone:
        return execute(run, config, checkpoint=checkpoint, checked=checked)
    with failure_in(run.log):
        run_processes(run, config["trainer"], checkpoint)
    if run.pruned.is_file():
        raise PrunedRunError(f"{run.path} was given up by its search")
    return monitored_value(run, config)


def execute(
    run: RunDirectory,
    config: Mapping[str, Any],
    *,
    checkpoint: Path | None = None,
    checked: Preflight | None = None,
) -> float | None:
    """Run what a run directory's config says, in this process; the best monitored value."""
    began = time.perf_counter()
    from ..runs.directory import write_json
    from ..runs.environment import environment
    from ..runs.logs import logging_to
    from .console import console
    from .finders import search
    from .preflight import preflight
    from .radiometry import with_fitted_map
    from .trackers import tracked
    from .trainer_parts import quiet_lightning
    from .vocabulary import with_learnt_tokenizer

    checked = checked or preflight(config)
    first = int(os.environ.get("RANK", "0")) == 0  # torchrun's; one process speaks for all
    console.quiet = not first
    log.setLevel(logging.INFO if first else logging.CRITICAL)
    with logging_to(run.log, console) if first else nullcontext(), quiet_lightning():
        if first:
            write_json(run.environment, environment())
        config = with_fitted_map(run, config, checked.index)
        config = with_learnt_tokenizer(run, config, checked.index)
        config = search(run, config, checked.index)
        with tracked(run, config) as loggers:
            return _execute(run, config, checkpoint, checked, loggers, began)


def _execute(
    run: RunDirectory,
    config: Mapping[str, Any],
    checkpoint: Path | None,
    checked: Preflight,
    loggers: Sequence[Logger],
    began: float,
) -> float | None:
    """Fit, predict, evaluate, report, and hand the finished files to the trackers."""
    import lightning

    from ..tasks import task_of
    from .console import console, progress_to
    from .finish import advice_line, infer, report_run, write_notes, write_results
    from .memory import explained
    from .weights import start_from

    lightning.seed_everything(config["seed"], workers=False, verbose=False)
    task = task_of(config)
    wired = _Wired(run, config, checked, progress_to(console, "decoding"), loggers, began)
    if config["model"]["fit"]:
        wired.fit(checkpoint)
    else:
        log.info("model.fit=false: nothing is trained, the network is evaluated as it is")
        if config["weights"]:
            start_from(wired.net, config["weights"], strict=True, allow=config["allow_targets"])
    if not wired.trainer.is_global_zero:
        return None
    best = wired.load_best()
    try:
        if not config["model"]["fit"]:
            wired.fill()
        predictions = infer(task, wired.module, wired.data, ("val", "test"), trainer=config["trainer"])
    except (RuntimeError, MemoryError) as error:
        raise explained(error, config, "predicting") from error
    metrics = task.figures(predictions, wired.module)
    metrics |= wired.summary(best)
    write_notes(run, checked.index, wired.data.bad, checked.limits)
    write_results(run, predictions, metrics)
    page = None
    if config["train"]["report"]:
        page = report_run(run, checked.index.roots)
    else:
        shutil.rmtree(run.report, ignore_errors=True)  # of an earlier end, before the run was resumed
    if loggers:
        wired.hand_over(metrics, predictions, best)
    monitor = checked.monitor if (run.checkpoints / "best.ckpt").is_file() else None
    for table in task.tables(metrics, config, monitor=monitor, title=config["name"]):
        console.print(table, highlight=False)
    if not config["trainer"].get("fast_dev_run"):
        if said := advice_line(run):
            log.info(said)
        console.print(f"run     {run.path}", highlight=False, soft_wrap=True)
        console.print(f"report  {page or f'tapetum report {run.path}'}", highlight=False, soft_wrap=True)
    return wired.best_value()


class _Wired:
    """The objects of one run, in the order in which they depend on each other."""

    def __init__(
        self,
        run: RunDirectory,
        config: Mapping[str, Any],
        checked: Preflight,
        progress: Any,
        loggers: Sequence[Logger],
        began: float,
    ) -> None:
        import lightning

        from ..launch.world import cluster_environment
        from ..runs.building import (
            build_datamodule,
            build_module,
            build_network,
            parameter_counts,
            where_weights_go,
        )
        from ..runs.checkpoints import AtomicCheckpointIO
        from ..runs.history import MetricsCsv
        from ..runs.hooks import skip_empty_hooks
        from ..runs.sharding import trainer_settings
        from ..tasks import task_of
        from .console import console
        from .trainer_parts import profiler

        self.run, self.config, self.checked, self.began = run, config, checked, began
        with where_weights_go(config):
            self.net = build_network(config)
        self.module = build_module(config, self.net, learnt_from=task_of(config).learnt_from(checked.index))
        self.data = build_datamodule(config, checked.index, self.module, progress)
        self.describe, callbacks = self._callbacks(console)
        self.history = MetricsCsv(run.history)
        settings = trainer_settings(config["trainer"], config["train"]["timeout_minutes"])
        settings["profiler"] = profiler(settings.get("profiler"), run.path)
        if not len(checked.index.rows("val")):
            settings["limit_val_batches"] = 0
        self.trainer = lightning.Trainer(
            **settings,
            callbacks=callbacks,
            logger=[self.history, *loggers],
            plugins=[AtomicCheckpointIO(), cluster_environment()],
            default_root_dir=run.path,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        skip_empty_hooks(self.trainer.callbacks)  # type: ignore[attr-defined]
        total, trainable = parameter_counts(self.net)
        batch = config["data"]["batch_size"] * self.trainer.accumulate_grad_batches * self.trainer.world_size
        log.info(
            "%s on %s: %s, %s, effective batch %d, %s parameters, %s trainable",
            config["name"], self.trainer.strategy.root_device, self.trainer.precision,
            _count(self.trainer.world_size, "process", "processes"), batch, f"{total:,}", f"{trainable:,}",
        )  # fmt: skip
        if hasattr(self.net, "trained_parts"):
            parts = self.net.trained_parts().items()  # type: ignore[operator]
            log.info("trains: %s", ", ".join(f"{name} {count:,}" for name, count in parts))
        for note, count in checked.index.notes.items():
            log.info("%s: %s", note, f"{count:,}")
        for limit in checked.limits:
            log.warning(limit)

    def fit(self, checkpoint: Path | None) -> None:
        """Train, from the start, from weights or from where a checkpoint stopped."""
        from ..modules.buffers import NonFiniteLossError
        from ..runs.interrupt import InterruptedRunError
        from ..runs.resume import begins_with_validation, check_index
        from .memory import explained

        config = self.config
        if checkpoint is not None:
            loaded = check_index(checkpoint, self.checked.index.fingerprint)
            if "weights" in loaded["tapetum"]["metadata"]:
                self.describe.facts["weights"] = loaded["tapetum"]["metadata"]["weights"]
            self.history.truncate(loaded["global_step"], validates=begins_with_validation(loaded))
            log.info(
                "resuming %s at epoch %d, step %d", self.run.path, loaded["epoch"] + 1, loaded["global_step"]
            )
        elif config["weights"]:
            from .weights import begin_from

            origin = begin_from(self.module, config["weights"], allow=config["allow_targets"])
            self.describe.facts["weights"] = origin
        if config["train"]["compile"]:
            self.net.compile()
        try:
            self.trainer.fit(self.module, datamodule=self.data, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:
            if not self.trainer.interrupted:
                raise
            raise KeyboardInterrupt from None  # a second Ctrl-C, which Lightning turns into exit(1)
        except NonFiniteLossError as error:
            raise TrainingError(self._explain(error)) from error
        except (RuntimeError, MemoryError) as error:
            raise explained(error, config, "training") from error
        if self.trainer.interrupted:
            raise KeyboardInterrupt
        if self.stop.received is not None:  # in the last validation, behind which no step looks for it
            raise InterruptedRunError(f"stopped after the last epoch; to go on, add resume={self.run.path}")
        self._keep_average()
        self._keep_last()
        for file in self.run.path.glob("*-profile*"):
            log.info("profile %s", file)

    def _keep_last(self) -> None:
        """`last.ckpt` is the end of the run, whatever the interval at which it was written on the way."""
        if self.config["trainer"].get("fast_dev_run"):
            return
        last = self.run.checkpoints / "last.json"
        written = json.loads(last.read_text())["step"] if last.is_file() else None
        if written != self.trainer.global_step:
            self.trainer.save_checkpoint(self.run.checkpoints / "last.ckpt")

    def fill(self) -> None:
        """Give a network that compares images with the train split their features, and keep them."""
        from ..inference.bank import fill_bank
        from .finish import device_of

        settings = self.config["trainer"]
        filled = fill_bank(
            self.module, self.data, device=device_of(settings), precision=str(settings["precision"])
        )
        if filled and not settings.get("fast_dev_run"):
            self.module.trainer = self.trainer
            self.trainer.strategy.connect(self.module)
            self.trainer.save_checkpoint(self.run.checkpoints / "last.ckpt")

    def load_best(self) -> dict[str, Any]:
        """Put the chosen weights into the network; the metadata of their checkpoint."""
        from ..runs.checkpoints import read_checkpoint
        from ..runs.loading import load_network, network_weights
        from ..runs.sharding import unsharded

        self.net = unsharded(self.module, self.config)
        if not self.config["model"]["fit"] or self.config["trainer"].get("fast_dev_run"):
            return {}
        file = self.run.best_or_last()
        loaded = read_checkpoint(file)
        load_network(self.net, network_weights(loaded), file)
        metadata: dict[str, Any] = loaded["tapetum"]["metadata"]
        return metadata

    def _keep_average(self) -> None:
        """Under SWA the averaged weights, which exist only now, are what is validated, kept and tested."""
        from lightning.pytorch.callbacks import StochasticWeightAveraging

        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StochasticWeightAveraging):
                if callback.n_averaged is None or self.trainer.current_epoch <= callback.swa_end:
                    log.warning("swa: training stopped before there was an average; the best epoch is tested")
                    return
                self.describe.best = None
                if self.checked.monitor is not None:
                    self.trainer.validate(self.module, datamodule=self.data, verbose=False)
                    self.trainer.save_checkpoint(self.run.checkpoints / "best.ckpt")
                self.trainer.save_checkpoint(self.run.checkpoints / "last.ckpt")
                log.info("swa: the average of %d epochs is kept and tested", int(callback.n_averaged))

    def best_value(self) -> float | None:
        """The best monitored value of the whole run."""
        return self.describe.best if self.checked.monitor else None

    def summary(self, best: Mapping[str, Any]) -> dict[str, float]:
        """What metrics.json says of the run itself."""
        figures = {
            "run/epochs": float(self.trainer.current_epoch),
            "run/steps": float(self.trainer.global_step),
            "run/seconds": self.describe.seconds,
        }
        if best:
            figures["run/best_epoch"] = float(best["epoch"] + 1)
        value = self.best_value()
        if value is not None:
            figures[f"best/{self.checked.monitor}"] = value
        return figures

    def hand_over(
        self, metrics: Mapping[str, float], predictions: Mapping[str, Any], best: Mapping[str, Any]
    ) -> None:
        """Give what the run has become to its trackers."""
        from ..runs.trackers import FinishedRun
        from ..tasks import task_of
        from .trackers import hand_over

        task = task_of(self.config)
        shown = task.samples(predictions, self.checked.index, self.config)
        logged = frozenset(self.history.columns)
        step = self.trainer.global_step
        hand_over(
            self.trainer.loggers[1:],
            FinishedRun(self.run, step, metrics, logged, best, shown, task.samples_are),
        )

    def _callbacks(self, console: Any) -> tuple[Any, list[lightning.Callback]]:
        from ..runs.checkpoints import DescribeCheckpoint
        from ..runs.interrupt import StopOnSignal
        from ..runs.progress import TrainingProgress
        from ..runs.pruning import pruning
        from ..runs.resume import DueValidation, GeneratorState
        from ..runs.throughput import Throughput
        from ..tasks import task_of
        from .trainer_parts import configured_callbacks

        monitor, mode = self.checked.monitor, self.config["train"]["mode"]
        index = self.checked.index
        facts = {"index": index.fingerprint, **task_of(self.config).facts(index)}
        describe = DescribeCheckpoint(self.config, facts, monitor, mode, began=self.began)
        self.stop = StopOnSignal(self.run.checkpoints / "last.ckpt")
        found: list[lightning.Callback] = [
            describe,
            GeneratorState(),
            DueValidation(),
            Throughput(),
            TrainingProgress(console, monitor),
        ]
        found += configured_callbacks(self.config, self.run.checkpoints, monitor)
        found += pruning(self.run, self.config, monitor)
        # Last, so that what it saves holds what the others make of the step: an average takes it in first.
        return describe, [*found, self.stop]

    def _explain(self, error: Any) -> str:
        paths = [self.checked.index.location(row)[1] for row in error.rows]
        shown = ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
        kept = self.run.checkpoints / "last.ckpt"
        rate = self.config["optimizer"].get("lr")
        return (
            f"{error} on the batch of {shown}. "
            + (
                f"The last good checkpoint is kept: {kept}. "
                if kept.is_file()
                else "No checkpoint came before. "
            )
            + "Look at those images, or try a lower learning rate"
            + (f": optimizer.lr={rate / 3:.2g}" if rate else "")
        )


def monitored_value(run: RunDirectory, config: Mapping[str, Any]) -> float | None:
    """The best monitored value of a finished run, from its files."""
    value = run.read_metrics().get(f"best/{config['train']['monitor']}")
    return None if value is None else float(value)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
