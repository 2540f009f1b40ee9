import numpy as np
import pytest
import torch
import torchvision
from tapetum.detectors.npr import NPR, pixel_residual
from tapetum.errors import ConfigError
from tapetum.images.geometry import InputSpec
from torch.nn import functional as F


def _by_hand(network, images):
    """NPR from its definition in numpy and torchvision's ResNet-50, for uint8 images [B, 3, H, W]."""
    x = images.numpy().astype(np.float64) / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = (x - mean[:, None, None]) / std[:, None, None]
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    corners = x[:, :, ::2, ::2].repeat(2, axis=2).repeat(2, axis=3)
    x = torch.tensor((x - corners) * 2 / 3, dtype=torch.float32)
    trunk = torchvision.models.resnet50(weights=None)
    state = network.state_dict()
    for name in ("layer1", "layer2"):
        part = {key.removeprefix(f"{name}."): v for key, v in state.items() if key.startswith(f"{name}.")}
        getattr(trunk, name).load_state_dict(part, strict=True)
    trunk.bn1.load_state_dict({key[4:]: v for key, v in state.items() if key.startswith("bn1.")})
    trunk.eval()
    with torch.no_grad():
        x = F.conv2d(x, state["conv1.weight"], stride=2, padding=1)
        x = trunk.layer2(trunk.layer1(trunk.maxpool(trunk.relu(trunk.bn1(x)))))
        return F.linear(trunk.avgpool(x).flatten(1), state["fc1.weight"], state["fc1.bias"])


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = NPR()
    network.train()
    with torch.no_grad():  # running statistics other than 0 and 1
        network(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8))
    return network.eval()


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (256, 256)])
def test_logits_equal_the_definition_on_even_and_odd_sizes(network, size):
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        found = network(images)
    torch.testing.assert_close(found, _by_hand(network, images).squeeze(1), rtol=0, atol=1e-5)


def test_parameters_and_names_are_those_of_the_published_file(network):
    state = network.state_dict()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_437_761
    assert len(state) == 146
    reference = torchvision.models.resnet50(weights=None).state_dict()
    expected = {name for name in reference if name.split(".")[0] in ("conv1", "bn1", "layer1", "layer2")}
    assert set(state) == expected | {"fc1.weight", "fc1.bias"}
    assert state["conv1.weight"].shape == (64, 3, 3, 3)
    assert state["fc1.weight"].shape == (1, 512)


def test_residual_is_zero_where_blocks_are_flat_and_the_difference_elsewhere():
    x = torch.arange(15.0).view(1, 1, 3, 5)  # odd: the last row and column go
    expected = torch.tensor([[[[0.0, 1.0, 0.0, 1.0], [5.0, 6.0, 5.0, 6.0]]]])
    assert torch.equal(pixel_residual(x), expected)
    flat = torch.randn(2, 3, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(pixel_residual(flat), torch.zeros_like(flat))


def test_uint8_and_float_images_give_the_same_logits(network):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(network(images), network(images / 255), rtol=0, atol=1e-5)


def test_logits_are_float32_vectors_or_one_column_a_class():
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one, many = NPR()(images), NPR(classes=4)(images)
    assert (one.shape, one.dtype) == ((2,), torch.float32)
    assert (many.shape, many.dtype) == ((2, 4), torch.float32)


def test_input_is_the_published_evaluation_geometry_unless_overridden():
    published = InputSpec(size=(256, 256), resize="squash", strict=True)
    assert NPR().input_spec == published
    assert NPR(size=64).input_spec.output_size == (64, 64)
    assert NPR(size=None).input_spec == InputSpec(size=None, resize="none")


@pytest.mark.parametrize(
    ("arguments", "message"), [({"size": 1}, r"size=1 "), ({"classes": 0}, r"classes=0 ")]
)
def test_arguments_without_meaning_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        NPR(**arguments)


def test_every_parameter_learns():
    network = NPR()
    network(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_it_is_built_on_the_meta_device():
    with torch.device("meta"):
        network = NPR()
    assert all(parameter.is_meta for parameter in network.parameters())
