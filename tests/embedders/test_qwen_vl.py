from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from tapetum.backbones import tiny
from tapetum.backbones.frozen import FrozenFeatures
from tapetum.embedders.qwen_vl import QwenVLEmbedder
from tapetum.errors import CheckpointError, ConfigError
from tapetum.images.geometry import InputSpec

TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("qwen")
    return {name: str(tiny.qwen_vl(root / name, model_type=name)) for name in TYPES}


@pytest.fixture(scope="module")
def backbone(directories):
    return directories["qwen2_5_vl"]


def made(backbone, **more):
    return QwenVLEmbedder(**({"backbone": backbone, "pretrained": True, "size": 112, "dimension": 24} | more))


def images(count=3, side=112):
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


@pytest.mark.parametrize("model_type", TYPES)
def test_the_embedding_is_the_head_on_the_mean_of_the_tokens_of_transformers(directories, model_type):
    directory = directories[model_type]
    network = made(directory, size=128 if model_type == "qwen3_vl" else 112).eval()
    pixels = images(side=network.input_spec.size[0])
    processor = transformers.Qwen2VLImageProcessorPil.from_pretrained(directory)
    model = transformers.AutoModelForImageTextToText.from_pretrained(directory).eval()
    with torch.no_grad():
        tokens = model.model.get_image_features(**processor(images=list(pixels), return_tensors="pt"))
        pooled = torch.stack([one.mean(0) for one in tokens.pooler_output])
        expected = network.head.linear(F.layer_norm(pooled, [64], network.norm.weight, network.norm.bias))
        found = network(pixels)
        torch.testing.assert_close(network.frozen_features(pixels), pooled, rtol=0, atol=1e-5)
        torch.testing.assert_close(found, F.normalize(expected, dim=1), rtol=0, atol=1e-5)
        torch.testing.assert_close(network(pixels / 255), found, rtol=0, atol=1e-5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_the_study_of_the_infrared_document_has_768_dimensions_and_the_width_of_the_model():
    with torch.device("meta"):
        network = QwenVLEmbedder(backbone="Qwen/Qwen2-VL-7B-Instruct", pretrained=True)
        assert network.frozen_features(torch.empty(2, 3, 224, 224, dtype=torch.uint8)).shape == (2, 3584)
        assert network(torch.empty(2, 3, 224, 224, dtype=torch.uint8)).shape == (2, 768)
    assert network.input_spec == InputSpec((224, 224), "squash", interpolation="bicubic", channels=3)
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert trained == {"norm.weight", "norm.bias", "head.linear.weight", "head.linear.bias"}


def test_a_frozen_tower_stays_as_it_is_and_autograd_starts_above_it(backbone):
    network = made(backbone).train()
    assert not network.backbone.training
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        network(images()).sum().backward()
    assert max(len(shape) for shape in saved) == 2  # [B, D]: no tokens were kept for the backward pass
    assert all(value.grad is None for value in network.backbone_parameters())
    assert network.head.linear.weight.grad is not None


@pytest.mark.parametrize("model_type", TYPES)
def test_every_parameter_of_an_unfrozen_tower_learns(directories, model_type):
    # One that got no gradient would stop training in several processes.
    network = made(directories[model_type], size=224, freeze=False).train()
    weights = torch.randn(1, network.dimension)
    (network(images(1, 224)) * weights).sum().backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []
    with pytest.raises(ConfigError, match=r"model\.net\.freeze=true"):
        network.frozen_features(images())


def test_features_are_the_lower_half_and_their_key_names_it(directories, backbone, tmp_path):
    network = made(backbone).eval()
    assert isinstance(network, FrozenFeatures)
    pixels = images()
    with torch.no_grad():
        assert torch.equal(network.forward_features(network.frozen_features(pixels)), network(pixels))
    key = network.cache_key()
    assert made(backbone, dimension=None).cache_key() == key
    other = tiny.qwen_vl(tmp_path / "other", seed=1)
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in other.parent.joinpath("other").iterdir():
        text = file.read_bytes()
        changed.joinpath(file.name).write_bytes(text.replace(b'"window_size": 56', b'"window_size": 112'))
    keys = {
        key,
        made(str(other)).cache_key(),
        made(str(changed)).cache_key(),
        made(directories["qwen2_vl"]).cache_key(),
    }
    assert len(keys) == 4


@pytest.mark.parametrize(("freeze", "pretrained"), [(True, True), (True, False), (False, True)])
def test_only_a_frozen_tower_with_weights_of_its_own_is_stored_elsewhere(backbone, freeze, pretrained):
    network = made(backbone, freeze=freeze, pretrained=pretrained)
    expected = {name for name in network.state_dict() if name.startswith("backbone.")}
    assert network.stored_elsewhere() == (expected if freeze and pretrained else set())


def test_what_is_stored_and_what_is_elsewhere_rebuild_the_network(backbone):
    one, other = made(backbone).eval(), made(backbone).eval()
    stored = {name: value for name, value in one.state_dict().items() if name not in one.stored_elsewhere()}
    assert len(stored) == 4
    other.load_state_dict(stored, strict=False)
    pixels = images()
    with torch.no_grad():
        assert torch.equal(one(pixels), other(pixels))


def test_random_weights_follow_the_seed_and_nothing_else(backbone):
    def drawn(seed):
        torch.manual_seed(seed)
        return made(backbone, pretrained=False).backbone.patch_embed.proj.weight

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_bf16_autocast_keeps_the_embedding_in_float32(backbone):
    network = made(backbone).eval()
    pixels = images()
    with torch.no_grad():
        exact = network(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network(pixels)
    assert found.dtype == torch.float32
    assert (found * exact).sum(1).min() > 0.99


def test_sides_that_are_no_multiple_of_a_token_are_refused_with_those_that_are(directories, backbone):
    with pytest.raises(
        ConfigError, match=r"model\.net\.size=100 .* multiple of 28.* type model\.net\.size=112"
    ):
        made(backbone, size=100)
    with pytest.raises(ConfigError, match=r"multiple of 32.* type model\.net\.size=224"):
        made(directories["qwen3_vl"], size=220)
    network = made(backbone)
    assert network(images()[:, :, :56]).shape == (3, 24)  # model.geometry.size=[56,112]
    with pytest.raises(ConfigError, match=r"not 57x112: type model\.geometry\.size=\[56,112\]"):
        network(images()[:, :, :57])


def test_one_channel_is_for_the_reader_to_repeat(backbone):
    network = made(backbone)
    assert network.input_spec.channels == 3
    with pytest.raises(ValueError, match=r"expected \[B, 3, H, W\]"):
        network(images()[:, :1])


def test_old_ids_absent_weights_and_dimensions_without_meaning_are_refused(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ConfigError, match=r"Qwen/Qwen-VL-Chat is the first Qwen-VL"):
        made("Qwen/Qwen-VL-Chat")
    with torch.device("meta"):
        published = QwenVLEmbedder(pretrained=True)
    with pytest.raises(CheckpointError, match="tapetum tiny qwen_vl"):
        published.check_weights()
    made(backbone).check_weights()
    with pytest.raises(ConfigError, match="dimension=1"):
        made(backbone, dimension=1)
