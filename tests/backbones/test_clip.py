from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tapetum.backbones import clip, repository, tiny
from tapetum.errors import CheckpointError, ConfigError
from tapetum.images.geometry import InputSpec, prepare
from tapetum.images.normalize import CLIP, Normalize
from transformers import CLIPImageProcessorPil, CLIPModel


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture
def directory(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "clip"))


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository.on_the_hub.cache_clear()
    return tmp_path / "hub"


def edited(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_weights_are_those_that_transformers_loads(directory):
    model, vision = (
        clip.create(str(directory), pretrained=True),
        clip.create_vision(str(directory), pretrained=True),
    )
    expected = CLIPModel.from_pretrained(directory).state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    for name, value in vision.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_vision_half_is_encode_image(directory):
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(directory).get_image_features(pixels).pooler_output
        found = clip.create_vision(str(directory), pretrained=True)(pixels).image_embeds
    assert torch.allclose(found, expected, atol=1e-5)


def test_half_precision_files_become_float32(directory, tmp_path):
    CLIPModel.from_pretrained(directory).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    for create in (clip.create, clip.create_vision):
        for pretrained in (True, False):
            net = create(str(tmp_path / "half"), pretrained=pretrained)
            assert {value.dtype for value in net.parameters()} == {torch.float32}


def test_parts_torch_files_and_old_buffers_are_read(directory, tmp_path):
    state = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: state[name] for name in own}, directory / file)
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    split = clip.create(str(directory), pretrained=True)
    old = state | {f"{half}_model.embeddings.position_ids": torch.arange(5) for half in ("vision", "text")}
    torch.save(old, tmp_path / "pytorch_model.bin")
    other = clip.create(str(directory), pretrained=str(tmp_path / "pytorch_model.bin"))
    for name, value in state.items():
        assert torch.equal(split.state_dict()[name], value)
        assert torch.equal(other.state_dict()[name], value)


def test_random_weights_follow_the_seed_and_nothing_else(directory):
    def drawn(seed):
        torch.manual_seed(seed)
        return clip.create_vision(str(directory), pretrained=False).visual_projection.weight

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_published_architectures_have_their_parameters_without_a_network(no_cache):
    # https://github.com/openai/CLIP: as counted from the released files.
    counts = {
        "openai/clip-vit-base-patch32": 151_277_313,
        "openai/clip-vit-base-patch16": 149_620_737,
        "openai/clip-vit-large-patch14": 427_616_513,
        "openai/clip-vit-large-patch14-336": 427_944_193,
    }
    assert counts.keys() == clip.PUBLISHED.keys()
    for backbone, count in counts.items():
        with torch.device("meta"):
            model = clip.create(backbone, pretrained=True)
            vision = clip.create_vision(backbone, pretrained=True)
        assert sum(value.numel() for value in model.parameters()) == count
        side = 336 if backbone.endswith("336") else 224
        spec = InputSpec((side, side), "shortest", (side, side), "bicubic")
        assert clip.preprocessing(backbone) == (spec, CLIP)
        assert vision(torch.empty(1, 3, side, side, device="meta")).image_embeds.shape[1] in (512, 768)


def test_preprocessing_is_that_of_the_processor(directory):
    size = {"shortest_edge": 36}
    CLIPImageProcessorPil(
        size=size,
        crop_size={"height": 32, "width": 32},
        image_mean=[0.1, 0.2, 0.3],
        image_std=[0.5, 0.6, 0.7],
    ).save_pretrained(directory)
    spec, statistics = clip.preprocessing(str(directory))
    image = torch.randint(0, 256, (3, 50, 80), dtype=torch.uint8)
    expected = CLIPImageProcessorPil.from_pretrained(directory)(images=[image], return_tensors="pt")
    found = Normalize(*statistics)(prepare(image, spec, backend="pillow").unsqueeze(0))
    assert torch.allclose(found, expected["pixel_values"], atol=1e-5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": 40, "crop_size": 32}, InputSpec((40, 40), "shortest", (32, 32), "bicubic")),
        (
            {"size": {"height": 32, "width": 32}, "do_center_crop": False},
            InputSpec((32, 32), "squash", None, "bicubic"),
        ),
        ({"do_resize": False}, InputSpec(None, "none", (32, 32))),
        ({"resample": 2}, InputSpec((32, 32), "shortest", (32, 32), "bilinear")),
    ],
)
def test_older_and_other_processors_are_understood(directory, values, expected):
    edited(directory / "preprocessor_config.json", **values)
    assert clip.preprocessing(str(directory)).input_spec == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resample": 1}, "resample=1"),
        ({"do_normalize": False}, "does not normalise"),
        ({"size": {"longest_edge": 3}}, "names a size"),
    ],
)
def test_processors_that_do_something_else_are_refused(directory, values, message):
    edited(directory / "preprocessor_config.json", **values)
    with pytest.raises(ConfigError, match=message):
        clip.preprocessing(str(directory))


def test_a_directory_that_is_no_clip_is_named(directory, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"is no CLIP: it has no config\.json"):
        clip.create(str(tmp_path / "empty"), pretrained=True)
    edited(directory / "config.json", model_type="bert")
    with pytest.raises(ConfigError, match="model_type='bert'"):
        clip.create(str(directory), pretrained=True)
    for vision in (3, {"hidden_size": "wide"}):
        edited(directory / "config.json", model_type="clip", vision_config=vision)
        with pytest.raises(ConfigError, match=r"the config\.json of .* is damaged"):
            clip.create(str(directory), pretrained=True)
    (directory / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        clip.create(str(directory), pretrained=True)
    with pytest.raises(ConfigError, match="neither a directory that exists nor the id"):
        clip.create("./nowhere/at all", pretrained=True)


def test_absent_files_of_a_directory_are_named_before_anything_is_built(directory):
    for name, look in (
        ("model.safetensors", lambda: clip.create(str(directory), pretrained=True)),
        ("preprocessor_config.json", lambda: clip.preprocessing(str(directory))),
        ("tokenizer.json", lambda: clip.tokenizer(str(directory))),
    ):
        (directory / name).unlink()
        if name == "tokenizer.json":
            (directory / "merges.txt").unlink()
        with torch.device("meta"), pytest.raises((CheckpointError, ConfigError), match=name.split(".")[0]):
            look()


def test_weights_of_another_architecture_name_what_differs(directory, tmp_path):
    other = tiny.clip(tmp_path / "other", size=64)
    edited(other / "config.json", projection_dim=12)
    with pytest.raises(CheckpointError, match=r"of another shape: .*24x32 in the file, 12x32"):
        clip.create(str(other), pretrained=str(directory))
    with pytest.raises(CheckpointError, match="does not exist"):
        clip.create(str(directory), pretrained=str(tmp_path / "nowhere"))
    (directory / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="damaged or not a weight file"):
        clip.create(str(directory), pretrained=True)


def test_a_hub_id_without_network_gives_the_two_commands(no_cache):
    backbone = "openai/clip-vit-base-patch32"
    expected = rf"(?s)hf download {backbone}.*tapetum tiny clip tiny-clip.*model\.net\.backbone=tiny-clip"
    for look in (
        lambda: clip.create(backbone, pretrained=True),
        lambda: clip.tokenizer(backbone),
        lambda: clip.check_weights(backbone, True),
        lambda: clip.check_weights(backbone, False, text=True),
    ):
        with pytest.raises(CheckpointError, match=expected):
            look()
    clip.check_weights(backbone, False)
    for look in (clip.read_config, clip.preprocessing):
        with pytest.raises(CheckpointError, match="hf download org/unknown"):
            look("org/unknown")


def test_what_the_hub_has_put_into_its_cache_is_used(directory, no_cache):
    snapshot = no_cache / "models--org--tiny" / "snapshots" / "abc"
    shutil.copytree(directory, snapshot)
    refs = no_cache / "models--org--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    model = clip.create("org/tiny", pretrained=True)
    expected = clip.create(str(directory), pretrained=True).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert clip.preprocessing("org/tiny") == clip.preprocessing(str(directory))
    assert (
        clip.tokenizer("org/tiny")("real")["input_ids"] == clip.tokenizer(str(directory))("real")["input_ids"]
    )
    clip.check_weights("org/tiny", True, text=True)


def test_no_code_of_a_directory_is_run(directory, tmp_path):
    marker = tmp_path / "ran"
    (directory / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    edited(
        directory / "config.json",
        auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "CLIPModel": "evil.Model"},
    )
    edited(directory / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Model", None]})
    clip.create(str(directory), pretrained=True)
    clip.tokenizer(str(directory))
    assert not marker.exists()
