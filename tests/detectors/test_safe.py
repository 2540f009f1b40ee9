import numpy as np
import pytest
import torch
import torchvision
from tapetum.detectors.safe import SAFE, diagonal_detail
from tapetum.errors import ConfigError
from tapetum.images.geometry import InputSpec
from torch.nn import functional as F
from torchvision.transforms import Resize

from detectors.conv_oracles import lived_in, norm, pixels, resnet_layer

# PyWavelets' dec_hi of bior1.3.
HIGH_PASS = np.array([0, 0, -(0.5**0.5), 0.5**0.5, 0, 0])


def detail_by_hand(x):
    """The wavelet step by definition: six taps along each axis, borders mirrored, every second value."""

    def step(values):
        mirrored = np.pad(values, 5, mode="symmetric")
        return np.convolve(mirrored, HIGH_PASS, mode="valid")[1::2]

    return np.apply_along_axis(step, -1, np.apply_along_axis(step, -2, x))


def by_hand(network, images):
    """SAFE from its definition, torchvision's Resize and ResNet-50: both scores."""
    state = {name: value.double() for name, value in network.state_dict().items()}
    x = torch.tensor(detail_by_hand(images.numpy() / 255.0))
    x = Resize(list(images.shape[-2:]))(x)
    with torch.no_grad():
        x = F.relu(norm(state, "bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=1)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = resnet_layer(state, "layer1").double()(x)
        x = resnet_layer(state, "layer2").double()(x)
        return F.linear(x.mean(dim=(2, 3)), state["fc1.weight"], state["fc1.bias"])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return lived_in(SAFE())


def test_detail_equals_what_pywavelets_returned():
    # pywt.dwt2(x, "bior1.3", mode="symmetric")[1][2] of PyWavelets 1.8.0
    x = [[8, 6, 5, 2], [3, 0, 0, 0], [1, 8, 6, 9], [5, 6, 9, 7], [6, 5, 5, 9]]
    expected = [
        [-0.5, 0.5, -1.5, 1.5],
        [0.5, -0.5, 1.5, -1.5],
        [3.0, -3.0, -2.5, 2.5],
        [0.0, 0.0, 0.0, 0.0],
        [-3.0, 3.0, 2.5, -2.5],
    ]
    found = diagonal_detail(torch.tensor(x, dtype=torch.float64)[None, None])
    assert np.allclose(found[0, 0].numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (6, 7), (3, 2), (1, 1)])
def test_detail_equals_the_six_taps_by_definition(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    found = diagonal_detail(x)
    assert found.shape[-2:] == tuple((side + 5) // 2 for side in size)
    assert np.allclose(found.numpy(), detail_by_hand(x.numpy()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_logits_equal_the_definition_on_even_and_odd_sizes(network, size):
    images = pixels(2, *size)
    scores = by_hand(network, images)
    with torch.no_grad():
        found = network(images)
    torch.testing.assert_close(found, (scores[:, 1] - scores[:, 0]).float(), rtol=0, atol=1e-5)


def test_pixels_are_not_normalised(network):
    half = torch.full((1, 3, 16, 16), 0.5)
    assert torch.equal(network.normalize(half), half)
    assert torch.allclose(network.normalize(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)), torch.ones(1))


def test_parameters_and_names_are_those_of_the_published_file(network):
    trunk = torchvision.models.resnet50(weights=None).state_dict()
    expected = {name for name in trunk if name.split(".")[0] in ("conv1", "bn1", "layer1", "layer2")}
    state = network.state_dict()
    assert set(state) == expected | {"fc1.weight", "fc1.bias"}
    assert len(state) == 146
    assert state["conv1.weight"].shape == (64, 3, 3, 3)
    assert state["fc1.weight"].shape == (2, 512)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_438_274


def test_crop_of_256_without_resizing_unless_overridden():
    assert SAFE().input_spec == InputSpec(size=None, resize="none", crop=(256, 256))
    assert SAFE(size=None).input_spec == InputSpec(size=None, resize="none")


@pytest.mark.parametrize(
    ("arguments", "message"), [({"size": 0}, r"size=0 "), ({"classes": 1}, r"classes=1:.*2 \(real, gen")]
)
def test_arguments_without_meaning_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SAFE(**arguments)
