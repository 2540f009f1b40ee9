"""What users meet: each failure has its message and exit code, and nothing that was there is lost."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import tapetum
import torch
from PIL import Image
from tapetum.errors import CheckpointError, ConfigError
from tapetum.runs.checkpoints import read_checkpoint

from commands.experiments import PLAIN, run, runs, tiny, train
from layouts import make_folder


@pytest.fixture
def photos(tmp_path):
    return make_folder(tmp_path / "photos", splits={"train": 8, "val": 4, "test": 4})


def failure(capsys, data, outputs, *more, code):
    """Train, insist on the exit code, and give back what was said."""
    assert run("train", *tiny(data, outputs, *more)) == code
    return capsys.readouterr().err


def corrupt(file):
    file.write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))


def truncated(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file):
    file.write_bytes(b"")


def huge(file):
    Image.new("L", (20000, 20000)).save(file.with_suffix(".png"))
    file.with_suffix(".png").rename(file)


def text(file):
    file.write_text("not an image at all")


@pytest.mark.parametrize("spoil", [corrupt, truncated, empty, huge, text])
def test_a_bad_image_stops_the_run_and_is_named(photos, tmp_path, capsys, spoil):
    bad = photos / "train" / "real" / "0003.jpg"
    spoil(bad)
    said = failure(capsys, photos, tmp_path / "out", code=1)
    assert said.startswith(f"error: image {bad} can't be used: ")
    assert "data.on_bad_image=skip" in said
    assert "Traceback" not in said


def test_bad_images_are_skipped_counted_and_listed(photos, tmp_path, capsys):
    files = {
        corrupt: "train/real/0003.jpg",
        truncated: "train/ai_generated/0001.jpg",
        empty: "val/real/0000.jpg",
        huge: "test/real/0002.jpg",
        text: "test/ai_generated/0000.jpg",
    }
    for spoil, name in files.items():
        spoil(photos / name)
    made = train(photos, tmp_path / "out", "data.on_bad_image=skip", "train.report=true")
    listed = json.loads((made / "bad_images.json").read_text())
    assert {one["path"] for one in listed} == set(files.values())
    assert all(one["reason"] for one in listed)
    said = "5 images could not be read and were left out, see bad_images.json"
    assert said in capsys.readouterr().out
    assert said in (made / "report" / "index.html").read_text()
    assert json.loads((made / "notes.json").read_text())["notes"][-1] == said


def test_a_wrong_ending_is_no_reason_to_stop(photos, tmp_path):
    Image.open(photos / "train" / "real" / "0000.jpg").save(tmp_path / "a.png")
    shutil.move(tmp_path / "a.png", photos / "train" / "real" / "0000.jpg")
    train(photos, tmp_path / "out")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: shutil.rmtree(root), ["photos"]),
        (lambda root: (shutil.rmtree(root), root.mkdir()), ["photos"]),
        (lambda root: shutil.rmtree(root / "train" / "real"), ["one class only (generated: 8)"]),
        (lambda root: shutil.rmtree(root / "train"), ["train"]),
    ],
    ids=["missing", "empty", "one class", "no train"],
)
def test_folders_that_cannot_be_trained_on_say_so(photos, tmp_path, capsys, spoil, words):
    spoil(photos)
    assert run("train", *tiny(photos, tmp_path / "out")) in (1, 2)
    said = capsys.readouterr().err
    assert all(word in said for word in words)
    assert "Traceback" not in said
    assert not runs(tmp_path / "out")


def test_a_loss_that_is_nan_at_once_stops_and_names_its_images(photos, tmp_path, capsys):
    words = ("optimizer.lr=1e30", "trainer.gradient_clip_val=null", "scheduler=constant")
    said = failure(capsys, photos, tmp_path / "out", *words, code=1)
    assert said.startswith(("error: the loss became ", "error: the weights "))
    (made,) = runs(tmp_path / "out")
    assert not list((made / "checkpoints").glob("*.ckpt"))


def test_a_loss_that_becomes_nan_keeps_the_last_good_checkpoint(photos, tmp_path, capsys):
    words = (
        "model.loss._target_=own_parts.Squared", "+model.loss.nan_at=3", "allow_targets=[own_parts]",
        "trainer.max_epochs=4",
    )  # fmt: skip
    said = failure(capsys, photos, tmp_path / "out", *words, code=1)
    (made,) = runs(tmp_path / "out")
    last = made / "checkpoints" / "last.ckpt"
    assert said.startswith("error: the loss became nan at step 3 on the batch of train/")
    assert f"The last good checkpoint is kept: {last}." in said
    assert "optimizer.lr=3.3e-05" in said
    kept = read_checkpoint(last)
    assert kept["global_step"] == 2
    assert all(
        torch.isfinite(value).all() for value in kept["state_dict"].values() if value.is_floating_point()
    )
    assert "the loss became nan" in (made / "train.log").read_text()


def test_nothing_to_train_is_said_before_anything_starts(photos, tmp_path, capsys):
    words = [word.replace("Plain", "Frozen") for word in PLAIN]
    said = failure(capsys, photos, tmp_path / "out", *words, code=2)
    assert "no parameter of model.net is trainable, so there is nothing to fit" in said
    assert "model.fit=false" in said
    assert not runs(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["trainer.precision=16-mixed"],
            "trainer.precision=16-mixed needs a GPU, and this run is on the CPU: type "
            "trainer.precision=bf16-mixed or trainer.precision=32-true",
        ),
        (["optimizer.learning_rate=1"], "unknown key optimizer.learning_rate: type optimizer.lr=1"),
        (["data=foldr"], "did you mean folder?"),
        (["trainer.max_epoch=1"], "unknown key trainer.max_epoch: type trainer.max_epochs=1"),
        (["data.num_workers=-1"], "data.num_workers"),
        (["model.net._target_=own_parts.Plain"], "own_parts"),
        (
            [word.replace("Plain", "WithoutSpec") for word in PLAIN],
            "has no input_spec",
        ),
        (["model.net.classes=2"], "model.loss._target_=tapetum.modules.losses.CrossEntropy"),
        (["scheduler=plateau", "trainer.limit_val_batches=0"], "scheduler=plateau follows a validation"),
        (["trainer.profiler=simpel"], "unknown value trainer.profiler=simpel: simple, advanced, pytorch"),
        (["trainer.devices=3", "accelerator=gpu"], "this machine has"),
        (["trainer.devices=640", "accelerator=cpu"], "trainer.devices=640 on the CPU means 640 processes"),
    ],
)  # fmt: skip
def test_config_errors_are_messages_and_exit_code_2(photos, tmp_path, capsys, words, expected):
    said = failure(capsys, photos, tmp_path / "out", *words, code=2)
    assert expected in said
    assert said.splitlines()[0].endswith("in the config:")
    assert "Traceback" not in said


def test_all_problems_come_together(photos, tmp_path, capsys):
    said = failure(
        capsys, photos, tmp_path / "out", "epochs=3", "optimizer.lrr=1", "model.net.droput=1", code=2
    )
    assert said.startswith("3 problems in the config:")


def damaged(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = b""
    file.write_bytes(content)


def flipped(file):
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 256] = bytes(byte ^ 0xFF for byte in content[middle : middle + 256])
    file.write_bytes(content)


def pickled(file):
    file.write_bytes(pickle.dumps({"tapetum": shutil.rmtree}))


def pickled_by_torch(file):
    torch.save({"tapetum": shutil.rmtree}, file)


@pytest.mark.parametrize("spoil", [damaged, flipped, pickled, pickled_by_torch, empty])
@pytest.mark.parametrize("verb", ["evaluate", "weights", "resume"])
def test_a_spoiled_checkpoint_is_refused_everywhere(finished, folder, tmp_path, capsys, spoil, verb):
    made = tmp_path / "out" / "detection" / "timm_backbone-folder" / finished.name
    shutil.copytree(finished, made)
    for name in ("best", "last"):
        spoil(made / "checkpoints" / f"{name}.ckpt")
    if verb == "evaluate":
        assert run("evaluate", str(made)) == 1
    else:
        words = tiny(folder, tmp_path / "out", f"{verb}={made}", "trainer.max_epochs=2", "optimizer.lr=0.01")
        assert run("train", *words) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert str(made / "checkpoints") in said
    assert "Traceback" not in said
    with pytest.raises(CheckpointError):
        tapetum.load(made)


def test_a_foreign_target_in_a_checkpoint_is_refused(finished, tmp_path, capsys):
    made = tmp_path / "run"
    shutil.copytree(finished, made)
    file = made / "checkpoints" / "best.ckpt"
    checkpoint = read_checkpoint(file)
    checkpoint["tapetum"]["config"]["model"]["net"] = {"_target_": "os.system", "command": "touch here"}
    checkpoint["tapetum"]["config"]["allow_targets"] = ["os"]
    torch.save(checkpoint, file)
    assert run("evaluate", str(made)) == 2
    assert "os.system" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"os\.system"):
        tapetum.load(made)


def test_a_network_of_ones_own_trains(photos, tmp_path):
    made = train(photos, tmp_path / "out", *PLAIN, "train.report=true")
    assert (made / "report" / "index.html").is_file()
