import numpy as np
import pytest
import torch
import torchvision
from scipy.ndimage import correlate
from tapetum.detectors.ladeda import LaDeDa, TinyLaDeDa
from tapetum.errors import ConfigError, ImageError
from tapetum.images.geometry import InputSpec
from torch.nn import functional as F

from detectors.conv_oracles import lived_in, norm, normalised, pixels


def residual_by_hand(x):
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    return x - x[:, :, ::2, ::2].repeat(2, axis=2).repeat(2, axis=3)


def ladeda_by_hand(network, images, scale=1.0):
    """Patch logits [B, h, w] from the definition and the published names, in float64."""
    state = {name: value.double() for name, value in network.state_dict().items()}
    x = torch.tensor(residual_by_hand(normalised(images)) * scale)
    x = F.conv2d(F.conv2d(x, state["conv1.weight"]), state["conv2.weight"])
    x = F.relu(norm(state, "bn1", x))
    for stage, (blocks, stride) in enumerate([(3, 2), (4, 2), (6, 2), (3, 1)], start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            step = stride if block == 0 else 1
            y = F.relu(norm(state, f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"])))
            y = F.conv2d(y, state[f"{name}.conv2.weight"], stride=step)
            y = F.conv2d(F.relu(norm(state, f"{name}.bn2", y)), state[f"{name}.conv3.weight"])
            if block == 0:
                x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=step)
                x = norm(state, f"{name}.downsample.1", x)
            x = F.relu(norm(state, f"{name}.bn3", y) + x[:, :, : y.shape[2], : y.shape[3]])
    return torch.einsum("bchw,c->bhw", x, state["fc.weight"][0]) + state["fc.bias"]


def tiny_by_hand(network, images):
    """Patch logits [B, h, w]; the gradient by scipy, zeros beyond the border."""
    state = {name: value.double() for name, value in network.state_dict().items()}
    kernel = np.array([[-2, -1, 0], [-1, 0, 1], [0, 1, 2]])[None, None]
    x = torch.tensor(correlate(normalised(images), kernel, mode="constant"))
    x = F.conv2d(F.conv2d(x, state["conv1.weight"]), state["conv2.weight"])
    x = F.relu(norm(state, "bn1", x))
    x = F.relu(norm(state, "layer1.0.bn1", F.conv2d(x, state["layer1.0.conv1.weight"])))
    x = F.relu(norm(state, "layer1.0.bn2", F.conv2d(x, state["layer1.0.conv2.weight"], stride=2)))
    return torch.einsum("bchw,c->bhw", x, state["fc.weight"][0]) + state["fc.bias"]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return lived_in(LaDeDa())


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return lived_in(TinyLaDeDa())


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_ladedas_patch_and_image_logits_equal_the_definition(network, size):
    images = pixels(2, *size)
    expected = ladeda_by_hand(network, images)
    with torch.no_grad():
        torch.testing.assert_close(network.patch_logits(images), expected.float(), rtol=0, atol=1e-5)
        torch.testing.assert_close(network(images), expected.mean(dim=(1, 2)).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_tiny_ladedas_patch_and_image_logits_equal_the_definition(tiny, size):
    images = pixels(2, *size)
    expected = tiny_by_hand(tiny, images)
    with torch.no_grad():
        torch.testing.assert_close(tiny.patch_logits(images), expected.float(), rtol=0, atol=1e-5)
        torch.testing.assert_close(tiny(images), expected.mean(dim=(1, 2)).float(), rtol=0, atol=1e-5)


def test_the_factor_of_the_forensynths_file_scales_the_residual(network):
    scaled = LaDeDa(residual_scale=2 / 3)
    scaled.load_state_dict(network.state_dict())
    images = pixels(1, 32, 32)
    with torch.no_grad():
        found = scaled.eval()(images)
    expected = ladeda_by_hand(network, images, scale=2 / 3).mean(dim=(1, 2)).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_student_of_the_pixel_residual_sees_it():
    torch.manual_seed(0)
    network = lived_in(TinyLaDeDa(gradient="npr"))
    flat = pixels(1, 8, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        maps = network.patch_logits(torch.cat([flat, torch.zeros_like(flat)]))
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=1e-5)  # flat blocks leave nothing


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (3, 3)])
def test_a_patch_logit_of_ladeda_depends_on_its_nine_by_nine_pixels_and_all_of_their_sides(network, place):
    top, left = 8 * place[0], 8 * place[1]
    images = pixels(1, 40, 40)
    others = pixels(1, 40, 40, seed=1)
    others[..., top : top + 9, left : left + 9] = images[..., top : top + 9, left : left + 9]
    with torch.no_grad():
        one, two = network.patch_logits(images), network.patch_logits(others)
    assert torch.allclose(one[0, *place], two[0, *place], rtol=0, atol=1e-6)
    assert not torch.allclose(one, two, rtol=0, atol=1e-3)
    floats = (images / 255).requires_grad_()
    network.patch_logits(floats)[0, *place].backward()
    touched = floats.grad[0].abs().sum(dim=0).nonzero()
    assert touched.amin(dim=0).tolist() == [top, left]
    assert touched.amax(dim=0).tolist() == [top + 8, left + 8]


def test_a_patch_alone_gets_the_logit_that_it_has_in_its_image(network):
    images = pixels(1, 40, 40)
    with torch.no_grad():
        whole = network.patch_logits(images)
        alone = network(images[..., 16:26, 8:18])
    torch.testing.assert_close(alone, whole[:, 2, 1], rtol=0, atol=1e-5)


def test_maps_of_256_pixels_have_31_and_126_places_and_one_more_axis_for_classes(tiny):
    with torch.no_grad():
        assert tiny.patch_logits(pixels(1, 256, 256)).shape == (1, 126, 126)
        assert LaDeDa().eval().patch_logits(pixels(1, 256, 256)).shape == (1, 31, 31)
        assert TinyLaDeDa(classes=3).patch_logits(pixels(2, 32, 40)).shape == (2, 3, 14, 18)


def test_ladedas_names_are_a_resnet50s_with_a_second_convolution_and_few_wide_kernels(network):
    reference = torchvision.models.resnet50(weights=None, num_classes=1).state_dict()
    expected = {name: tuple(value.shape) for name, value in reference.items()}
    wide = {"layer1.0.conv2.weight", "layer2.0.conv2.weight"}
    for name, shape in expected.items():
        if name.endswith("conv2.weight") and name not in wide:
            expected[name] = (*shape[:2], 1, 1)
    # layer4 does not stride and layer1 does, which no shape shows.
    expected |= {"conv1.weight": (64, 3, 1, 1), "conv2.weight": (64, 64, 3, 3)}
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in network.parameters()) == 13_641_793


def test_tiny_ladedas_names_and_shapes_are_those_of_the_published_file(tiny):
    def norm_entries(name):
        entries = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (8,))
        return {f"{name}.{entry}": shape for entry, shape in entries.items()} | {
            f"{name}.num_batches_tracked": ()
        }

    expected = {
        "conv1.weight": (8, 3, 1, 1),
        "conv2.weight": (8, 8, 3, 3),
        "layer1.0.conv1.weight": (8, 8, 1, 1),
        "layer1.0.conv2.weight": (8, 8, 3, 3),
        "fc.weight": (1, 8),  # the head that replaces the constructor's of 32
        "fc.bias": (1,),
        **norm_entries("bn1"),
        **norm_entries("layer1.0.bn1"),
        **norm_entries("layer1.0.bn2"),
    }
    state = tiny.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected
    assert sum(value.numel() for value in state.values()) == 1348
    assert sum(parameter.numel() for parameter in tiny.parameters()) == 1297


def test_the_first_norm_moves_slowly_as_published():
    assert LaDeDa().bn1.momentum == TinyLaDeDa().bn1.momentum == 0.001
    assert LaDeDa().layer1[0].bn1.momentum == 0.1


@pytest.mark.parametrize(("make", "least"), [(LaDeDa, 10), (TinyLaDeDa, 6)])
def test_an_image_without_a_whole_patch_is_an_error_that_says_what_is_needed(make, least):
    network = make(size=None).eval()
    with torch.no_grad():
        assert network(pixels(1, least, least)).shape == (1,)
    with pytest.raises(ImageError, match=rf"{least - 1}x64 pixels.*at least {least}x{least}"):
        network(pixels(1, least - 1, 64))
    with pytest.raises(ConfigError, match=rf"size={least - 1} holds no whole patch"):
        make(size=least - 1)


def test_squash_to_256_unless_overridden():
    published = InputSpec(size=(256, 256), resize="squash", strict=True)
    assert LaDeDa().input_spec == TinyLaDeDa().input_spec == published
    assert LaDeDa(size=None).input_spec == InputSpec(size=None, resize="none")


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (LaDeDa, {"classes": 0}, r"classes=0 "),
        (LaDeDa, {"residual_scale": 0}, r"residual_scale=0 must be above 0"),
        (TinyLaDeDa, {"gradient": "right_dia"}, r"gradient=right_dia.*right_diag"),
    ],
)
def test_arguments_without_meaning_are_refused(make, arguments, message):
    with pytest.raises(ConfigError, match=message):
        make(**arguments)
