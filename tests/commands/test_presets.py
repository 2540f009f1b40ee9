"""Every optimizer, schedule, augmentation, callback and debug preset trains, and does what it says."""

from __future__ import annotations

import json
import math
from itertools import product

import pytest
import tapetum
import torch
from tapetum.config.groups import option_names
from tapetum.runs.checkpoints import read_checkpoint
from tapetum.runs.history import read_history

from commands.experiments import PLAIN, run, runs, tiny, train

STEPS = 6  # an epoch of 48 images in batches of 8


def last(made):
    return read_checkpoint(made / "checkpoints" / "last.ckpt")


def figures(made):
    return json.loads((made / "metrics.json").read_text())


def rates(made):
    return [row["lr/head"] for row in read_history(made / "metrics.csv") if "train/loss_step" in row]


SCHEDULES = {  # rate of the steps 0 … 11 as a share of the way from the floor 1e-6 to the peak
    "constant": lambda k: 1.0,
    "step": lambda k: 1.0,
    "cosine": lambda k: (
        (k + 1) / 7 - 1e-4 * (6 - k) / 7 if k < 6 else (1 + math.cos(math.pi * (k - 6) / 6)) / 2
    ),
    "linear": lambda k: (k + 1) / 7 - 1e-4 * (6 - k) / 7 if k < 6 else 1 - (k - 6) / 6,
    "plateau": lambda k: 1.0,
}


@pytest.mark.parametrize("name", option_names("scheduler"))
def test_every_schedule_gives_its_rates(folder, tmp_path, name):
    made = train(
        folder, tmp_path, f"scheduler={name}", "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
        "optimizer.lr=0.01",
    )  # fmt: skip
    # Read behind each step: the rate of the step to come.
    expected = [1e-6 + (0.01 - 1e-6) * SCHEDULES[name](k) for k in range(2 * STEPS)]
    assert rates(made) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", option_names("optimizer"))
def test_every_optimizer_moves_the_weights(folder, tmp_path, name):
    made = train(folder, tmp_path, f"optimizer={name}", "scheduler=constant")
    state = last(made)["optimizer_states"][0]
    decays = {group["name"]: group["weight_decay"] for group in state["param_groups"]}
    assert all(decays[part] == 0 for part in decays if part.endswith("no_decay"))
    kept = {"momentum_buffer"} if name in ("sgd", "coop") else {"step", "exp_avg", "exp_avg_sq"}
    assert kept == set(state["state"][0])


def test_head_and_backbone_learn_at_their_own_rates(folder, tmp_path):
    made = train(folder, tmp_path, "model.backbone_lr=0.001", "optimizer.lr=0.01", "scheduler=constant")
    (row,) = [row for row in read_history(made / "metrics.csv") if "train/loss" in row]
    found = [row["lr/head"], row["lr/backbone"], row["lr/backbone_no_decay"]]
    assert found == pytest.approx([0.01, 0.001, 0.001])


def test_augmentations_change_what_is_trained_on(folder, tmp_path):
    weights = {}
    for name in option_names("augment"):
        made = train(folder, tmp_path / name, f"augment={name}", "optimizer.lr=0.01")
        weights[name] = last(made)["state_dict"][_first(made)]
    for one, other in product(weights, weights):
        assert torch.equal(weights[one], weights[other]) == (one == other)


def _first(made):
    return next(name for name, value in last(made)["state_dict"].items() if value.ndim == 4)


def test_early_stopping_stops_and_null_switches_it_off(folder, tmp_path):
    still = ["optimizer.lr=1e-12", "scheduler=constant", "trainer.max_epochs=6", "train.monitor=val/accuracy"]
    made = train(folder, tmp_path / "a", *still, "callbacks.early_stopping.patience=2")
    assert figures(made)["run/epochs"] == 3
    for words in (["callbacks.early_stopping=null"], ["callbacks=none"]):
        made = train(folder, tmp_path / words[0].split("=")[0], *still[:2], "trainer.max_epochs=4", *words)
        assert figures(made)["run/epochs"] == 4


def test_ema_tests_and_keeps_the_average(folder, tmp_path):
    made = train(folder, tmp_path, "callbacks=ema", "optimizer.lr=0.01", "callbacks.ema.decay=0.5")
    checkpoint = last(made)
    average, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    name = _first(made)
    assert not torch.equal(average[name], current[name])
    loaded = tapetum.load(made, device="cpu")
    assert torch.equal(loaded.module.state_dict()[name], average[name])
    (logged,) = [row["val/loss"] for row in read_history(made / "metrics.csv") if "val/loss" in row]
    assert figures(made)["val/nll"] == pytest.approx(logged, abs=1e-4)


@pytest.mark.parametrize("net", ["batchnorm", "plain"])
def test_swa_tests_and_keeps_the_average_of_the_last_epochs(folder, tmp_path, capsys, net):
    words = ["callbacks=swa", "trainer.max_epochs=4", "callbacks.swa.swa_lrs=0.05", "optimizer.lr=0.05"]
    if net == "plain":
        words += PLAIN
    code = run("train", *tiny(folder, tmp_path, *words))
    assert code == 0
    assert "swa: the average of 2 epochs is kept and tested" in capsys.readouterr().out
    (made,) = runs(tmp_path)
    best = read_checkpoint(made / "checkpoints" / "best.ckpt")
    for name, value in last(made)["state_dict"].items():
        assert torch.equal(best["state_dict"][name], value)
    kept = [key for key in best["callbacks"] if "StochasticWeightAveraging" in key]
    average = best["callbacks"][kept[0]]["average_model_state"]
    for name, value in average.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(best["state_dict"][name], value), name
    assert figures(made)["val/auroc"] == pytest.approx(best["tapetum"]["metadata"]["monitored"], abs=1e-6)


def test_the_learning_rate_finder_decides_the_rate_that_is_used(folder, tmp_path, capsys):
    made = train(
        folder, tmp_path, "callbacks=lr_finder", "scheduler=constant", "callbacks.lr_finder.max_lr=1",
        "train.report=true",
    )  # fmt: skip
    found = json.loads((made / "found.json").read_text())["optimizer.lr"]
    assert 1e-6 < found < 1
    assert f"found optimizer.lr={found:.4g}" in capsys.readouterr().out
    assert last(made)["optimizer_states"][0]["param_groups"][0]["lr"] == found
    assert last(made)["tapetum"]["config"]["optimizer"]["lr"] == found
    assert "found by a search: optimizer.lr" in (made / "report" / "index.html").read_text()
    assert not list(made.glob(".lr_find*"))


def test_a_search_for_a_learning_rate_leaves_the_training_as_it_would_be(folder, tmp_path):
    searched = train(folder, tmp_path / "a", "callbacks=lr_finder", "callbacks.lr_finder.max_lr=1")
    rate = json.loads((searched / "found.json").read_text())["optimizer.lr"]
    straight = train(folder, tmp_path / "b", f"optimizer.lr={rate!r}")
    for name, value in last(straight)["state_dict"].items():
        assert torch.equal(last(searched)["state_dict"][name], value), name


def test_the_batch_size_finder_decides_the_batch_that_is_used(folder, tmp_path):
    made = train(folder, tmp_path, "callbacks=batch_size_finder", "callbacks.batch_size_finder.max_trials=3")
    found = json.loads((made / "found.json").read_text())["data.batch_size"]
    assert found == 8  # 2, 4, 8
    assert last(made)["global_step"] == 48 // found
    assert not list(made.glob(".scale_batch_size*"))


def test_fast_dev_run_touches_every_part_and_keeps_nothing(folder, tmp_path, capsys):
    assert run("train", *tiny(folder, tmp_path, "debug=fast_dev_run")) == 0
    said = capsys.readouterr().out
    assert "fast_dev_run: every part has run on one batch, and nothing was kept" in said
    assert "report" not in said
    assert not list(tmp_path.iterdir())


def test_overfit_sees_the_same_batches_until_the_loss_is_gone(folder, tmp_path):
    made = train(folder, tmp_path, "debug=overfit", "trainer.max_epochs=15", "optimizer.lr=0.01")
    losses = [row["train/loss"] for row in read_history(made / "metrics.csv") if "train/loss" in row]
    assert figures(made)["run/steps"] == 3 * 15
    assert losses[-1] < losses[0] / 2


def test_the_profiler_writes_into_the_run_and_says_where(folder, tmp_path, capsys):
    made = train(folder, tmp_path, "debug=profiler")
    profile = made / "fit-profile.txt"
    assert f"profile {profile}" in capsys.readouterr().out
    assert "run_training_batch" in profile.read_text()


def test_limit_is_two_epochs_of_a_handful_of_batches(folder, tmp_path):
    words = [
        word
        for word in tiny(folder, tmp_path, "debug=limit", "data.batch_size=4")
        if "max_epochs" not in word
    ]
    assert run("train", *words) == 0
    (made,) = runs(tmp_path)
    assert (figures(made)["run/epochs"], figures(made)["run/steps"]) == (2, 10)


def test_tensorboard_gets_the_figures_too(folder, tmp_path):
    pytest.importorskip("tensorboard")
    made = train(folder, tmp_path, "logger=tensorboard")
    assert list((made / "tensorboard").glob("events*"))
    assert (made / "metrics.csv").is_file()


def test_bf16_trains_and_predicts_on_the_cpu(folder, tmp_path, capsys):
    made = train(folder, tmp_path, "trainer.precision=bf16-mixed")
    assert "on cpu: bf16-mixed" in capsys.readouterr().out
    assert last(made)["state_dict"][_first(made)].dtype == torch.float32


def test_channels_last_changes_the_memory_and_not_the_figures(folder, tmp_path):
    plain = train(folder, tmp_path / "a")
    last_ones = train(folder, tmp_path / "b", "train.channels_last=true")
    assert figures(last_ones)["val/nll"] == pytest.approx(figures(plain)["val/nll"], abs=1e-3)
