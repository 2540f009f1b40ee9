"""`resume=` and `weights=`: what goes on, what starts anew, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tapetum.runs.checkpoints import read_checkpoint
from tapetum.runs.directory import RunDirectory
from tapetum.runs.history import read_history
from tapetum.runs.lock import held

from commands.experiments import run, runs, tiny, train
from layouts import make_folder, make_image


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the shared run in an outputs folder of its own, free to be changed."""
    made = tmp_path / "detection" / "timm_backbone-folder" / finished.name
    shutil.copytree(finished, made)
    return made


def again(folder, made, *more):
    outputs = made.parents[2]
    return run("train", *tiny(folder, outputs, "trainer.max_epochs=2", "optimizer.lr=0.01", *more))


def test_resume_auto_without_anything_to_resume_starts_fresh_and_says_so(folder, tmp_path, capsys):
    assert run("train", *tiny(folder, tmp_path, "resume=auto")) == 0
    assert "resume=auto: no unfinished run has this config, so a new one starts" in capsys.readouterr().out
    assert len(runs(tmp_path)) == 1


def test_a_finished_run_says_that_it_is_finished(folder, copied, capsys):
    before = (copied / "metrics.json").read_text()
    assert again(folder, copied, f"resume={copied}") == 1
    said = capsys.readouterr().err
    assert f"{copied} has finished, at step 12" in said
    assert "trainer.max_epochs=4" in said
    assert (copied / "metrics.json").read_text() == before


def test_a_finished_run_goes_on_for_more_epochs_in_its_own_directory(folder, copied, capsys):
    assert again(folder, copied, f"resume={copied}", "trainer.max_epochs=3") == 0
    assert f"resuming {copied} at epoch 2, step 12" in capsys.readouterr().out
    assert len(runs(copied.parents[2])) == 1
    assert json.loads((copied / "metrics.json").read_text())["run/steps"] == 18
    assert "max_epochs: 3" in (copied / "config.yaml").read_text()
    assert len((copied / "command.txt").read_text().splitlines()) == 2


def test_the_seconds_of_a_run_that_goes_on_are_those_of_the_whole_run(folder, copied):
    file = copied / "checkpoints" / "last.ckpt"
    loaded = torch.load(file, weights_only=True)
    (before,) = (state for state in loaded["callbacks"].values() if "seconds" in state)
    assert 0 < before["seconds"] <= json.loads((copied / "metrics.json").read_text())["run/seconds"]
    before["seconds"] += 1000
    torch.save(loaded, file)
    assert again(folder, copied, f"resume={copied}", "trainer.max_epochs=3") == 0
    seconds = json.loads((copied / "metrics.json").read_text())["run/seconds"]
    assert before["seconds"] < seconds < before["seconds"] + 600


@pytest.mark.parametrize(
    ("interval", "checkpoint", "cuts"),
    [
        (6, 3, ["12 validation", "18 training", "27 training"]),
        (3, 3, ["9 validation", "18 training", "27 training"]),
        (4, 11, ["11 training"]),
    ],
    ids=["at the end", "in the middle too", "behind the last of an epoch"],
)
def test_a_run_cut_around_a_validation_is_the_run_that_was_not_cut(
    folder, tmp_path, monkeypatch, interval, checkpoint, cuts
):
    """Of six steps an epoch; 9 and 12: what it goes on from is behind a step that a validation follows.

    18: it goes on from the end of an epoch, which is when a plateau lowers its rate. Its network has dropout.
    """

    def words(outputs):
        return tiny(
            folder, outputs, "trainer.max_epochs=5", f"trainer.val_check_interval={interval}",
            f"callbacks.checkpoint.every_n_steps={checkpoint}", "scheduler=plateau", "scheduler.patience=0",
            "scheduler.factor=0.5", "optimizer.lr=0.1", "train.monitor=val/accuracy",
            "callbacks.early_stopping.patience=20", "allow_targets=[own_parts]",
            "+callbacks.cut._target_=own_parts.RaiseAfter",
        )  # fmt: skip

    for number, cut_after in enumerate(cuts):
        monkeypatch.setenv("AFTER", cut_after)
        assert run("train", *words(tmp_path / "cut"), *(["resume=auto"] if number else [])) == 1
    monkeypatch.setenv("AFTER", "never")
    assert run("train", *words(tmp_path / "cut"), "resume=auto") == 0
    assert run("train", *words(tmp_path / "straight")) == 0
    (cut,), (straight,) = runs(tmp_path / "cut"), runs(tmp_path / "straight")
    kept = ("epoch", "step", "train/loss", "train/accuracy", "val/loss", "lr/head")
    expected, reached = (
        [
            {name: row[name] for name in kept if name in row}
            for row in read_history(made / "metrics.csv")
            if "train/loss" in row or "val/loss" in row
        ]
        for made in (straight, cut)
    )
    assert len({row["lr/head"] for row in expected if "lr/head" in row}) > 1
    assert reached == expected
    assert sum("val/loss" in row for row in reached) == 5 * (6 // interval)
    for name in ("last", "best"):
        mine, its = (read_checkpoint(made / "checkpoints" / f"{name}.ckpt") for made in (cut, straight))
        assert all(torch.equal(mine["state_dict"][key], value) for key, value in its["state_dict"].items())
        validated = mine["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"]
        assert validated["ready"] == validated["started"] == validated["completed"]
    epochs = [row for row in read_history(cut / "metrics.csv") if "train/loss" in row]
    assert len(epochs) == 5
    assert max(row["speed/epoch_seconds"] for row in epochs) < 60
    assert all(row.get("speed/images_per_second") != 0 for row in epochs)


def test_a_run_cut_in_the_validation_behind_its_last_step_keeps_what_it_logged(folder, tmp_path, monkeypatch):
    """Nothing is trained any more, and Lightning validates nothing then."""
    words = tiny(
        folder, tmp_path, "trainer.max_epochs=-1", "trainer.max_steps=6", "scheduler=constant",
        "callbacks.checkpoint.every_n_steps=3", "allow_targets=[own_parts]",
        "+callbacks.cut._target_=own_parts.RaiseAfter",
    )  # fmt: skip
    monkeypatch.setenv("AFTER", "6 validation")
    assert run("train", *words) == 1
    (made,) = runs(tmp_path)
    before = read_history(made / "metrics.csv")
    monkeypatch.setenv("AFTER", "never")
    assert run("train", *words, "resume=auto") == 0
    assert read_history(made / "metrics.csv")[: len(before)] == before


def test_a_run_that_is_in_use_is_neither_resumed_nor_changed(folder, copied, capsys):
    (copied / "metrics.json").unlink()
    before = (copied / "config.yaml").read_text()
    with held(RunDirectory(copied)):
        assert again(folder, copied, "resume=auto", "trainer.max_epochs=3") == 1
    assert f"{copied} is in use: another process is training in it" in capsys.readouterr().err
    assert (copied / "config.yaml").read_text() == before


def test_an_unfinished_run_is_found_by_auto(folder, copied):
    (copied / "metrics.json").unlink()
    assert again(folder, copied, "resume=auto") == 0
    assert (copied / "metrics.json").is_file()
    assert len(runs(copied.parents[2])) == 1


def test_a_changed_config_is_refused_key_by_key(folder, copied, capsys):
    before = (copied / "config.yaml").read_text()
    assert again(folder, copied, f"resume={copied}", "seed=7", "model.net.dropout=0.1") == 2
    said = capsys.readouterr().err
    assert f"seed=7, but the run that resume={copied} continues has 42" in said
    assert "model.net.dropout=0.1, but" in said
    assert f"weights={copied}" in said
    assert (copied / "config.yaml").read_text() == before


def test_a_changed_index_is_refused(tmp_path, capsys):
    data = make_folder(tmp_path / "data", splits={"train": 8, "val": 4, "test": 4})
    made = train(data, tmp_path / "out")
    make_image(data / "train" / "real" / "new.jpg", generated=False, seed=1)
    (made / "metrics.json").unlink()
    assert run("train", *tiny(data, tmp_path / "out", f"resume={made}")) == 1
    assert (
        f"the data changed since {made / 'checkpoints' / 'last.ckpt'} was written" in capsys.readouterr().err
    )


def test_resume_needs_a_run(folder, tmp_path, capsys):
    assert run("train", *tiny(folder, tmp_path, f"resume={tmp_path}")) != 0
    assert str(tmp_path) in capsys.readouterr().err
    assert not runs(tmp_path)


@pytest.mark.parametrize("kind", ["run", "ckpt"])
def test_weights_start_a_new_run_and_say_what_matched(finished, folder, tmp_path, capsys, kind):
    source = finished if kind == "run" else finished / "checkpoints" / "last.ckpt"
    made = train(
        folder,
        tmp_path,
        f"weights={source}",
        "model.net.hidden=8",
        "optimizer.lr=1e-12",
        "scheduler=constant",
    )
    said = capsys.readouterr().out
    which = "best" if kind == "run" else "last"
    own = read_checkpoint(finished / "checkpoints" / f"{which}.ckpt")["state_dict"]
    new = read_checkpoint(made / "checkpoints" / "last.ckpt")["state_dict"]
    matching = [name for name in new if name in own and own[name].shape == new[name].shape]
    assert 0 < len(matching) < len(new)
    assert (
        f"weights: {len(matching)} of {len(new)} tensors from {finished / 'checkpoints' / which}.ckpt" in said
    )
    assert "weights of another shape, new here: classifier.0.weight (16x96 there, 8x96 here)" in said
    name = next(name for name in matching if new[name].ndim == 4)
    assert torch.allclose(new[name], own[name], atol=1e-8)


def test_weights_of_another_network_are_refused(finished, folder, tmp_path, capsys):
    assert run("train", *tiny(folder, tmp_path, f"weights={finished}", "model=npr", "model.net.size=32")) == 1
    assert "nothing in" in capsys.readouterr().err
