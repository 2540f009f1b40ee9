"""Two gloo processes through torchrun: one run directory, every image once, the weights of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
from tapetum.cli import main
from tapetum.launch.world import world_size
from tapetum.runs.checkpoints import read_checkpoint

from commands.experiments import HERE, PLAIN, runs, tiny
from layouts import make_folder, make_infrared_folder
from modules.captioning_parts import write_pictures


def train(data, outputs, *more):
    words = [
        *tiny(data, outputs, *PLAIN, "trainer.max_epochs=2", "optimizer.lr=0.05", "optimizer=sgd"),
        *more,
    ]
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "tapetum", "train", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = runs(outputs)
    return made, done.stdout


def test_two_processes_are_one_with_the_doubled_batch(tmp_path):
    # 9 images a class: an epoch that two ranks share unevenly, evaluation splits of an odd number
    data = make_folder(tmp_path / "data", splits={"train": 16, "val": 5, "test": 3})
    (data / "val" / "real" / "0000.jpg").unlink()
    one, _ = train(data, tmp_path / "one", "data.batch_size=8")
    two, said = train(data, tmp_path / "two", "data.batch_size=4", "accelerator=cpu_ddp", "train.report=true")
    assert "2 processes, effective batch 8" in said
    assert said.count("effective batch") == 1
    expected = read_checkpoint(one / "checkpoints" / "last.ckpt")
    reached = read_checkpoint(two / "checkpoints" / "last.ckpt")
    assert expected["global_step"] == reached["global_step"] == 8
    for name, value in expected["state_dict"].items():
        assert torch.allclose(reached["state_dict"][name], value, atol=1e-6, rtol=0), name
    for split, count in (("val", 9), ("test", 6)):
        table = pq.read_table(two / "predictions" / f"{split}.parquet")
        assert len(set(table["path"].to_pylist())) == len(table) == count
    figures = [json.loads((made / "metrics.json").read_text()) for made in (one, two)]
    for name in ("val/auroc", "best/val/auroc", "test/nll", "run/steps"):
        assert figures[1][name] == pytest.approx(figures[0][name], abs=1e-5), name
    assert (two / "report" / "index.html").is_file()


def test_what_is_unfrozen_in_the_middle_is_synchronised_too(tmp_path):
    data = make_folder(tmp_path / "data", splits={"train": 16, "val": 4, "test": 4})
    unfreezing = (
        "model.net._target_=own_parts.HalfFrozen",
        "callbacks=gradual_unfreeze",
        "callbacks.gradual_unfreeze.schedule={2: 1}",
        "trainer.max_epochs=3",
    )
    one, _ = train(data, tmp_path / "one", "data.batch_size=8", *unfreezing)
    two, _ = train(data, tmp_path / "two", "data.batch_size=4", "accelerator=cpu_ddp", *unfreezing)
    expected = read_checkpoint(one / "checkpoints" / "last.ckpt")["state_dict"]
    reached = read_checkpoint(two / "checkpoints" / "last.ckpt")["state_dict"]
    assert {"net.tower.0.weight", "net.head.weight"} <= set(expected)
    for name, value in expected.items():
        assert torch.allclose(reached[name], value, atol=1e-6, rtol=0), name


@pytest.mark.parametrize(("devices", "processes"), [(1, 1), (2, 2), ([0, 1, 2], 3), ("auto", 1), (-1, 1)])
def test_world_size_counts_processes(devices, processes):
    assert world_size({"devices": devices, "num_nodes": 1, "accelerator": "cpu"}) == processes


def test_world_size_counts_machines():
    assert world_size({"devices": 2, "num_nodes": 3, "accelerator": "cpu"}) == 6


@pytest.mark.parametrize(
    "loss",
    [
        (
            "+model.loss.margin=0.3",
            "model.miner._target_=pytorch_metric_learning.miners.BatchHardMiner",
        ),
        ("model.loss._target_=pytorch_metric_learning.losses.ArcFaceLoss", "model.miner=null"),
    ],
    ids=["batch-hard", "a loss with weights of its own"],
)
def test_two_processes_compare_the_images_of_both(tmp_path, loss):
    data = make_infrared_folder(tmp_path / "data", splits={"train": 13, "val": 5, "test": 3})
    shared = [
        "model=small_embedder",
        "~model.net",
        "+model.net={_target_: own_parts.PlainEmbedder}",
        "allow_targets=[own_parts]",
        "data=infrared_folder",
        f"data.root={data}",
        "data.images_per_class=2",
        "data.num_workers=0",
        "optimizer=sgd",
        "optimizer.lr=0.05",
        "trainer.max_epochs=2",
        *loss,
    ]
    made = {}
    for name, more in (
        ("one", ("data.batch_size=8", "accelerator=cpu")),
        ("two", ("data.batch_size=4", "accelerator=cpu_ddp")),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "tapetum", "train", *shared, *more, f"paths.outputs={tmp_path / name}"],
            env=os.environ | {"PYTHONPATH": str(HERE)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (made[name],) = (config.parent for config in (tmp_path / name).glob("retrieval/*/*/config.yaml"))
    states = {
        name: read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for name, run in made.items()
    }
    for name, value in states["one"].items():
        assert torch.allclose(states["two"][name], value, atol=1e-5, rtol=0), name
    figures = [json.loads((run / "metrics.json").read_text()) for run in made.values()]
    for name in ("val/map_at_r", "best/val/map_at_r", "test/recall_at_1", "run/steps"):
        assert figures[1][name] == pytest.approx(figures[0][name], abs=1e-6), name


@pytest.mark.parametrize("captions", ["one", "all"])
def test_two_processes_learn_captions_as_one(tmp_path, captions):
    """Sentences of different lengths fall to the two; the mean is over the tokens of both."""
    write_pictures(tmp_path / "pictures")
    common = [
        *("model=pixel_llm_small", "data=image_text_folder", f"data.root={tmp_path / 'pictures'}"),
        *("model.net.size=16", "model.net.patch_size=8", "model.net.stem=patches", "model.net.width=16"),
        *("model.net.heads=2", "model.net.depth=1", "model.net.decoder_depth=1", "model.net.vocabulary=300"),
        *("model.generation.max_new_tokens=8", f"data.captions={captions}", "data.num_workers=0"),
        *("optimizer=sgd", "optimizer.lr=0.1", "scheduler=constant", "trainer.max_epochs=2"),
    ]
    made = {}
    for name, own in (
        ("one", ["accelerator=cpu", "data.batch_size=6"]),
        ("two", ["accelerator=cpu_ddp", "data.batch_size=3"]),
    ):
        assert main(["train", *common, *own, f"paths.outputs={tmp_path / name}"]) == 0
        (made[name],) = (config.parent for config in (tmp_path / name).glob("captioning/*/*/config.yaml"))
    assert len({(run / "tokenizer.json").read_text() for run in made.values()}) == 1
    states = {
        name: read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for name, run in made.items()
    }
    for name, value in states["one"].items():
        assert torch.allclose(states["two"][name], value, atol=1e-5, rtol=0), name
    figures = [json.loads((run / "metrics.json").read_text()) for run in made.values()]
    for name in ("val/loss", "val/rouge_l", "best/val/loss", "test/loss", "run/steps"):
        assert figures[1][name] == pytest.approx(figures[0][name], abs=1e-5), name


def test_two_processes_learn_answers_as_one(tmp_path):
    """Answers of one word and sentences fall to the two; validation judges and writes each image once."""
    common = [
        *("model=instructblip_lora", "model.net.backbone=tiny:instructblip", "model.net.dropout=0.0"),
        *("data=synthetic_vqa", "data.index.train=14", "data.index.test=6", "data.index.descriptions=1"),
        *("data.val_fraction=0.25", "data.cache=none", "data.num_workers=0", "optimizer=sgd"),
        *("optimizer.lr=0.5", "scheduler=constant", "trainer.max_epochs=2"),
    ]
    made = {}
    for name, own in (
        ("one", ["accelerator=cpu", "data.batch_size=6"]),
        ("two", ["accelerator=cpu_ddp", "data.batch_size=3"]),
    ):
        assert main(["train", *common, *own, f"paths.outputs={tmp_path / name}"]) == 0
        (made[name],) = (config.parent for config in (tmp_path / name).glob("vlm/*/*/config.yaml"))
    states = {
        name: read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for name, run in made.items()
    }
    assert any("lora_B" in name and value.abs().max() > 1e-4 for name, value in states["one"].items())
    for name, value in states["one"].items():
        assert torch.allclose(states["two"][name], value, atol=1e-5, rtol=0), name
    figures = [json.loads((run / "metrics.json").read_text()) for run in made.values()]
    for name in ("val/loss", "val/exact_match", "best/val/loss", "test/loss", "run/steps"):
        assert figures[1][name] == pytest.approx(figures[0][name], abs=1e-5), name
