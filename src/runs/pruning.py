"""A run that a search gives up: behind each epoch its figure is compared with those of other trials."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.callbacks import Callback

from ..errors import TapetumError
from .directory import RunDirectory, write_json
from .early_end import PrunedRunError
from .study import TrialOf, open_storage, pruner_of, quiet_optuna, read_trial

if TYPE_CHECKING:
    import optuna

log = logging.getLogger("tapetum")


def pruning(run: RunDirectory, config: Mapping[str, Any], monitor: str | None) -> list[Callback]:
    """The callback of a run that belongs to a search with a pruner; nothing for any other run."""
    trial = read_trial(run)
    sweep = config.get("sweep")
    if trial is None or monitor is None or not sweep or sweep["pruner"] == "none":
        return []
    return [Pruning(run, trial, sweep, monitor)]


class Pruning(Callback):
    """Reports the monitored value to the study behind each validated epoch, and asks whether to go on.

    A step of the study is a whole epoch, counted from 1, so that trials with different batch sizes compare;
    of several validations in an epoch the last counts. An epoch that was reported before the run was resumed
    keeps the value it had. Behind the last epoch nothing is left to save, so that it is only reported. Of
    several processes the first asks, and all of them hear the answer.

    Raises PrunedRunError, after writing pruned.json, where the run is given up.
    """

    def __init__(self, run: RunDirectory, trial: TrialOf, sweep: Mapping[str, Any], monitor: str) -> None:
        self.run, self.trial, self.sweep, self.monitor = run, trial, sweep, monitor
        self._validated: int | None = None
        self._open: optuna.Trial | None = None

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook: remember the epoch, whose figures are complete when it has ended."""
        if not trainer.sanity_checking:
            self._validated = trainer.current_epoch + 1

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook: report the epoch, before the checkpoint behind which it is not trained again."""
        if self._validated is not None and trainer.is_global_zero:
            self._report(self._validated, float(trainer.callback_metrics[self.monitor]))

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook: an epoch is over and written down, and another is due."""
        epoch, self._validated = self._validated, None
        if epoch is None:
            return
        give_up = self._gives_up() if trainer.is_global_zero else False
        if not trainer.strategy.broadcast(give_up):
            return
        value = float(trainer.callback_metrics[self.monitor])
        reason = f"{self.monitor} {value:.4g} after epoch {epoch} is behind that of other trials"
        if trainer.is_global_zero:
            pruned = {"epoch": epoch, "step": trainer.global_step, "value": value, "reason": reason}
            write_json(self.run.pruned, pruned)
        raise PrunedRunError(f"given up by its search ({self.sweep['pruner']}): {reason}")

    def _report(self, epoch: int, value: float) -> None:
        with quiet_optuna():
            trial = self._known()
            if trial is not None and epoch not in trial.study.trials[trial.number].intermediate_values:
                trial.report(value, epoch)

    def _gives_up(self) -> bool:
        with quiet_optuna():
            trial = self._known()
            return trial is not None and trial.should_prune()

    def _known(self) -> optuna.Trial | None:
        """The trial in its study; none where the study has closed it, so that it is nobody's any more."""
        self._open = self._open or self._trial()
        frozen = self._open.study.trials[self.trial.number]
        return None if frozen.state.is_finished() else self._open

    def _trial(self) -> optuna.Trial:
        import optuna

        try:
            study = optuna.load_study(
                study_name=self.trial.study,
                storage=open_storage(self.trial.storage),
                pruner=pruner_of(self.sweep, self.trial.epochs),
            )
            frozen = study.trials[self.trial.number]
        except (KeyError, IndexError) as error:
            raise TapetumError(
                f"{self.run.path} is trial {self.trial.number} of the study {self.trial.study}, which is not "
                f"in {self.trial.storage} any more: remove {self.run.path / 'trial.json'} to train it alone"
            ) from error
        return optuna.Trial(study, frozen._trial_id)
