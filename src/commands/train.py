"""`tapetum train`: where config, data, network, fit, inference, evaluation and report are wired."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.check import check_config
from ..config.compose import Composed, compose
from ..config.overrides import prepare
from ..errors import ConfigError, TapetumError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lightning

    from ..runs.directory import RunDirectory
    from .preflight import Preflight

log = logging.getLogger("tapetum")


def main(arguments: Sequence[str]) -> int:
    """Run one experiment, or a sweep with -m; the exit code."""
    from .hydra_flags import hydra_command

    if hydra_command(arguments):
        from .sweep import sweep

        return sweep(arguments)
    composed = compose(prepare(arguments, multirun=False))
    check_config(composed)
    train(composed, command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    return 0


def train(composed: Composed, *, command: str = "") -> float | None:
    """Train, predict, evaluate and report one composed experiment; the best monitored value.

    Raises TapetumError for everything that a user can mend.
    """
    from ..launch.processes import torchrun, world_size
    from ..runs.directory import RunDirectory, create_run
    from ..runs.resume import find_resumed
    from .console import console
    from .preflight import preflight

    config: dict[str, Any] = {**composed.config, "resume": None}
    resume = composed.config["resume"]
    checked = preflight(config)
    resumed = find_resumed(resume, config) if resume else None
    if config["trainer"].get("fast_dev_run"):
        with tempfile.TemporaryDirectory() as scratch:
            create_run(config, Path(scratch) / "run")
            execute(RunDirectory(Path(scratch) / "run"), config, checked=checked)
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
        _take_up(run, checkpoint, config, checked)
    with run.command.open("a") as file:
        file.write(command + "\n")
    if world_size(config["trainer"]) > 1:
        torchrun(run, config["trainer"], checkpoint)
        return monitored_value(run, config)
    return execute(run, config, checkpoint=checkpoint, checked=checked)


def execute(
    run: RunDirectory,
    config: Mapping[str, Any],
    *,
    checkpoint: Path | None = None,
    checked: Preflight | None = None,
) -> float | None:
    """Run what a run directory's config says, in this process; the best monitored value."""
    import lightning

    from ..runs.directory import write_json
    from ..runs.environment import environment
    from ..runs.logs import logging_to
    from .console import console, progress_to
    from .finders import search
    from .finish import figures, infer, report_run, show, write_notes, write_results
    from .memory import explained
    from .preflight import preflight

    began = time.perf_counter()
    checked = checked or preflight(config)
    first = int(os.environ.get("RANK", "0")) == 0  # torchrun's; one process speaks for all
    console.quiet = not first
    log.setLevel(logging.INFO if first else logging.CRITICAL)
    with logging_to(run.log, console) if first else nullcontext(), quiet_lightning():
        if first:
            write_json(run.environment, environment())
        config = search(run, config, checked.index)
        lightning.seed_everything(config["seed"], workers=False, verbose=False)
        wired = _Wired(run, config, checked, progress_to(console, "decoding"))
        if config["model"]["fit"]:
            wired.fit(checkpoint)
        else:
            log.info("model.fit=false: nothing is trained, the network is evaluated as it is")
        if not wired.trainer.is_global_zero:
            return None
        best = wired.load_best()
        try:
            predictions = infer(wired.module, wired.data, ("val", "test"), trainer=config["trainer"])
        except (RuntimeError, MemoryError) as error:
            raise explained(error, config, "predicting") from error
        metrics = {**figures(predictions), **wired.summary(best), "run/seconds": time.perf_counter() - began}
        write_notes(run, checked.index, wired.data.bad, checked.limits)
        write_results(run, predictions, metrics)
        page = report_run(run, checked.index.roots)
        monitor = checked.monitor if (run.checkpoints / "best.ckpt").is_file() else None
        show(metrics, monitor=monitor, title=config["name"], console=console)
        if not config["trainer"].get("fast_dev_run"):
            console.print(f"run     {run.path}\nreport  {page}", highlight=False, soft_wrap=True)
        return wired.best_value()


class _Wired:
    """The objects of one run, in the order in which they depend on each other."""

    def __init__(
        self, run: RunDirectory, config: Mapping[str, Any], checked: Preflight, progress: Any
    ) -> None:
        import lightning

        from ..runs.building import (
            build_datamodule,
            build_module,
            build_network,
            class_counts,
            parameter_counts,
        )
        from ..runs.checkpoints import AtomicCheckpointIO
        from ..runs.hooks import skip_empty_hooks
        from .console import console

        self.run, self.config, self.checked = run, config, checked
        self.net = build_network(config)
        self.module = build_module(config, self.net, class_counts=class_counts(checked.index))
        self.data = build_datamodule(config, checked.index, self.module, progress)
        self.describe, callbacks = self._callbacks(console)
        self.history, loggers = self._loggers()
        settings = {**config["trainer"], "profiler": _profiler(config["trainer"].get("profiler"), run.path)}
        if not len(checked.index.rows("val")):
            settings["limit_val_batches"] = 0
        self.trainer = lightning.Trainer(
            **settings,
            callbacks=callbacks,
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
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
        for note, count in checked.index.notes.items():
            log.info("%s: %s", note, f"{count:,}")
        for limit in checked.limits:
            log.warning(limit)

    def fit(self, checkpoint: Path | None) -> None:
        """Train, from the start, from weights or from where a checkpoint stopped."""
        from ..modules.buffers import NonFiniteLossError
        from ..runs.interrupt import InterruptedRunError
        from ..runs.resume import check_index
        from .memory import explained

        config = self.config
        if checkpoint is not None:
            loaded = check_index(checkpoint, self.checked.index.fingerprint)
            self.history.truncate(loaded["global_step"])
            log.info(
                "resuming %s at epoch %d, step %d", self.run.path, loaded["epoch"] + 1, loaded["global_step"]
            )
        elif config["weights"]:
            from .weights import start_from

            start_from(self.net, config["weights"])
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

    def load_best(self) -> dict[str, Any]:
        """Put the chosen weights into the network; the metadata of their checkpoint."""
        from ..runs.checkpoints import read_checkpoint
        from ..runs.loading import load_network, network_weights

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
        }
        if best:
            figures["run/best_epoch"] = float(best["epoch"] + 1)
        value = self.best_value()
        if value is not None:
            figures[f"best/{self.checked.monitor}"] = value
        return figures

    def _callbacks(self, console: Any) -> tuple[Any, list[lightning.Callback]]:
        from ..config.build import build
        from ..runs.checkpoints import DescribeCheckpoint
        from ..runs.interrupt import StopOnSignal
        from ..runs.progress import TrainingProgress
        from ..runs.resume import GeneratorState
        from ..runs.throughput import Throughput
        from .finders import is_finder

        monitor, mode = self.checked.monitor, self.config["train"]["mode"]
        facts = {"index": self.checked.index.fingerprint, "generators": self.checked.index.generators()}
        describe = DescribeCheckpoint(self.config, facts, monitor, mode)
        self.stop = StopOnSignal(self.run.checkpoints / "last.ckpt")
        found: list[lightning.Callback] = [
            describe,
            GeneratorState(),
            Throughput(),
            TrainingProgress(console, monitor),
            self.stop,
        ]
        for name, node in self.config["callbacks"].items():
            if node is None or is_finder(node) or (monitor is None and "monitor" in node):
                continue
            runtime = {"directory": self.run.checkpoints, "monitor": monitor, "mode": mode}
            built = build(
                node, allow=self.config["allow_targets"], **(runtime if name == "checkpoint" else {})
            )
            found += built if isinstance(built, list) else [built]
        return describe, found

    def _loggers(self) -> tuple[Any, list[Any]]:
        from ..config.build import build
        from ..runs.history import MetricsCsv

        history = MetricsCsv(self.run.history)
        others = [
            build(node, allow=self.config["allow_targets"], directory=self.run.path)
            for node in self.config["logger"].values()
            if node is not None
        ]
        return history, [history, *others]

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


def _take_up(run: RunDirectory, checkpoint: Path, config: Mapping[str, Any], checked: Preflight) -> None:
    """Make a run ready to go on: same index, something left to do, and its config as it now is.

    Raises TapetumError for a changed index and for a run that has come to its end.
    """
    from ..runs.directory import write_config
    from ..runs.resume import check_index

    metadata = check_index(checkpoint, checked.index.fingerprint)["tapetum"]["metadata"]
    before = run.read_config()["trainer"]
    if run.finished and all(before.get(key) == config["trainer"].get(key) for key in _LENGTH):
        longer = 2 * (config["trainer"].get("max_epochs") or 10)
        raise TapetumError(
            f"{run.path} has finished, at step {metadata['step']}: its report is "
            f"{run.report / 'index.html'}. To train on, type trainer.max_epochs={longer}; to start a new run "
            f"from its weights, weights={run.path}"
        )
    run.metrics.unlink(missing_ok=True)  # its presence says that a run has finished
    write_config(run, config)


_LENGTH = ("max_epochs", "max_steps", "max_time")


def monitored_value(run: RunDirectory, config: Mapping[str, Any]) -> float | None:
    """The best monitored value of a finished run, from its files."""
    value = run.read_metrics().get(f"best/{config['train']['monitor']}")
    return None if value is None else float(value)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's tips and its guesses about loaders stay out of the way of our own lines."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*`LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*log_every_n_steps.*")
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode at the start.*")
        warnings.filterwarnings("ignore", message=".*SWA is currently only supported every epoch.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def _profiler(choice: Any, directory: Path) -> Any:
    """Lightning's profilers by name, writing into the run instead of a log that nobody sees."""
    from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler

    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    if not isinstance(choice, str):
        return choice
    if choice not in kinds:
        raise ConfigError(f"unknown value trainer.profiler={choice}: {', '.join(kinds)}")
    return kinds[choice](dirpath=directory, filename="profile")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
