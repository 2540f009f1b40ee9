"""Two gloo processes that share weights (FSDP2): the run of one process, files that load anywhere, shards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tapetum
import torch
from safetensors import safe_open
from tapetum.cli import main
from tapetum.commands.preflight import network_problems
from tapetum.config.compose import compose
from tapetum.config.overrides import prepare
from tapetum.errors import CheckpointError
from tapetum.runs.checkpoints import AtomicCheckpointIO, read_checkpoint
from tapetum.runs.loading import load_module
from tapetum.runs.shards import directories, read_shards, write_shards
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from commands.experiments import HERE, runs, tiny
from layouts import make_folder
from modules.captioning_parts import write_pictures

NETWORK = (
    "model=npr",
    "~model.net.size",
    "~model.net.classes",
    "model.net._target_=sharding_parts.LowRankViT",
    "allow_targets=[sharding_parts,own_parts]",
)
SHARDED = (
    "accelerator=fsdp_bf16",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "trainer.precision=32-true",
)


def words(data: Path, outputs: Path, *more: str) -> list[str]:
    return tiny(
        data, outputs, *NETWORK, "trainer.max_epochs=2", "optimizer=sgd", "optimizer.lr=0.5",
        "optimizer.momentum=0.9", "trainer.gradient_clip_val=0.2", "callbacks.checkpoint.every_n_steps=2",
        *more,
    )  # fmt: skip


def train(data: Path, outputs: Path, *more: str, fails: bool = False, **environment: str) -> Path:
    path = os.pathsep.join([str(HERE), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-m", "tapetum", "train", *words(data, outputs, *SHARDED, *more)],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    (made,) = runs(outputs)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data"), splits={"train": 16, "val": 5, "test": 3})


@pytest.fixture(scope="module")
def sharded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(data, tmp_path_factory.mktemp("sharded"), "data.batch_size=4")


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> tuple[str]:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return ("sharding_parts",)


def test_two_processes_that_share_weights_are_one_with_the_doubled_batch(data, sharded, tmp_path, allowed):
    assert main(["train", *words(data, tmp_path / "alone", "data.batch_size=8")]) == 0
    (alone,) = runs(tmp_path / "alone")
    for which in ("best", "last"):
        expected, reached = (
            read_checkpoint(run / "checkpoints" / f"{which}.ckpt") for run in (alone, sharded)
        )
        assert expected["global_step"] == reached["global_step"]
        assert list(expected["state_dict"]) == list(reached["state_dict"])
        assert not any("layer.weight" in name for name in reached["state_dict"])  # they are stored elsewhere
        assert expected["state_dict"]["net.blocks.0.layer.up"].abs().max() > 1e-2  # from zero
        for name, value in expected["state_dict"].items():
            found = reached["state_dict"][name]
            assert not isinstance(found, DTensor)
            torch.testing.assert_close(
                found, value, atol=1e-5, rtol=0, msg=lambda said, name=name: f"{name} {said}"
            )
        states = [one["optimizer_states"][0]["state"] for one in (expected, reached)]
        assert states[0].keys() == states[1].keys()
        for number, state in states[0].items():
            found = states[1][number]["momentum_buffer"]
            torch.testing.assert_close(found, state["momentum_buffer"], atol=1e-5, rtol=0)
    figures = [json.loads((run / "metrics.json").read_text()) for run in (alone, sharded)]
    for name in ("val/auroc", "best/val/auroc", "test/nll", "run/steps", "run/best_epoch"):
        assert figures[1][name] == pytest.approx(figures[0][name], abs=1e-5), name
    # What rank 0 predicted alone at the end is what anybody's copy of best.ckpt predicts.
    copy = shutil.copy(sharded / "checkpoints" / "best.ckpt", tmp_path / "best.ckpt")
    network = load_module(copy, allow=allowed).module
    table = pq.read_table(sharded / "predictions" / "test.parquet")
    assert len(table) == 6
    predictor = tapetum.load(copy, device="cpu", allow_targets=allowed)
    again = predictor.predict([data / path for path in table["path"].to_pylist()])
    assert [row["logit"] for row in again.to_pylist()] == pytest.approx(table["logit"].to_pylist(), abs=1e-6)
    assert not any(isinstance(value, DTensor) for value in network.parameters())


def test_last_lies_in_shards_and_best_is_one_file(sharded, allowed):
    folder = sharded / "checkpoints"
    (shards,) = directories(folder / "last.ckpt")
    assert sorted(one.name for one in folder.iterdir()) == [
        "best.ckpt", "best.json", shards.name, "last.ckpt", "last.json",
    ]  # fmt: skip
    assert len(list(shards.iterdir())) == 2
    rows = []
    for file in sorted(shards.iterdir()):
        with safe_open(file, framework="pt") as content:
            rows.append({key: len(content.get_tensor(key)) for key in content.keys()})  # noqa: SIM118
    weight = "['state_dict']['net.patches.weight']"
    assert [one[weight] for one in rows] == [5, 4]
    outline = read_checkpoint(folder / "last.ckpt", whole=False)
    assert outline["state_dict"]["net.patches.weight"].is_meta
    assert outline["tapetum"]["metadata"]["step"] == 8
    loaded = load_module(sharded, "last", allow=allowed)
    whole = read_checkpoint(folder / "last.ckpt")["state_dict"]
    assert torch.equal(loaded.module.net.patches.weight, whole["net.patches.weight"])


def test_a_killed_run_goes_on_from_its_shards(data, sharded, tmp_path):
    kill = (
        "data.batch_size=4", "+callbacks.kill._target_=own_parts.SignalAt",
        "+callbacks.kill.step=7", "+callbacks.kill.name=SIGKILL",
    )  # fmt: skip
    killed = train(data, tmp_path, *kill, fails=True)
    before = read_checkpoint(killed / "checkpoints" / "last.ckpt", whole=False)
    assert before["global_step"] == 6
    (killed / "checkpoints" / "last-shards-dead00").mkdir()  # what a kill while saving leaves
    train(data, tmp_path, *kill, "resume=auto", NO_SIGNAL="1")
    assert len(directories(killed / "checkpoints" / "last.ckpt")) == 1
    expected, reached = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (sharded, killed))
    assert reached["global_step"] == expected["global_step"] == 8
    for name, value in expected["state_dict"].items():
        torch.testing.assert_close(reached["state_dict"][name], value, atol=1e-6, rtol=0)


def test_captions_are_learnt_in_bfloat16_as_by_one_process(tmp_path):
    """Texts of different lengths, tied weights, and a network entered by `loss` and `generate`, too."""
    write_pictures(tmp_path / "pictures")
    common = [
        *("model=pixel_llm_small", "data=image_text_folder", f"data.root={tmp_path / 'pictures'}"),
        *("model.net.size=16", "model.net.patch_size=8", "model.net.stem=patches", "model.net.width=16"),
        *("model.net.heads=2", "model.net.depth=1", "model.net.decoder_depth=1", "model.net.vocabulary=300"),
        *("model.generation.max_new_tokens=8", "data.captions=all", "data.num_workers=0"),
        *("optimizer=sgd", "optimizer.lr=0.5", "scheduler=constant", "trainer.max_epochs=2"),
    ]
    made = {}
    for name, own in (
        ("one", ["accelerator=cpu", "data.batch_size=6", "trainer.precision=bf16-mixed"]),
        ("two", [*SHARDED[:3], "data.batch_size=3"]),
    ):
        assert main(["train", *common, *own, f"paths.outputs={tmp_path / name}"]) == 0
        (made[name],) = (config.parent for config in (tmp_path / name).glob("captioning/*/*/config.yaml"))
    one, two = (read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in made.values())
    assert one["net.decoder.model.transformer.h.0.mlp.c_proj.bias"].abs().max() > 0.1  # from zero
    for name, value in one.items():
        assert two[name].dtype == torch.float32
        torch.testing.assert_close(two[name], value, atol=1e-2, rtol=0)
    figures = [json.loads((run / "metrics.json").read_text()) for run in made.values()]
    for name in ("val/loss", "best/val/loss", "test/loss", "run/steps"):
        assert figures[1][name] == pytest.approx(figures[0][name], abs=1e-2), name


# -- shards, in one process --------------------------------------------------------------------------------


@pytest.fixture
def mesh(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def checkpoint(mesh, value: float):
    tensor = torch.full((5, 3), value)
    weight = distribute_tensor(tensor, mesh, [Shard(0)])
    return {
        "state_dict": {"w": weight, "tied": weight.detach(), "buffer": torch.tensor([value])},
        "optimizer_states": [{"state": {0: {"mean": distribute_tensor(tensor * 2, mesh, [Shard(0)])}}}],
        "tapetum": {"format": 1, "metadata": {}},
    }


def save(mesh, file: Path, value: float, name: str) -> None:
    described = write_shards(checkpoint(mesh, value), file.with_name(f"last-shards-{name}"))
    AtomicCheckpointIO().save_checkpoint(described, file)


def values(loaded):
    return loaded["state_dict"]["w"], loaded["optimizer_states"][0]["state"][0]["mean"]


def test_a_save_that_is_killed_leaves_the_previous_checkpoint(mesh, tmp_path):
    file = tmp_path / "last.ckpt"
    save(mesh, file, 1.0, "first")
    write_shards(checkpoint(mesh, 2.0), tmp_path / "last-shards-second")  # and here it ends
    weight, mean = values(read_checkpoint(file))
    assert torch.equal(weight, torch.full((5, 3), 1.0))
    assert torch.equal(mean, torch.full((5, 3), 2.0))
    save(mesh, file, 3.0, "third")
    assert [one.name for one in directories(file)] == ["last-shards-third"]
    assert torch.equal(values(read_checkpoint(file))[0], torch.full((5, 3), 3.0))


def test_any_strategy_reads_shards_whole(mesh, tmp_path):
    file = tmp_path / "last.ckpt"
    save(mesh, file, 1.0, "first")
    for loaded in (read_checkpoint(file), AtomicCheckpointIO().load_checkpoint(file, weights_only=True)):
        assert [type(one) for one in values(loaded)] == [torch.Tensor, torch.Tensor]
        assert loaded["state_dict"]["buffer"].tolist() == [1.0]
        assert torch.equal(loaded["state_dict"]["tied"], loaded["state_dict"]["w"])
    AtomicCheckpointIO().save_checkpoint(loaded | {"tapetum": {"format": 1, "metadata": {}}}, file)
    assert directories(file) == []  # the file that replaces them holds all of it


def test_shards_are_read_as_shards(mesh, tmp_path):
    file = tmp_path / "last.ckpt"
    save(mesh, file, 1.0, "first")
    outline = read_checkpoint(file, whole=False)

    def into(tensor):
        return distribute_tensor(torch.empty(tensor.shape), mesh, [Shard(0)])

    weight, _ = values(read_shards(outline, file, into, together=True))
    assert isinstance(weight, DTensor)
    assert torch.equal(weight.full_tensor(), torch.full((5, 3), 1.0))


def test_damaged_and_absent_shards_are_told(mesh, tmp_path):
    file = tmp_path / "last.ckpt"
    save(mesh, file, 1.0, "first")
    (shard,) = (tmp_path / "last-shards-first").iterdir()
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(
        CheckpointError, match=rf"is damaged and can't be read: {shard.name} is missing or has a"
    ):
        read_checkpoint(file)
    shard.unlink()
    with pytest.raises(
        CheckpointError, match=rf"{shard.name} is missing or has a wrong checksum. Take .*best"
    ):
        read_checkpoint(file)
    (tmp_path / "last-shards-first").rmdir()
    with pytest.raises(
        CheckpointError, match="they lie in last-shards-first beside it, and that is not there"
    ):
        read_checkpoint(file)


# -- what is told before a run -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["trainer.devices=1"], "this run has one: type accelerator=gpu_bf16"),
        (["trainer.precision=bf16-true"], "trainer.precision=32-true or bf16-mixed, not bf16-true"),
        (["train.compile=true"], "train.compile=true does not go with trainer.strategy=fsdp2"),
        (["train.channels_last=true"], "train.channels_last=true does not go with"),
        (["callbacks=ema"], "callbacks.ema needs the weights whole"),
        (["callbacks=swa"], "callbacks.swa needs the weights whole"),
        (["callbacks=gradual_unfreeze"], "callbacks.gradual_unfreeze needs the weights whole"),
        (["model.fit=false"], "model.fit=false trains nothing"),
        (["model=small_resnet"], "the network has BatchNorm"),
        ([], None),
    ],
    ids=lambda one: one[0] if isinstance(one, list) and one else None,
)
def test_what_does_not_go_with_sharding_is_told_before_a_run(more, said, allowed):
    model = () if any(word.startswith("model=") for word in more) else NETWORK
    common = ["data=synthetic", *model, "allow_targets=[sharding_parts,own_parts]", *SHARDED]
    problems = network_problems(compose(prepare([*dict.fromkeys(common), *more], multirun=False)).config)
    found = [problem for problem in problems if "fsdp2" in problem]
    assert [said in problem for problem in found] == ([] if said is None else [True]), problems
