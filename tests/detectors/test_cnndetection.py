import pytest
import torch
import torchvision
from tapetum.detectors.cnndetection import CNNDetection
from tapetum.errors import CheckpointError, ConfigError
from tapetum.images.geometry import InputSpec

from detectors.conv_oracles import lived_in, normalised, pixels


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return lived_in(CNNDetection())


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_logits_equal_torchvisions_resnet50(network, size):
    theirs = torchvision.models.resnet50(weights=None, num_classes=1)
    theirs.load_state_dict(network.state_dict(), strict=True)
    images = pixels(2, *size)
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(normalised(images), dtype=torch.float32)).squeeze(1)
        torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-5)


def test_parameters_and_names_are_torchvisions_with_one_logit(network):
    theirs = torchvision.models.resnet50(weights=None, num_classes=1).state_dict()
    ours = network.state_dict()
    assert {name: tuple(value.shape) for name, value in ours.items()} == {
        name: tuple(value.shape) for name, value in theirs.items()
    }
    assert sum(parameter.numel() for parameter in network.parameters()) == 23_510_081


def test_an_imagenet_file_fills_everything_but_the_head(tmp_path):
    torch.manual_seed(1)
    imagenet = torchvision.models.resnet50(weights=None).state_dict()
    torch.save(imagenet, tmp_path / "resnet50.pth")
    found = CNNDetection(pretrained=str(tmp_path / "resnet50.pth")).state_dict()
    assert all(torch.equal(found[name], imagenet[name]) for name in found if not name.startswith("fc."))
    assert found["fc.weight"].std().item() == pytest.approx(0.02, rel=0.1)


def test_a_file_of_another_backbone_is_refused(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(CheckpointError, match=r"resnet18\.pth does not fit"):
        CNNDetection(pretrained=str(tmp_path / "resnet18.pth"))


def test_imagenet_weights_that_are_not_here_are_an_error_with_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"(?s)hf download .*model\.net\.pretrained=false"):
        CNNDetection(pretrained=True)


def test_crop_of_224_without_resizing_unless_overridden():
    assert CNNDetection().input_spec == InputSpec(size=None, resize="none", crop=(224, 224))
    assert CNNDetection(size=64).input_spec.output_size == (64, 64)
    assert CNNDetection(size=None).input_spec == InputSpec(size=None, resize="none")


@pytest.mark.parametrize(
    ("arguments", "message"), [({"size": 0}, r"size=0 "), ({"classes": 0}, r"classes=0 ")]
)
def test_arguments_without_meaning_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CNNDetection(**arguments)
