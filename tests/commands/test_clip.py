from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import tapetum
import torch
from peft import PeftModel
from tapetum.backbones import clip, repository, tiny
from tapetum.cli import main
from tapetum.runs.checkpoints import read_checkpoint

from commands.experiments import run, runs
from layouts import make_genimage, make_image

MODES = ["clip_zeroshot", "clip_linear", "clip_finetune", "clip_lora", "clip_prompt"]
SHORT = ("accelerator=cpu", "trainer.max_epochs=1", "data.num_workers=0", "data.batch_size=8")
RATES = {"clip_linear": 1e-3, "clip_finetune": 5e-5, "clip_lora": 1e-4, "clip_prompt": 1e-2}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny.clip(tmp_path_factory.mktemp("clip") / "tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_genimage(root / "genimage", splits={"train": 24, "val": 4})
    return root


@pytest.fixture
def place(data, tmp_path, monkeypatch):
    """Where `data=genimage` is found as typed, and an outputs folder of the test's own."""
    monkeypatch.setenv("TAPETUM_DATA", str(data))
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def trained(place, backbone, mode, *more):
    assert (
        run("train", f"model={mode}", "data=genimage", f"model.net.backbone={backbone}", *SHORT, *more) == 0
    )
    (made,) = runs(place)
    return made


def stored(made, which="best"):
    checkpoint = read_checkpoint(made / "checkpoints" / f"{which}.ckpt")
    return {name.removeprefix("net.") for name in checkpoint["state_dict"] if name.startswith("net.")}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_is_loaded_again_and_says_the_same(place, data, backbone, mode):
    made = trained(place, backbone, mode)
    predictions = pq.read_table(made / "predictions" / "test.parquet")
    if mode == "clip_zeroshot":
        assert not (made / "checkpoints" / "last.ckpt").exists()
        return
    kept = stored(made)
    held = {
        "clip_linear": lambda name: name.startswith("head."),
        "clip_finetune": lambda name: True,
        "clip_lora": lambda name: name.startswith("head.") or ".lora_" in name,
        "clip_prompt": lambda name: name == "ctx",
    }[mode]
    net = tapetum.load(made, device="cpu").module.net
    assert kept == {name for name in net.state_dict() if held(name)}
    metadata = json.loads((made / "checkpoints" / "last.json").read_text())
    assert metadata["metrics"]["lr/head"] < RATES[mode]
    config = read_checkpoint(made / "checkpoints" / "best.ckpt")["tapetum"]["config"]
    assert config["optimizer"]["lr"] == RATES[mode]
    assert config["optimizer"]["_target_"] == "torch.optim.AdamW"
    paths = [data / "genimage" / path for path in predictions["path"].to_pylist()[:6]]
    again = tapetum.load(made, device="cpu").predict(paths)["logit"].to_pylist()
    assert again == pytest.approx(predictions["logit"].to_pylist()[:6], abs=1e-5)


def test_a_lora_run_leaves_a_directory_that_peft_loads(place, backbone):
    made = trained(place, backbone, "clip_lora", "model.net.variant=dora", "optimizer.lr=0.01")
    assert {one.name for one in (made / "checkpoints").iterdir() if one.is_dir()} == {
        "best-adapter",
        "last-adapter",
    }
    plain = clip.create_vision(backbone, pretrained=True)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        untouched = plain(pixels).image_embeds
        loaded = PeftModel.from_pretrained(plain, made / "checkpoints" / "best-adapter").eval()
        net = tapetum.load(made, device="cpu").module.net
        expected = net.backbone(pixel_values=pixels).image_embeds
        found = loaded(pixel_values=pixels).image_embeds
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, untouched, atol=1e-4)


def test_a_resumed_lora_run_ends_as_one_that_was_not_stopped(place, backbone, tmp_path):
    words = ("model.net.last_blocks=2", "trainer.max_epochs=2", "scheduler=constant")
    first = trained(place, backbone, "clip_lora", "model.net.last_blocks=2", "scheduler=constant")
    (first / "metrics.json").unlink()  # as if it had been stopped behind its first epoch
    line = ["model=clip_lora", "data=genimage", f"model.net.backbone={backbone}", *SHORT, *words]
    assert run("train", *line, f"resume={first}") == 0
    straight = tmp_path / "straight"
    assert run("train", *line, f"paths.outputs={straight}") == 0
    (other,) = runs(straight)
    one, two = (read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (first, other))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_network_trained_from_random_weights_holds_all_of_them(place, backbone):
    made = trained(place, backbone, "clip_lora", "model.net.pretrained=false")
    assert stored(made) == set(tapetum.load(made, device="cpu").module.net.state_dict())


def test_zero_shot_is_evaluated_without_weights(place, backbone):
    words = ["model=clip_zeroshot", "data=genimage", f"model.net.backbone={backbone}", "accelerator=cpu"]
    assert main(["evaluate", *words]) == 0
    assert list(place.glob("detection/clip_zeroshot-genimage/**/metrics.json"))


@pytest.mark.parametrize("mode", MODES)
def test_absent_weights_give_the_two_commands_before_a_run_is_made(
    place, tmp_path, monkeypatch, capsys, mode
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository.on_the_hub.cache_clear()
    assert run("train", f"model={mode}", "data=genimage", "accelerator=cpu") == 2
    said = capsys.readouterr().err
    assert "hf download openai/clip-vit-base-patch32" in said
    assert "tapetum tiny clip tiny-clip" in said
    assert "model.net.backbone=tiny-clip" in said
    assert not place.exists()


@pytest.mark.parametrize("words", [60, 90])
def test_a_prompt_longer_than_the_context_is_told_by_every_verb(place, backbone, tmp_path, capsys, words):
    prompt = " ".join(["of a"] * words) + " {}"  # too long for the name of a file, which it might be
    line = ["model=clip_zeroshot", f"model.net.backbone={backbone}", f'model.net.templates=["{prompt}"]']
    for verb in (["train"], ["evaluate"], ["predict", str(tmp_path), str(tmp_path / "out.json")]):
        make_image(tmp_path / "a.png", generated=False)
        data = [] if verb[0] == "predict" else ["data=genimage"]
        assert run(*verb, *line, *data, "accelerator=cpu") == 2
        said = capsys.readouterr().err
        assert f"a prompt of {2 * words + 3} tokens" in said
        assert f"the 77 that this CLIP reads: {2 * words - 74} too many" in said


def test_absent_data_is_named_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TAPETUM_DATA", str(tmp_path))
    assert run("train", "model=clip_lora", "data=genimage") == 2
    assert f"{tmp_path}/genimage does not exist" in capsys.readouterr().err


def test_check_knows_a_published_clip_without_network(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert run("check", "--json", "model=clip_lora", "data=genimage") == 0
    plan = json.loads(capsys.readouterr().out)
    # 12 blocks, 4 projections of 768 to 768 at rank 8, and 512 + 1 of the head.
    assert plan["parameters"]["trainable"] == 12 * 4 * 2 * 8 * 768 + 513
    kinds = ("k_proj", "v_proj", "q_proj", "out_proj")
    expected = {f"{kind} (12)": 12 * 2 * 8 * 768 for kind in kinds} | {"head": 513}
    assert plan["parameters"]["of these"] == expected
    found = plan["geometry"]
    assert (found["size"], found["resize"], found["crop"]) == ([224, 224], "shortest", [224, 224])


def test_an_unknown_target_module_is_a_config_error(place, backbone, capsys):
    words = ["model=clip_lora", "data=genimage", f"model.net.backbone={backbone}"]
    assert run("check", *words, "model.net.target_modules=[query]") == 2
    assert "there are k_proj (4)" in capsys.readouterr().err


def test_layer_decay_reaches_the_optimizer(place, backbone):
    made = trained(place, backbone, "clip_finetune", "model.net.layer_decay=0.5", "scheduler=constant")
    groups = read_checkpoint(made / "checkpoints" / "last.ckpt")["optimizer_states"][0]["param_groups"]
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["backbone_layer_4"] == pytest.approx(5e-5 / 2)
    assert rates["backbone_layer_0"] == pytest.approx(5e-5 / 2**5)
    assert rates["head"] == pytest.approx(5e-5)


def test_tiny_writes_a_clip_and_says_what_to_type(tmp_path, capsys):
    place = tmp_path / "one"
    assert main(["tiny", "clip", str(place), "--seed", "3"]) == 0
    assert f"tapetum check model=clip_linear model.net.backbone={place}" in capsys.readouterr().out
    assert (place / "model.safetensors").read_bytes() == (
        tiny.clip(tmp_path / "two", seed=3) / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clip"], "a kind of model and a directory are needed"),
        (["clp", "x"], "unknown kind clp: did you mean clip?"),
        (["clip", "x", "--seed=-1"], "not a whole number"),
        (["clip", "x", "--sed", "1"], "did you mean --seed?"),
        (["clip", "x", "--seed"], "not a whole number"),
        (["clip", "x", "y"], "a kind of model and a directory are needed"),
    ],
)
def test_tiny_says_what_is_wrong(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["tiny", *words]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
