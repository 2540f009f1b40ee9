"""FreqNet against Fourier sums written out in numpy (float64) and torchvision's ResNet-50."""

import numpy as np
import pytest
import torch
from tapetum.detectors.freqnet import FreqNet, frequency_conv, high_pass, high_pass_channels
from tapetum.errors import ConfigError
from tapetum.images.geometry import InputSpec
from torch.nn import functional as F

from detectors.conv_oracles import lived_in, normalised, pixels, resnet_layer

SIZES = [(32, 32), (33, 47), (16, 6), (3, 2), (1, 1)]


def dft(n):
    """The orthonormal Fourier transform of n values as a complex matrix, frequency 0 at row n // 2."""
    frequencies, places = np.arange(n) - n // 2, np.arange(n)
    return np.exp(-2j * np.pi * np.outer(frequencies, places) / n) / np.sqrt(n)


def spectrum(x):
    """Float [..., H, W] to its centred complex spectrum."""
    return dft(x.shape[-2]) @ x @ dft(x.shape[-1]).T


def from_spectrum(x):
    """The transforms are unitary, so their inverse is the conjugate transpose."""
    return dft(x.shape[-2]).conj().T @ x @ dft(x.shape[-1]).conj()


def high_pass_by_hand(x):
    h, w = x.shape[-2:]
    cut = spectrum(x)
    cut[..., h // 2 - h // 4 : h // 2 + h // 4, w // 2 - w // 4 : w // 2 + w // 4] = 0
    return np.maximum(from_spectrum(cut).real, 0)


def high_pass_channels_by_hand(x):
    c = x.shape[1]
    cut = np.einsum("kc,bchw->bkhw", dft(c), x)
    cut[:, c // 2 - c // 4 : c // 2 + c // 4] = 0
    return np.maximum(np.einsum("ck,bkhw->bchw", dft(c).conj().T, cut).real, 0)


def frequency_conv_by_hand(x, real, imaginary):
    real, imaginary = real[:, :, 0, 0].numpy(), imaginary[:, :, 0, 0].numpy()
    x = spectrum(x)
    mixed = np.einsum("oc,bchw->bohw", real, x.real) + 1j * np.einsum("oc,bchw->bohw", imaginary, x.imag)
    return np.maximum(from_spectrum(mixed).real, 0)


def by_hand(network, images):
    """FreqNet from its definition, float64 but for torchvision's stages."""
    state = {name: value.double() for name, value in network.state_dict().items()}

    def conv(x, number, stride=1):
        weight, bias = state[f"weight{number}"], state[f"bias{number}"]
        return F.relu(F.conv2d(torch.tensor(x), weight, bias, stride=stride)).numpy()

    def fcl(x, number):
        real, imaginary = state[f"realconv{number}.weight"], state[f"imagconv{number}.weight"]
        return frequency_conv_by_hand(x, real, imaginary)

    with torch.no_grad():
        x = conv(high_pass_by_hand(normalised(images)), 1)
        x = fcl(high_pass_channels_by_hand(x), 1)
        x = fcl(high_pass_channels_by_hand(conv(high_pass_by_hand(x), 2, stride=2)), 2)
        x = F.max_pool2d(torch.tensor(x), 3, stride=2, padding=1)
        x = resnet_layer(state, "layer1").double()(x).numpy()
        x = fcl(conv(high_pass_by_hand(x), 3), 3)
        x = fcl(conv(high_pass_by_hand(x), 4, stride=2), 4)
        x = resnet_layer(state, "layer2").double()(torch.tensor(x))
        return F.linear(x.mean(dim=(2, 3)), state["fc1.weight"], state["fc1.bias"]).squeeze(1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = FreqNet()
    with torch.no_grad():  # the published start, a standard normal, makes logits of any size
        for number in (1, 2, 3, 4):
            weight = getattr(network, f"weight{number}")
            weight.mul_((2 / weight.shape[1]) ** 0.5)
            getattr(network, f"bias{number}").mul_(0.1)
    return lived_in(network)


@pytest.mark.parametrize("size", SIZES)
def test_high_pass_equals_the_masked_transform_by_definition(size):
    x = torch.randn(2, 3, *size)
    expected = torch.tensor(high_pass_by_hand(x.numpy().astype(np.float64)), dtype=torch.float32)
    torch.testing.assert_close(high_pass(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [64, 7, 1])
def test_high_pass_along_channels_equals_the_masked_transform_by_definition(channels):
    x = torch.randn(2, channels, 5, 4)
    expected = torch.tensor(high_pass_channels_by_hand(x.numpy().astype(np.float64)), dtype=torch.float32)
    torch.testing.assert_close(high_pass_channels(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_convolution_of_the_spectrum_equals_the_whole_complex_one(size):
    torch.manual_seed(3)
    real, imaginary = (torch.nn.Conv2d(8, 8, 1, bias=False) for _ in range(2))
    x = torch.randn(2, 8, *size)
    expected = frequency_conv_by_hand(
        x.numpy().astype(np.float64), real.weight.detach().double(), imaginary.weight.detach().double()
    )
    with torch.no_grad():
        found = frequency_conv(x, real, imaginary)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-5)


def test_a_flat_image_leaves_nothing():
    assert high_pass(torch.full((1, 3, 16, 16), 3.0)).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_logits_equal_the_definition_on_even_and_odd_sizes(network, size):
    images = pixels(2, *size)
    with torch.no_grad():
        found = network(images)
    torch.testing.assert_close(found, by_hand(network, images).float(), rtol=0, atol=1e-5)


def test_parameters_and_names_are_those_of_the_published_file(network):
    import torchvision

    trunk = torchvision.models.resnet50(weights=None).state_dict()
    widths = {1: (3, 64), 2: (64, 64), 3: (256, 256), 4: (256, 256)}
    expected = {name: tuple(v.shape) for name, v in trunk.items() if name.startswith(("layer1.", "layer2."))}
    expected |= {"fc1.weight": (1, 512), "fc1.bias": (1,)}
    for number, (given, made) in widths.items():
        expected[f"weight{number}"], expected[f"bias{number}"] = (made, given, 1, 1), (made,)
        expected[f"realconv{number}.weight"] = expected[f"imagconv{number}.weight"] = (made, made, 1, 1)
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_850_433


def test_filters_start_from_a_standard_normal_on_any_device():
    network = FreqNet()  # the original asks for CUDA here
    assert network.weight4.std().item() == pytest.approx(1.0, rel=0.05)
    assert network.weight4.device.type == "cpu"


def test_half_precision_leaves_the_spectra_in_float32(network):
    images = pixels(2, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(images)
    with torch.no_grad():
        torch.testing.assert_close(found, network(images), rtol=0, atol=0.5)


def test_squash_to_256_unless_overridden():
    assert FreqNet().input_spec == InputSpec(size=(256, 256), resize="squash", strict=True)
    assert FreqNet(size=None).input_spec == InputSpec(size=None, resize="none")


@pytest.mark.parametrize(
    ("arguments", "message"), [({"size": 0}, r"size=0 "), ({"classes": 0}, r"classes=0 ")]
)
def test_arguments_without_meaning_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        FreqNet(**arguments)
