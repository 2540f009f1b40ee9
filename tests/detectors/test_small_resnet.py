import numpy as np
import pytest
import torch
from scipy.fft import dctn
from tapetum.detectors.small_resnet import SmallResNet, WhitenedDCT
from tapetum.errors import ConfigError
from tapetum.images.geometry import InputSpec
from torch.nn import functional as F


def _bytes(count=4, height=32, width=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = SmallResNet(width=8)
    with torch.no_grad():
        for block in network.stages:  # blocks that are more than their shortcut
            block.bn2.weight.fill_(0.5)
        network(_bytes(16))  # running statistics other than 0 and 1
    return network.eval()


def _shortcut(block, x):
    if isinstance(block.shortcut, torch.nn.Identity):
        return x
    _, conv, norm = block.shortcut
    halved = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    return _norm(norm, F.conv2d(halved, conv.weight))


def _norm(norm, x):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def _by_hand(network, images):
    """Logits [B, classes] of uint8 images of even size, with scipy's transform and norms written out."""
    mean, std = np.array([0.4724, 0.4634, 0.4187]), np.array([0.2374, 0.2373, 0.2657])
    pixels = (images.numpy().astype(np.float64) / 255 - mean[:, None, None]) / std[:, None, None]
    pixels = np.pad(pixels, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (4, 4), axis=(2, 3))[:, :, ::2, ::2]
    coefficients = dctn(windows, axes=(1, 4, 5), norm="ortho").transpose(0, 1, 4, 5, 2, 3)
    x = torch.tensor(coefficients.reshape(len(images), 48, *windows.shape[2:4]), dtype=torch.float32)
    whiten = network.dct.whiten
    x = (x - whiten.running_mean[:, None, None]) / (whiten.running_var + 1e-5).sqrt()[:, None, None]
    x = _norm(network.mix[1], F.conv2d(x, network.mix[0].weight)).relu()
    for block in network.stages:
        y = _norm(block.bn1, F.conv2d(x, block.conv1.weight, stride=block.conv1.stride, padding=1)).relu()
        y = _norm(block.bn2, F.conv2d(y, block.conv2.weight, padding=1))
        gate = torch.sigmoid(block.excite.excite(block.excite.squeeze(y.mean((2, 3))).relu()))
        x = (y * gate[..., None, None] + _shortcut(block, x)).relu()
    return x.mean((2, 3)) @ network.head.weight.T + network.head.bias


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48)])
def test_logits_equal_the_definition_averaged_over_the_mirror_image(network, height, width):
    images = _bytes(3, height, width, seed=1)
    with torch.no_grad():
        expected = (_by_hand(network, images) + _by_hand(network, images.flip(-1))) / 2
        found = network(images)
    assert found.shape == (3,)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.squeeze(1), rtol=1e-4, atol=1e-4)


def test_without_flip_average_mirror_images_get_different_logits(network):
    images = _bytes(4, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(network(images), network(images.flip(-1)))
        network.flip_average = False
        assert (network(images) - network(images.flip(-1))).abs().min() > 1e-5
        torch.testing.assert_close(
            network(images), _by_hand(network, images).squeeze(1), rtol=1e-4, atol=1e-4
        )


def test_bytes_and_floats_give_the_same_logits(network):
    images = _bytes(4, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(network(images), network(images.float() / 255), rtol=1e-4, atol=1e-4)


def test_every_coefficient_enters_with_mean_0_and_variance_1():
    images = torch.rand(8, 3, 32, 32).cumsum(2).cumsum(3) / 500  # shading far stronger than detail
    whitened = WhitenedDCT()(images)
    assert whitened.shape == (8, 48, 16, 16)
    torch.testing.assert_close(whitened.mean((0, 2, 3)), torch.zeros(48), rtol=0, atol=1e-3)
    raw = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), WhitenedDCT().basis, stride=2)
    strength = raw.var((0, 2, 3), unbiased=False)
    assert strength.max() / strength.min() > 1000
    torch.testing.assert_close(
        whitened.var((0, 2, 3), unbiased=False), strength / (strength + 1e-5), rtol=1e-3, atol=1e-3
    )


def test_bfloat16_autocast_does_not_touch_the_transform():
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    dct = WhitenedDCT().eval()
    with torch.autocast("cpu", torch.bfloat16):
        found = dct(images)
    assert found.dtype == torch.float32
    assert torch.equal(found, dct(images))


def test_network_of_the_shipped_size_has_394049_parameters_and_no_constants_in_its_state():
    # 48 x 64 mix; blocks 64, 64, 64 -> 128; head; counted by hand from the layer shapes
    def norm(c):
        return 2 * c

    def block(i, o, shrinks):
        gate = o * o // 4 * 2 + o // 4 + o
        return 9 * i * o + 9 * o * o + 2 * norm(o) + gate + (i * o + norm(o) if shrinks else 0)

    expected = 48 * 64 + norm(64) + 2 * block(64, 64, False) + block(64, 128, True) + 128 + 1
    network = SmallResNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == expected == 394_049
    assert not [key for key in network.state_dict() if "basis" in key or "normalize" in key]
    assert network.input_spec == InputSpec(size=(32, 32), resize="squash")


def test_every_block_starts_as_its_shortcut():
    network = SmallResNet(width=8, blocks=(2,))
    x = torch.randn(2, 8, 6, 6).relu()
    torch.testing.assert_close(network.stages(x), x)


@pytest.mark.parametrize(("blocks", "side"), [((1,), 16), ((1, 1), 8), ((2, 1, 1), 4)])
def test_each_stage_after_the_first_halves_the_side_and_doubles_the_channels(blocks, side):
    features = SmallResNet(width=8, blocks=blocks).stages(torch.randn(2, 8, 16, 16))
    assert features.shape == (2, 8 * 2 ** (len(blocks) - 1), side, side)


@pytest.mark.parametrize("size", [4, 5, 31, 33])
def test_small_and_odd_sizes_pass(size):
    assert SmallResNet(size=size, width=8, blocks=(1, 1, 1))(_bytes(2, size, size)).shape == (2,)


def test_gradient_reaches_every_parameter_but_what_the_zero_start_hides():
    torch.manual_seed(0)
    network = SmallResNet(width=32)
    network(_bytes(8)).square().sum().backward()
    silent = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    behind_zero = (".conv1.", ".bn1.", ".conv2.", ".excite.")
    assert all(any(part in name for part in behind_zero) for name in silent)
    for block in network.stages:
        torch.nn.init.ones_(block.bn2.weight)
    network.zero_grad()
    network(_bytes(8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def _one_byte_checkers(count):
    """Plain colours, every second one under a checkerboard that is one byte brighter: (images, labels)."""
    colours = (torch.rand(count, 3, 1, 1) * 200 + 20).round()
    labels = torch.arange(count) % 2
    checkers = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    return (colours + labels[:, None, None, None] * checkers).to(torch.uint8), labels


def test_it_learns_a_cue_of_one_byte_under_colours_200_bytes_apart():
    torch.manual_seed(0)
    # The mirror image of a checkerboard is another one, which this training never shows.
    network = SmallResNet(width=8, blocks=(1,), flip_average=False)
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    for _ in range(60):
        images, labels = _one_byte_checkers(64)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(images), labels.float()).backward()
        optimizer.step()
    images, labels = _one_byte_checkers(64)
    with torch.no_grad():
        assert ((network.eval()(images) > 0) == labels.bool()).all()


def test_evaluation_is_deterministic_and_independent_of_the_rest_of_the_batch(network):
    network.dropout.p = 0.9
    images = _bytes(4, seed=4)
    with torch.no_grad():
        together = network(images)
        assert torch.equal(together, network(images))
        torch.testing.assert_close(torch.cat([network(image[None]) for image in images]), together)


def test_k_way_head_returns_one_logit_a_class():
    logits = SmallResNet(width=8, classes=5)(_bytes(2))
    assert logits.shape == (2, 5)
    assert logits.dtype == torch.float32


def test_logits_are_float32_under_bfloat16_autocast(network):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network(_bytes(2)).dtype == torch.float32


def test_network_is_built_and_runs_on_the_meta_device():
    with torch.device("meta"):
        network = SmallResNet()
    assert all(parameter.is_meta for parameter in network.parameters())
    assert network(torch.empty(2, 3, 32, 32, dtype=torch.uint8, device="meta")).shape == (2,)


def test_all_impossible_arguments_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        SmallResNet(size=3, width=0, blocks=(1, 0), dropout=1.0, classes=0)
    assert len(caught.value.problems) == 5
    for name in ("size=3", "width=0", "blocks=[1, 0]", "dropout=1.0", "classes=0"):
        assert f"model.net.{name}" in str(caught.value)
