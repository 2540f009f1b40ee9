import numpy as np
import pytest
import torch
from tapetum.detectors.ferretnet import FerretNet, neighbour_median
from tapetum.errors import ConfigError
from tapetum.images.geometry import InputSpec
from torch.nn import functional as F

from detectors.conv_oracles import CLIP_MEAN, CLIP_STD, lived_in, norm, normalised, pixels


def median_by_hand(x):
    """numpy's median of the nine values of every window, the middle one replaced by 0, zeros around."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3)).copy()
    windows[..., 1, 1] = 0
    return np.median(windows, axis=(-2, -1))


def by_hand(network, images):
    """FerretNet from its definition and the published names."""
    state = {name: value.double() for name, value in network.state_dict().items()}
    x = normalised(images, CLIP_MEAN, CLIP_STD)
    x = torch.tensor(x - median_by_hand(x))
    x = F.relu(norm(state, "cbr1.1", F.conv2d(x, state["cbr1.0.weight"], padding=1)))
    x = F.relu(norm(state, "cbr2.1", F.conv2d(x, state["cbr2.0.weight"], padding=1, stride=2)))
    for stage in (0, 1):
        for block in (0, 1):
            name = f"feature.{stage}.{block}"
            stride, groups = 2 - block, x.shape[1]
            near = state[f"{name}.layers.0.conv1.weight"]
            far = state[f"{name}.layers.0.conv2.weight"]
            y = F.conv2d(x, near, padding=1, stride=stride, groups=groups)
            y = y + F.conv2d(x, far, padding=2, dilation=2, stride=stride, groups=groups)
            y = F.conv2d(y, state[f"{name}.layers.0.conv3.weight"])
            y = F.relu(norm(state, f"{name}.layers.1", y))
            depth_wise = state[f"{name}.layers.3.depth_wise.weight"]
            y = F.conv2d(y, depth_wise, padding=1, groups=y.shape[1])
            y = norm(state, f"{name}.layers.4", F.conv2d(y, state[f"{name}.layers.3.point_wise.weight"]))
            if block == 0:
                weight, bias = state[f"{name}.shortcut.0.weight"], state[f"{name}.shortcut.0.bias"]
                x = norm(state, f"{name}.shortcut.1", F.conv2d(x, weight, bias, stride=2))
            x = F.relu(x + y)
    x = F.conv2d(x, state["feature.2.weight"]).mean(dim=(2, 3))
    return F.linear(x, state["logit.1.weight"], state["logit.1.bias"]).squeeze(1).float()


@pytest.fixture(scope="module", params=[32, 96], ids=["S", "B"])
def network(request):
    torch.manual_seed(0)
    return lived_in(FerretNet(dim=request.param))


@pytest.mark.parametrize("size", [(16, 16), (7, 9), (1, 1), (2, 5)])
def test_median_equals_numpys_to_the_bit(size):
    x = torch.randn(2, 3, *size)
    x[0] = x[0].round()  # ties
    x[1, 0] = x[1, 0].abs() + 1  # all above 0: the middle is a neighbour
    assert np.array_equal(neighbour_median(x).numpy(), median_by_hand(x.numpy()))


def test_median_equals_torchs_lower_median_of_the_window():
    x = torch.randn(1, 2, 6, 7)
    windows = F.unfold(x, 3, padding=1).view(1, 2, 9, -1)
    windows[:, :, 4] = 0
    assert torch.equal(neighbour_median(x), windows.median(dim=2).values.view(x.shape))


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_logits_equal_the_definition_on_even_and_odd_sizes(network, size):
    images = pixels(2, *size)
    with torch.no_grad():
        torch.testing.assert_close(network(images), by_hand(network, images), rtol=0, atol=1e-5)


def test_parameters_and_names_are_those_of_the_published_file():
    entries = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {f"cbr{number}.0.weight" for number in (1, 2)} | {"feature.2.weight"}
    expected |= {"logit.1.weight", "logit.1.bias"}
    expected |= {f"cbr{number}.1.{entry}" for number in (1, 2) for entry in entries}
    for stage in (0, 1):
        for block in (0, 1):
            layers = f"feature.{stage}.{block}.layers"
            expected |= {f"{layers}.0.conv{number}.weight" for number in (1, 2, 3)}
            expected |= {f"{layers}.3.depth_wise.weight", f"{layers}.3.point_wise.weight"}
            expected |= {f"{layers}.{number}.{entry}" for number in (1, 4) for entry in entries}
        shortcut = f"feature.{stage}.0.shortcut"
        expected |= {f"{shortcut}.0.weight", f"{shortcut}.0.bias"}
        expected |= {f"{shortcut}.1.{entry}" for entry in entries}
    for dim, count in ((32, 126_289), (96, 1_057_777)):
        network = FerretNet(dim=dim)
        assert set(network.state_dict()) == expected
        assert sum(parameter.numel() for parameter in network.parameters()) == count
        assert network.state_dict()["logit.1.weight"].shape == (1, 4 * dim)


def test_a_fifth_of_the_features_is_dropped_in_training_only():
    network = FerretNet(dim=32)
    assert network.logit[0].p == 0.2
    network.eval()
    images = pixels(1, 16, 16)
    assert torch.equal(network(images), network(images))


def test_crop_of_256_without_resizing_unless_overridden():
    assert FerretNet().input_spec == InputSpec(size=None, resize="none", crop=(256, 256))
    assert FerretNet(size=None).input_spec == InputSpec(size=None, resize="none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 33}, r"dim=33 must be even"),
        ({"depths": [2, 0]}, r"depths=\[2, 0\]"),
        ({"size": 0}, r"size=0 "),
        ({"classes": 0}, r"classes=0 "),
    ],
)
def test_arguments_without_meaning_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        FerretNet(**arguments)
