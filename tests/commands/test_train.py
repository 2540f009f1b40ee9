"""`tapetum train`: every file of a run, the order in which settings win, limits and splits."""

from __future__ import annotations

import json
import math
import re
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from sklearn import metrics as sk
from tapetum.commands import train as training
from tapetum.config.compose import compose
from tapetum.config.overrides import prepare
from tapetum.runs.checkpoints import read_checkpoint
from tapetum.runs.history import read_history

from commands.experiments import run, runs, tiny, train
from layouts import make_cifake, make_folder, make_manifest


def figures(run_directory):
    return json.loads((run_directory / "metrics.json").read_text())


def predictions(run_directory, split):
    return pq.read_table(run_directory / "predictions" / f"{split}.parquet")


def test_a_run_leaves_every_file_of_its_record(finished):
    everything = [path.relative_to(finished) for path in finished.rglob("*") if path.is_file()]
    files = {str(path) for path in everything if path.parts[0] != "evaluations"}  # other tests' own
    expected = {
        "config.yaml", "command.txt", "environment.json", "train.log", "metrics.csv", "metrics.json",
        "notes.json", "checkpoints/best.ckpt", "checkpoints/best.json", "checkpoints/last.ckpt",
        "checkpoints/last.json", "predictions/val.parquet", "predictions/test.parquet", "report/index.html",
    }  # fmt: skip
    assert expected <= files
    assert all(name in expected or re.fullmatch(r"report/[\w-]+\.png", name) for name in files)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{6}", finished.name)
    assert finished.parent.name == "timm_backbone-folder"
    assert finished.parent.parent.name == "detection"


def test_the_config_on_the_disk_is_the_one_that_was_composed(finished, folder):
    outputs = finished.parents[2]
    more = ("trainer.max_epochs=2", "optimizer.lr=0.01", "train.report=true")
    composed = compose(prepare(tiny(folder, outputs, *more), multirun=False)).config
    assert yaml.safe_load((finished / "config.yaml").read_text()) == composed
    assert read_checkpoint(finished / "checkpoints" / "best.ckpt")["tapetum"]["config"] == composed


def test_metrics_have_flat_names_in_the_allowed_characters(finished):
    found = figures(finished)
    assert all(re.fullmatch(r"[A-Za-z0-9_./ -]+", name) for name in found)
    assert all(isinstance(value, float | int) for value in found.values())
    assert {"val/auroc", "val/threshold", "test/accuracy", "test/accuracy_tuned", "run/seconds"} <= set(found)
    assert "test/generator/ai_generated/accuracy" in found
    assert found["run/steps"] == 12


def test_predictions_are_the_figures(finished):
    table = predictions(finished, "test")
    assert table.column_names == [
        "index", "path", "split", "label", "generator", "logit", "probability", "verdict", "band",
    ]  # fmt: skip
    assert len(table) == 16
    assert set(table["split"].to_pylist()) == {"test"}
    labels, logits = table["label"].to_numpy(), table["logit"].to_numpy()
    assert [path.split("/")[1] == "ai_generated" for path in table["path"].to_pylist()] == list(labels == 1)
    found = figures(finished)
    assert found["test/auroc"] == pytest.approx(sk.roc_auc_score(labels, logits), abs=1e-6)
    assert found["test/accuracy"] == pytest.approx(np.mean((logits > 0) == (labels == 1)), abs=1e-6)


def test_the_tuned_accuracy_uses_the_threshold_of_the_validation_split(finished):
    found = figures(finished)
    table, test = predictions(finished, "val"), predictions(finished, "test")
    scores, labels = table["logit"].to_numpy(), table["label"].to_numpy()
    sorted_scores = np.unique(scores)
    cuts = [sorted_scores[0] - 1, *(sorted_scores[1:] + sorted_scores[:-1]) / 2, sorted_scores[-1] + 1]
    best = max(sk.balanced_accuracy_score(labels, scores > cut) for cut in cuts)
    assert sk.balanced_accuracy_score(labels, scores > found["val/threshold"]) == pytest.approx(best)
    hits = (test["logit"].to_numpy() > found["val/threshold"]) == (test["label"].to_numpy() == 1)
    assert found["test/accuracy_tuned"] == pytest.approx(hits.mean(), abs=1e-6)


def test_the_best_checkpoint_is_the_best_epoch_and_what_was_tested(finished):
    history = [row for row in read_history(finished / "metrics.csv") if "val/auroc" in row]
    assert len(history) == 2
    best = json.loads((finished / "checkpoints" / "best.json").read_text())
    assert best["monitored"] == pytest.approx(max(row["val/auroc"] for row in history), abs=1e-6)
    assert figures(finished)["best/val/auroc"] == pytest.approx(best["monitored"])
    assert figures(finished)["val/auroc"] == pytest.approx(best["monitored"], abs=1e-6)
    assert json.loads((finished / "checkpoints" / "last.json").read_text())["step"] == 12


def test_a_run_ends_with_its_table_and_the_reports_path(folder, tmp_path, capsys):
    made = train(folder, tmp_path, "name=a study", "train.report=true")
    said = capsys.readouterr().out
    assert "a study on cpu: 32-true, 1 process, effective batch 8, 374,289 parameters" in said
    assert "* val/auroc" not in said.splitlines()[0]
    assert "accuracy_tuned" in said
    assert said.rstrip().endswith(f"report  {made / 'report' / 'index.html'}")
    assert "<html" in (made / "report" / "index.html").read_text()[:200]
    log = (made / "train.log").read_text()
    assert "effective batch 8" in log
    assert "epoch 1/1  train/loss" in log


def test_train_returns_the_monitored_value(folder, tmp_path):
    overrides = tiny(folder, tmp_path, "train.monitor=val/loss", "train.mode=min", "trainer.max_epochs=3")
    value = training.train(compose(prepare(overrides, multirun=False)))
    (made,) = runs(tmp_path)
    logged = [row["val/loss"] for row in read_history(made / "metrics.csv") if "val/loss" in row]
    assert value == pytest.approx(min(logged), abs=1e-6)


def test_the_command_is_kept_so_that_it_can_be_pasted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "name=two words"])
    made = train(folder, tmp_path, "name=two words")
    assert (made / "command.txt").read_text() == "train.py 'name=two words'\n"


def test_default_then_model_then_experiment_then_command_line():
    def lr(*overrides):
        config = compose(prepare(list(overrides), multirun=False)).config
        return config["optimizer"]["lr"], config["data"]["batch_size"]

    assert lr("model=small_resnet") == (1e-4, 32)
    assert lr("model=npr")[0] == 2e-4
    assert lr("model=npr", "experiment=product_photo_detector") == (1e-3, 64)
    assert lr("experiment=product_photo_detector", "data.batch_size=5", "optimizer.lr=3") == (3, 5)
    assert lr("optimizer.lr=3", "data.batch_size=5", "experiment=product_photo_detector") == (3, 5)
    assert lr("model=npr", "optimizer=sgd")[0] == 0.01


def test_limits_hold_a_split_at_a_time(folder, tmp_path):
    made = train(folder, tmp_path, "data.limit={train: 16, test: 4}")
    assert len(predictions(made, "test")) == 4
    assert sorted(predictions(made, "test")["label"].to_pylist()) == [0, 0, 1, 1]
    assert len(predictions(made, "val")) == 16
    assert figures(made)["run/steps"] == 2


def test_a_report_that_was_left_out_is_written_later(folder, tmp_path, capsys):
    made = train(folder, tmp_path)
    assert not (made / "report").exists()
    assert capsys.readouterr().out.rstrip().endswith(f"report  tapetum report {made}")
    assert run("report", str(made)) == 0
    assert "<html" in (made / "report" / "index.html").read_text()[:200]
    again = tiny(folder, tmp_path, f"resume={made}", "trainer.max_epochs=2")
    assert run("train", *again) == 0
    assert not (made / "report").exists()  # it was of the first epoch
    assert run("train", *again) == 1
    assert f"has finished, at step 12: tapetum report {made} shows it" in capsys.readouterr().err


def test_limits_of_batches_hold_for_the_predictions_too(folder, tmp_path):
    made = train(
        folder, tmp_path, "data.eval_batch_size=4", "trainer.limit_train_batches=0.5",
        "trainer.limit_val_batches=1", "trainer.limit_test_batches=0.5",
    )  # fmt: skip
    assert figures(made)["run/steps"] == 3
    assert len(predictions(made, "val")) == 4
    assert len(predictions(made, "test")) == 8


def test_without_validation_training_works_and_says_what_it_cannot_do(tmp_path, capsys):
    data = make_folder(tmp_path / "data", splits={"train": 12, "test": 4})
    made = train(data, tmp_path / "out", "data.val_fraction=0", "train.report=true")
    assert "There is no validation split" in capsys.readouterr().out
    assert not (made / "checkpoints" / "best.ckpt").exists()
    assert "There is no validation split" in (made / "report" / "index.html").read_text()
    found = figures(made)
    assert "test/accuracy_tuned" not in found
    assert not any(name.startswith(("val/", "best/")) for name in found)


def test_validation_switched_off_is_no_validation(folder, tmp_path, capsys):
    made = train(folder, tmp_path, "trainer.limit_val_batches=0")
    assert "Validation is switched off (trainer.limit_val_batches=0)" in capsys.readouterr().out
    assert not (made / "checkpoints" / "best.ckpt").exists()
    assert not (made / "predictions" / "val.parquet").exists()


def test_a_run_that_ends_inside_its_first_epoch_tests_its_last_weights(folder, tmp_path):
    made = train(folder, tmp_path, "trainer.max_steps=2", "scheduler=constant")
    assert not (made / "checkpoints" / "best.ckpt").exists()
    assert figures(made)["run/steps"] == 2
    assert "test/auroc" in figures(made)


def test_validation_and_saving_go_by_steps_too(folder, tmp_path):
    made = train(
        folder, tmp_path, "trainer.val_check_interval=2", "callbacks.checkpoint.every_n_steps=2",
        "callbacks.checkpoint.top_k=2",
    )  # fmt: skip
    steps = [row["step"] for row in read_history(made / "metrics.csv") if "val/auroc" in row]
    assert steps == [2, 4, 6]
    assert len(list((made / "checkpoints").glob("top-epoch=*.ckpt"))) == 2


def test_accumulation_counts_in_the_effective_batch(folder, tmp_path, capsys):
    made = train(folder, tmp_path, "trainer.accumulate_grad_batches=2")
    assert "effective batch 16" in capsys.readouterr().out
    assert figures(made)["run/steps"] == 3


@pytest.mark.parametrize("layout", ["manifest", "cifake"])
def test_other_layouts_train(tmp_path, layout):
    make = {"manifest": make_manifest, "cifake": make_cifake}[layout]
    data = make(tmp_path / "data")
    made = train(
        data, tmp_path / "out", f"data={layout}", "data.val_fraction=0.25", f"paths.cache={tmp_path}"
    )
    found = figures(made)
    assert math.isfinite(found["test/auroc"])
    if layout == "manifest":
        assert {"test/generator/gan_a/auroc", "test/generator/gan_b/auroc"} <= set(found)
    assert len(predictions(made, "test")) == 16


def test_a_split_may_have_a_root_of_its_own(folder, tmp_path):
    other = make_folder(tmp_path / "other", splits={"": 3}, seed=9)
    made = train(folder, tmp_path / "out", f"data.roots.test={other}")
    assert len(predictions(made, "test")) == 6
    assert len(predictions(made, "val")) == 16


@pytest.mark.parametrize("sampler", ["class_balanced", "generator_balanced"])
def test_samplers_train(folder, tmp_path, sampler):
    assert figures(train(folder, tmp_path, f"data.sampler={sampler}"))["run/steps"] == 6


def test_a_model_that_is_not_to_be_fitted_goes_straight_to_its_figures(folder, tmp_path, capsys):
    made = train(folder, tmp_path, "model.fit=false")
    said = capsys.readouterr().out
    assert "model.fit=false: nothing is trained, the network is evaluated as it is" in said
    assert "chose the checkpoint" not in said
    assert not list((made / "checkpoints").iterdir())
    assert "test/auroc" in figures(made)


@pytest.mark.parametrize(
    ("overrides", "oracle"),
    [
        (["model.loss._target_=torch.nn.BCEWithLogitsLoss"], "train/loss"),
        (["model.loss._target_=own_parts.Squared", "allow_targets=[own_parts]"], "train/loss"),
    ],
)
def test_a_loss_of_ones_own_replaces_the_default(folder, tmp_path, overrides, oracle):
    made = train(folder, tmp_path, *overrides)
    table = predictions(made, "val")
    logits, labels = torch.tensor(table["logit"].to_numpy()), torch.tensor(table["label"].to_numpy())
    if "Squared" in overrides[0]:
        expected = (logits.sigmoid() - labels).square().mean()
    else:
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
    (logged,) = [row["val/loss"] for row in read_history(made / "metrics.csv") if "val/loss" in row]
    assert logged == pytest.approx(float(expected), abs=1e-5)


def test_several_losses_add_up_by_their_weights(folder, tmp_path):
    terms = (
        "{loss:{_target_:tapetum.modules.losses.BinaryCrossEntropy},weight:0.5},"
        "{loss:{_target_:own_parts.Squared},weight:2}"
    )
    made = train(folder, tmp_path, f"model.loss=[{terms}]", "allow_targets=[own_parts]")
    table = predictions(made, "val")
    logits, labels = torch.tensor(table["logit"].to_numpy()), torch.tensor(table["label"].to_numpy()).float()
    cross = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    expected = 0.5 * cross + 2 * (logits.sigmoid() - labels).square().mean()
    (logged,) = [row["val/loss"] for row in read_history(made / "metrics.csv") if "val/loss" in row]
    assert logged == pytest.approx(float(expected), abs=1e-5)


def test_two_outputs_and_cross_entropy_train(folder, tmp_path):
    target = "model.loss._target_=tapetum.modules.losses.CrossEntropy"
    assert "test/auroc" in figures(train(folder, tmp_path, "model.net.classes=2", target))
