"""C2P-CLIP against transformers' CLIP with a layer on normalised features, and its published file."""

from __future__ import annotations

import pytest
import torch
from tapetum.backbones import tiny
from tapetum.backbones.weights import load_weights
from tapetum.detectors.c2p_clip import C2PCLIP
from tapetum.errors import CheckpointError, ConfigError

from detectors.clip_oracles import jittered, pixel_values, whole_clip
from detectors.conv_oracles import pixels


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture
def published(directory):
    """The release's names: a CLIP without its text tower, `fc` below `model`."""
    text = ("text_model.", "text_projection.", "logit_scale")
    clip = {n: v for n, v in whole_clip(directory).state_dict().items() if not n.startswith(text)}
    state = {f"model.{name}": value for name, value in jittered(clip).items()}
    return {**state, "model.fc.weight": 5 * torch.randn(1, 24), "model.fc.bias": torch.randn(1)}


def test_the_logit_is_a_linear_layer_on_normalised_features(directory, published, tmp_path):
    torch.save(published, tmp_path / "C2P_CLIP_release.pth")
    net = C2PCLIP(backbone=str(directory)).eval()
    load_weights(net, tmp_path / "C2P_CLIP_release.pth")
    assert set(published) == set(net.state_dict())
    clip, images = whole_clip(directory), pixels(3, 32, 32)
    tower = {n.removeprefix("model."): v for n, v in published.items() if ".fc." not in n}
    assert not clip.load_state_dict(tower, strict=False).unexpected_keys
    with torch.no_grad():
        features = clip.get_image_features(pixel_values=pixel_values(images)).pooler_output
        unit = features / features.norm(dim=1, keepdim=True)
        expected = unit @ published["model.fc.weight"][0] + published["model.fc.bias"]
        found = net(images)
        torch.testing.assert_close(net(images / 255), found, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(found.unique()) == 3


def test_position_numbers_of_older_files_are_left_out(directory, published, tmp_path):
    published["model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(published, tmp_path / "C2P_CLIP_release.pth")
    load_weights(C2PCLIP(backbone=str(directory)), tmp_path / "C2P_CLIP_release.pth")


def test_without_weights_it_predicts_nothing(directory):
    net = C2PCLIP(backbone=str(directory)).eval()
    with pytest.raises(CheckpointError, match="none were loaded: type weights=FILE"):
        net(pixels(1, 32, 32))


def test_univfds_layer_alone_is_refused(directory, tmp_path):
    torch.save({"weight": torch.randn(1, 24), "bias": torch.randn(1)}, tmp_path / "fc_weights.pth")
    net = C2PCLIP(backbone=str(directory)).eval()
    with pytest.raises(CheckpointError, match=r"does not fit C2PCLIP .*\n.* missing in the file: model\.vis"):
        load_weights(net, tmp_path / "fc_weights.pth")
    with pytest.raises(CheckpointError, match="none were loaded"):
        net(pixels(1, 32, 32))


def test_images_of_another_size_are_told(directory, published, tmp_path):
    torch.save(published, tmp_path / "C2P_CLIP_release.pth")
    net = C2PCLIP(backbone=str(directory)).eval()
    load_weights(net, tmp_path / "C2P_CLIP_release.pth")
    with pytest.raises(ConfigError, match="takes images of 32x32 pixels, not 40x32"):
        net(pixels(1, 40, 32))
