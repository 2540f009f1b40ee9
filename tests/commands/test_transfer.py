"""`weights=` as a workflow: a linear probe, then everything trained, and where the new run says it began."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import tapetum
import torch
import yaml
from safetensors.torch import save_file
from tapetum.commands.weights import start_from
from tapetum.detectors.timm_backbone import TimmBackbone
from tapetum.errors import CheckpointError
from tapetum.runs.checkpoints import read_checkpoint

from commands.experiments import run as tapetum_run
from commands.experiments import tiny, train

FREEZE, UNFREEZE = "model.net.freeze=true", "model.net.freeze=false"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A backbone as somebody published it."""
    torch.manual_seed(3)
    net = TimmBackbone(name="test_resnet.r160_in1k", pretrained=False, size=32)
    file = tmp_path_factory.mktemp("published") / "backbone.safetensors"
    save_file({name: value.contiguous() for name, value in net.backbone.state_dict().items()}, file)
    return file


@pytest.fixture(scope="module")
def probe(folder, pretrained, tmp_path_factory) -> Path:
    return train(
        folder, tmp_path_factory.mktemp("probe"), FREEZE, f"model.net.pretrained={pretrained}",
        "trainer.max_epochs=3", "optimizer.lr=0.01",
    )  # fmt: skip


@pytest.fixture(scope="module")
def finetuned(folder, probe, tmp_path_factory) -> Path:
    return train(folder, tmp_path_factory.mktemp("fine"), UNFREEZE, f"weights={probe}", "optimizer.lr=1e-3")


def figures(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


def said(run: Path, start: str) -> list[str]:
    lines = (run / "train.log").read_text().splitlines()
    return [line.split(" ", 3)[3] for line in lines if line.split(" ", 3)[3].startswith(start)]


def stored(run: Path, which: str = "best") -> set[str]:
    return set(read_checkpoint(run / "checkpoints" / f"{which}.ckpt")["state_dict"])


def images(folder: Path) -> list[Path]:
    return sorted((folder / "test").rglob("*.jpg"))


def test_step_0_of_the_new_run_is_the_best_epoch_of_the_first(folder, probe, tmp_path):
    assert not any("backbone" in name for name in stored(probe))  # it lies in the published file
    # the new run names no pretrained backbone: it gets the one that the probe stood on
    start = train(folder, tmp_path, UNFREEZE, f"weights={probe}", "model.fit=false")
    before, after = figures(probe), figures(start)
    compared = [name for name in after if name.startswith(("val/", "test/"))]
    assert len(compared) > 20
    for name in compared:
        assert after[name] == pytest.approx(before[name], abs=1e-6, nan_ok=True), name
    best = json.loads((probe / "checkpoints" / "best.json").read_text())
    assert after["val/auroc"] == pytest.approx(best["monitored"], abs=1e-6)


def test_more_parameters_train_and_the_log_says_what_was_taken(probe, finetuned):
    (first,), (second,) = said(probe, "timm_backbone-folder on"), said(finetuned, "timm_backbone-folder on")
    assert first.endswith("374,289 parameters, 1,601 trainable")  # 96 x 16 + 16, 2 x 16, 16 + 1
    assert second.endswith("374,289 parameters, 374,289 trainable")
    (taken,) = said(finetuned, "weights: ")
    epoch = json.loads((probe / "checkpoints" / "best.json").read_text())["epoch"]
    assert f"best.ckpt (epoch {epoch + 1}): backbone 90, classifier 9" in taken
    assert not said(finetuned, "weights of another shape") + said(finetuned, "weights not")


def test_the_new_run_records_where_its_weights_came_from(probe, finetuned):
    file = probe / "checkpoints" / "best.ckpt"
    described = json.loads(file.with_suffix(".json").read_text())
    expected = {
        "path": str(file),
        "epoch": described["epoch"],
        "step": described["step"],
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    for which in ("best", "last"):
        assert json.loads((finetuned / "checkpoints" / f"{which}.json").read_text())["weights"] == expected
    assert tapetum.load(finetuned, device="cpu").metadata["weights"] == expected
    assert "weights" not in described


def test_a_run_that_was_started_from_weights_and_resumed_still_knows_them(folder, probe, finetuned, tmp_path):
    words = (UNFREEZE, f"weights={probe}", "optimizer.lr=1e-3")
    made = train(folder, tmp_path, *words)
    before = json.loads((made / "checkpoints" / "last.json").read_text())
    longer = ("trainer.max_epochs=2", f"resume={made}")
    assert tapetum_run("train", *tiny(folder, tmp_path, *words[::2], *longer)) == 2  # a line that lacks it
    assert tapetum_run("train", *tiny(folder, tmp_path, *words, *longer)) == 0
    config = yaml.safe_load((made / "config.yaml").read_text())
    assert config["weights"] == str(probe)
    after = json.loads((made / "checkpoints" / "last.json").read_text())
    assert after["weights"] == before["weights"]


def test_a_finetuned_backbone_that_is_frozen_again_stays_in_the_checkpoints(
    folder, pretrained, finetuned, tmp_path
):
    words = (FREEZE, f"model.net.pretrained={pretrained}", f"weights={finetuned}")
    made = train(folder, tmp_path, *words)
    backbone = {name for name in stored(finetuned) if name.startswith("net.backbone.")}
    assert backbone <= stored(made)
    net = tapetum.load(made, device="cpu").module.net
    reference = tapetum.load(finetuned, device="cpu").module.net
    state = reference.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in net.backbone.state_dict().items())
    probabilities = tapetum.load(made, device="cpu").predict(images(folder))["probability"].to_pylist()
    table = json.loads((made / "metrics.json").read_text())
    hits = [p > 0.5 for p in probabilities]
    right = [hit == ("ai_generated" in str(path)) for hit, path in zip(hits, images(folder), strict=True)]
    assert sum(right) / len(right) == pytest.approx(table["test/accuracy"])


def test_a_head_of_another_size_is_new_and_said_to_be(folder, finetuned, tmp_path):
    made = train(
        folder, tmp_path, f"weights={finetuned}", "model.net.classes=2",
        "model.loss._target_=tapetum.modules.losses.CrossEntropy",
    )  # fmt: skip
    (taken,) = said(made, "weights: ")
    assert taken.startswith("weights: 97 of 99 tensors from ")
    assert said(made, "weights of another shape") == [
        "weights of another shape, new here: classifier.4.weight (1x16 there, 2x16 here), "
        "classifier.4.bias (1 there, 2 here)"
    ]


@pytest.fixture
def net() -> TimmBackbone:
    return TimmBackbone(name="test_resnet.r160_in1k", pretrained=False, size=32, hidden=16)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights.ckpt"])
def test_a_published_file_is_taken_whole_whatever_its_ending(net, tmp_path, name):
    torch.manual_seed(9)
    other = TimmBackbone(name="test_resnet.r160_in1k", pretrained=False, size=32, hidden=16)
    state = {key: value.contiguous() for key, value in other.state_dict().items()}
    file = tmp_path / name
    if name.endswith("safetensors"):
        save_file(state, file)
    else:
        torch.save({"state_dict": state, "epoch": 3}, file)
    origin = start_from(net, str(file))
    assert (origin.path, origin.epoch) == (file, None)
    assert origin.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    del state["classifier.4.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"1 missing in the file: classifier\.4\.bias"):
        start_from(net, str(tmp_path / "part.pth"))


def test_a_checkpoint_of_ours_is_known_by_what_is_in_it(net, finetuned, tmp_path):
    file = tmp_path / "renamed.ckpt"
    file.write_bytes((finetuned / "checkpoints" / "last.ckpt").read_bytes())
    assert start_from(net, str(file)).epoch == 0
    own, expected = net.state_dict(), read_checkpoint(file)["state_dict"]
    assert all(torch.equal(own[name.removeprefix("net.")], value) for name, value in expected.items())


def test_weights_that_have_nothing_to_do_with_the_network_are_refused(finetuned, tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing in .*best.ckpt \(epoch 1\) fits this network"):
        start_from(torch.nn.Linear(2, 2), str(finetuned))
    (tmp_path / "broken.ckpt").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(CheckpointError, match="is damaged and can't be read"):
        start_from(torch.nn.Linear(2, 2), str(tmp_path / "broken.ckpt"))


def test_evaluating_without_training_uses_the_weights_strictly(folder, finetuned, tmp_path, capsys):
    words = tiny(folder, tmp_path, f"weights={finetuned}", "model.fit=false", "model.net.hidden=8")
    assert tapetum_run("train", *words) != 0
    assert "holds weights of another network" in capsys.readouterr().err


def test_gradual_unfreeze_from_the_command_line(folder, pretrained, tmp_path, capsys):
    words = (FREEZE, f"model.net.pretrained={pretrained}", "callbacks=gradual_unfreeze")
    schedule = "callbacks.gradual_unfreeze.schedule={2: 1, 3: all}"
    made = train(folder, tmp_path, *words, schedule, "trainer.max_epochs=3", "optimizer.lr=0.01")
    unfrozen = said(made, "epoch 2: ") + said(made, "epoch 3: ")
    assert unfrozen[0].startswith("epoch 2: unfrozen are backbone.layer4; ")
    assert unfrozen[1].endswith("374,289 of 374,289 parameters train now, these at 0.1 of the learning rate")
    kept = read_checkpoint(made / "checkpoints" / "last.ckpt")
    node = kept["tapetum"]["config"]["callbacks"]["gradual_unfreeze"]
    assert node["schedule"] == {2: 1, 3: "all"}
    assert yaml.safe_load((made / "config.yaml").read_text())["callbacks"]["gradual_unfreeze"] == node
    predicted = tapetum.load(made, "last", device="cpu").module.net.state_dict()
    assert all(torch.equal(predicted[name.removeprefix("net.")], v) for name, v in kept["state_dict"].items())
    resumed = tiny(folder, tmp_path, *words, schedule, "optimizer.lr=0.01", f"resume={made}")
    assert tapetum_run("train", *resumed, "trainer.max_epochs=4") == 0
    assert "epoch 4: unfrozen are" in (made / "train.log").read_text()


def test_what_is_best_before_the_backbone_is_unfrozen_is_what_is_tested(folder, pretrained, tmp_path):
    made = train(
        folder, tmp_path, FREEZE, f"model.net.pretrained={pretrained}", "callbacks=gradual_unfreeze",
        "callbacks.gradual_unfreeze.schedule={2: 1}", "trainer.max_epochs=2",
        "train.monitor=val/fake_accuracy", "optimizer.lr=1e-9", "scheduler=constant",
    )  # fmt: skip
    assert json.loads((made / "checkpoints" / "best.json").read_text())["epoch"] == 0
    net = tapetum.load(made, device="cpu").module.net
    published = TimmBackbone(name="test_resnet.r160_in1k", pretrained=str(pretrained), size=32)
    state = published.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in net.backbone.state_dict().items())
    assert "test/auroc" in figures(made)
