"""UnivFD against transformers' and OpenAI's CLIP, and its published files."""

from __future__ import annotations

import pytest
import torch
from tapetum.backbones import tiny
from tapetum.backbones.weights import load_weights
from tapetum.detectors.univfd import UnivFD
from tapetum.errors import CheckpointError, ConfigError

from detectors.clip_oracles import jittered, openai_encode_image, openai_names, pixel_values, whole_clip
from detectors.conv_oracles import pixels


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture
def net(directory):
    return UnivFD(backbone=str(directory), pretrained=True).eval()


def test_the_logit_is_a_linear_layer_on_features_that_are_not_normalised(net, directory):
    images = pixels(3, 32, 32)
    with torch.no_grad():
        features = whole_clip(directory).get_image_features(pixel_values=pixel_values(images)).pooler_output
        expected = features @ net.fc.weight[0] + net.fc.bias
        found = net(images)
    assert (features.norm(dim=1) - 1).abs().min() > 0.1
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(net(images / 255), found, rtol=1e-5, atol=1e-5)


def test_the_published_layer_alone_is_loaded_over_a_pretrained_tower(net, directory, tmp_path):
    weight, bias = torch.randn(1, 24), torch.randn(1)
    torch.save({"weight": weight, "bias": bias}, tmp_path / "fc_weights.pth")
    load_weights(net, tmp_path / "fc_weights.pth")
    assert torch.equal(net.fc.weight, weight)
    assert torch.equal(net.fc.bias, bias)
    tower = whole_clip(directory).state_dict()
    assert all(torch.equal(value, tower[name]) for name, value in net.model.state_dict().items())


def test_the_published_layer_is_not_put_on_a_random_tower(directory, tmp_path):
    torch.save({"weight": torch.randn(1, 24), "bias": torch.randn(1)}, tmp_path / "fc_weights.pth")
    net = UnivFD(backbone=str(directory), pretrained=False)
    with pytest.raises(
        CheckpointError, match=r"the trained part of UnivFD alone.* model\.net\.pretrained=true"
    ):
        load_weights(net, tmp_path / "fc_weights.pth")


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_training_checkpoint_in_openais_names_is_loaded_whole(directory, tmp_path, pretrained):
    state = openai_names(jittered(whole_clip(directory).state_dict()))
    fc = {"fc.weight": torch.randn(1, 24), "fc.bias": torch.randn(1)}
    content = {"model": {**{f"model.{name}": value for name, value in state.items()}, **fc}, "total_steps": 7}
    torch.save(content, tmp_path / "model_epoch_best.pth")
    net = UnivFD(backbone=str(directory), pretrained=pretrained).eval()
    load_weights(net, tmp_path / "model_epoch_best.pth")
    images = pixels(3, 32, 32)
    features, _ = openai_encode_image(state, pixel_values(images), heads=4)
    with torch.no_grad():
        expected = features @ fc["fc.weight"][0] + fc["fc.bias"]
        torch.testing.assert_close(net(images), expected, rtol=1e-5, atol=1e-5)


def test_a_training_checkpoint_without_a_part_of_the_tower_is_refused(net, directory, tmp_path):
    state = openai_names(whole_clip(directory).state_dict())
    del state["visual.transformer.resblocks.2.attn.in_proj_weight"]
    fc = {"fc.weight": torch.randn(1, 24), "fc.bias": torch.randn(1)}
    torch.save(
        {"model": {**{f"model.{name}": value for name, value in state.items()}, **fc}}, tmp_path / "a.pth"
    )
    with pytest.raises(CheckpointError, match=r"3 missing in the file: model.*layers\.2\.self_attn\.k_proj"):
        load_weights(net, tmp_path / "a.pth")


def test_the_layer_of_a_larger_clip_is_told_by_its_shape(net, tmp_path):
    torch.save({"weight": torch.randn(1, 768), "bias": torch.randn(1)}, tmp_path / "fc_weights.pth")
    with pytest.raises(CheckpointError, match=r"fc\.weight \(1x768 in the file, 1x24 in the network\)"):
        load_weights(net, tmp_path / "fc_weights.pth")


def test_its_own_state_dict_is_loaded_too(net, directory, tmp_path):
    torch.save(net.state_dict(), tmp_path / "own.pth")
    other = UnivFD(backbone=str(directory), pretrained=False).eval()
    load_weights(other, tmp_path / "own.pth")
    assert torch.equal(other(pixels(2, 32, 32)), net(pixels(2, 32, 32)))


def test_training_reaches_the_layer_alone_and_starts_it_as_published(net):
    net.train()
    assert not any(module.training for module in net.model.modules())
    net(pixels(2, 32, 32)).sum().backward()
    assert {name for name, value in net.named_parameters() if value.grad is not None} == {
        "fc.weight",
        "fc.bias",
    }
    assert 0.01 < net.fc.weight.detach().std() < 0.03


def test_a_checkpoint_holds_the_layer_and_a_random_tower_only(net, directory):
    assert set(net.state_dict()) - net.stored_elsewhere() == {"fc.weight", "fc.bias"}
    assert not UnivFD(backbone=str(directory), pretrained=False).stored_elsewhere()


def test_k_way_heads_return_a_column_a_class(directory):
    net = UnivFD(backbone=str(directory), pretrained=True, classes=4)
    assert net(pixels(2, 32, 32)).shape == (2, 4)
    with pytest.raises(ConfigError, match="classes=0 is no number of outputs"):
        UnivFD(backbone=str(directory), pretrained=True, classes=0)
