"""A run that its search gives up: what it reports, when it is asked, what it leaves behind."""

from __future__ import annotations

import json

import lightning
import optuna
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from optuna.trial import TrialState, create_trial
from tapetum.errors import TapetumError
from tapetum.runs.directory import RunDirectory
from tapetum.runs.early_end import PrunedRunError
from tapetum.runs.pruning import pruning
from tapetum.runs.study import TrialOf, open_storage, pruner_of, write_trial

SWEEP = {"pruner": "median", "warmup": 1, "startup_trials": 1}
SPACE = {"lr": optuna.distributions.FloatDistribution(0.0, 1.0)}


class Falling(lightning.LightningModule):
    """Its val/loss in epoch 1, 2, … is given; `checks` counts validations."""

    def __init__(self, values):
        super().__init__()
        self.values, self.checks = values, 0
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight * batch[0].sum()

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.checks += 1
        self.log("val/loss", self.values[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/all.db"


@pytest.fixture
def study(storage):
    return optuna.create_study(storage=open_storage(storage), study_name="s", direction="minimize")


def finished(study, *values):
    """A trial that has ended, with its val/loss after each epoch."""
    study.add_trial(
        create_trial(
            value=min(values),
            params={"lr": 0.5},
            distributions=SPACE,
            intermediate_values=dict(enumerate(values, 1)),
        )
    )


def train(tmp_path, study, storage, values, *, trial=None, sweep=None, ckpt=None, more=(), **trainer):
    """Fit a module whose validations are given, as trial `trial` (a new one); the run and the module."""
    number = study.ask(SPACE).number if trial is None else trial
    run = RunDirectory(tmp_path / str(number))
    write_trial(run.path, TrialOf(storage, "s", number, 9))
    module = Falling(values)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4)), batch_size=1)
    fitted = lightning.Trainer(
        **{"max_epochs": len(values), **trainer},
        accelerator="cpu",
        callbacks=[*more, *pruning(run, {"sweep": sweep or SWEEP}, "val/loss")],
        logger=False,
        enable_checkpointing=bool(more),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        fitted.fit(module, loader, loader, ckpt_path=ckpt)
    finally:
        fitted.save_checkpoint(tmp_path / "last.ckpt")
    return run, module


def test_a_run_that_falls_behind_is_given_up_and_says_so(tmp_path, study, storage):
    finished(study, 0.5, 0.4, 0.3, 0.2)
    with pytest.raises(
        PrunedRunError, match=r"given up by its search \(median\): val/loss 0\.45 after epoch 2"
    ):
        train(tmp_path, study, storage, [0.5, 0.45, 0.1, 0.1])
    assert json.loads((tmp_path / "1" / "pruned.json").read_text()) == {
        "epoch": 2,
        "step": 8,
        "value": pytest.approx(0.45),
        "reason": "val/loss 0.45 after epoch 2 is behind that of other trials",
    }
    assert study.trials[1].intermediate_values == pytest.approx({1: 0.5, 2: 0.45})
    assert study.trials[1].state == TrialState.RUNNING  # the search tells how it ended


def test_a_run_that_keeps_up_reports_every_epoch_and_finishes(tmp_path, study, storage):
    finished(study, 0.5, 0.4, 0.3)
    run, _ = train(tmp_path, study, storage, [0.4, 0.3, 0.9])
    assert study.trials[1].intermediate_values == pytest.approx({1: 0.4, 2: 0.3, 3: 0.9})
    assert not run.pruned.exists()


def test_the_last_epoch_is_reported_and_gives_up_nothing(tmp_path, study, storage):
    finished(study, 0.5)
    run, _ = train(tmp_path, study, storage, [0.9])
    assert study.trials[1].intermediate_values == pytest.approx({1: 0.9})
    assert not run.pruned.exists()


def test_every_trial_gets_its_warm_up(tmp_path, study, storage):
    finished(study, 0.1, 0.1, 0.1, 0.1)
    with pytest.raises(PrunedRunError, match="after epoch 3"):
        train(tmp_path, study, storage, [0.9] * 5, sweep={**SWEEP, "warmup": 3})


def test_of_several_validations_in_an_epoch_the_last_counts(tmp_path, study, storage):
    _, module = train(tmp_path, study, storage, [0.4, 0.3], val_check_interval=0.5)
    assert module.checks == 2 * 2 * 4
    assert list(study.trials[0].intermediate_values) == [1, 2]


def test_an_epoch_without_validation_is_not_reported(tmp_path, study, storage):
    train(tmp_path, study, storage, [0.4, 0.3, 0.2, 0.1], check_val_every_n_epoch=2)
    assert study.trials[0].intermediate_values == pytest.approx({2: 0.3, 4: 0.1})


def test_a_resumed_run_goes_on_reporting_and_keeps_what_it_had_reported(tmp_path, study, storage):
    train(tmp_path, study, storage, [0.4, 0.3], max_epochs=2)
    last = tmp_path / "last.ckpt"
    train(tmp_path, study, storage, [9.0, 9.0, 0.2], trial=0, ckpt=last)
    assert study.trials[0].intermediate_values == pytest.approx({1: 0.4, 2: 0.3, 3: 0.2})
    train(tmp_path, study, storage, [0.9, 0.9, 0.9], trial=0)  # from the start: killed before a checkpoint
    assert study.trials[0].intermediate_values == pytest.approx({1: 0.4, 2: 0.3, 3: 0.2})


def test_an_epoch_is_reported_before_its_checkpoint_is_written(tmp_path, study, storage):
    """A run killed behind its checkpoint does not train the epoch again, so it could not report it."""
    seen = []

    class Saves(Checkpoint):
        def on_train_epoch_end(self, trainer, module):
            seen.append(dict(study.trials[0].intermediate_values))

    train(tmp_path, study, storage, [0.4, 0.3], more=[Saves()])
    assert [list(values) for values in seen] == [[1], [1, 2]]


def test_a_trial_that_its_study_has_closed_trains_to_its_end(tmp_path, study, storage):
    finished(study, 0.1, 0.1, 0.1)
    trial = study.ask(SPACE)
    study.tell(trial, state=TrialState.FAIL)
    run, _ = train(tmp_path, study, storage, [0.9, 0.9, 0.9], trial=trial.number)
    assert study.trials[trial.number].intermediate_values == {}
    assert not run.pruned.exists()


def test_a_study_that_is_gone_is_explained(tmp_path, study, storage):
    trial = study.ask(SPACE)
    optuna.delete_study(study_name="s", storage=storage)
    with pytest.raises(
        TapetumError, match=r"is trial 0 of the study s, which is not in .*remove .*trial\.json"
    ):
        train(tmp_path, study, storage, [0.9, 0.9], trial=trial.number)


@pytest.mark.parametrize("name", ["halving", "hyperband"])
def test_every_pruner_gives_up_what_is_worst_of_all(study, name):
    """Of nine trials of nine epochs with constant values the worst ends early and the best never does."""
    study.pruner = pruner_of({"pruner": name, "warmup": 1, "startup_trials": 1}, 9)
    ended = {}
    for value in range(9):  # ascending: each is the worst so far
        trial = study.ask(SPACE)
        for epoch in range(1, 10):
            trial.report(value, epoch)
            if trial.should_prune():
                ended[value] = epoch
                break
        study.tell(
            trial,
            state=TrialState.PRUNED if value in ended else None,
            values=None if value in ended else value,
        )
    assert 0 not in ended
    assert 8 in ended


def test_only_runs_of_a_search_with_a_pruner_are_asked(tmp_path, storage):
    run = RunDirectory(tmp_path / "0")
    assert pruning(run, {"sweep": SWEEP}, "val/loss") == []
    write_trial(run.path, TrialOf(storage, "s", 0, 9))
    assert len(pruning(run, {"sweep": SWEEP}, "val/loss")) == 1
    assert pruning(run, {"sweep": {**SWEEP, "pruner": "none"}}, "val/loss") == []
    assert pruning(run, {}, "val/loss") == []
    assert pruning(run, {"sweep": SWEEP}, None) == []
