"""Normalisation against torchvision."""

import pytest
import torch
from tapetum.images.normalize import CLIP, IMAGENET, LARGE_IMAGE, Normalize
from torchvision.transforms import v2


def images(channels=3):
    return torch.arange(2 * channels * 256).remainder(256).to(torch.uint8).reshape(2, channels, 16, 16)


@pytest.mark.parametrize("statistics", [IMAGENET, CLIP])
def test_bytes_and_floats_equal_torchvision(statistics):
    expected = v2.functional.normalize(images() / 255, *map(list, statistics))
    layer = Normalize(*statistics)
    assert layer(images()).dtype == torch.float32
    torch.testing.assert_close(layer(images()), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(layer(images() / 255), expected, atol=2e-6, rtol=0)


def test_input_is_not_changed():
    pixels, floats = images(), images() / 255
    Normalize(*IMAGENET)(pixels)
    Normalize(*IMAGENET)(floats)
    assert torch.equal(pixels, images())
    assert torch.equal(floats, images() / 255)


def test_nothing_enters_the_state_dict():
    assert not Normalize(*IMAGENET).state_dict()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_float_keeps_its_dtype_and_a_cast_module_decides_for_bytes(dtype):
    layer = Normalize(*IMAGENET)
    assert layer((images() / 255).to(dtype)).dtype == dtype
    cast = Normalize(*IMAGENET).to(dtype)(images())
    assert cast.dtype == dtype
    torch.testing.assert_close(
        cast.float(), layer(images()), atol=2**-5, rtol=0
    )  # two units in the last place of bfloat16


def test_gradient_flows_to_float_images():
    floats = (images() / 255).requires_grad_()
    Normalize(*IMAGENET)(floats).sum().backward()
    expected = torch.tensor([1 / s for s in IMAGENET.std]).view(1, 3, 1, 1).expand(2, 3, 16, 16)
    torch.testing.assert_close(floats.grad, expected)


def test_one_channel():
    torch.testing.assert_close(Normalize([0.5], [0.25])(images(1)), (images(1) / 255 - 0.5) / 0.25)


def test_wrong_shapes_dtypes_and_statistics_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 1, 16, 16\): expected \[B, 3, H, W\]"):
        Normalize(*IMAGENET)(images(1))
    with pytest.raises(ValueError, match=r"shape \(3, 16, 16\)"):
        Normalize(*IMAGENET)(images()[0])
    with pytest.raises(ValueError, match="int64"):
        Normalize(*IMAGENET)(images().long())
    with pytest.raises(ValueError, match="one value a channel"):
        Normalize((0.5, 0.5), (0.5,))
    with pytest.raises(ValueError, match="std above 0"):
        Normalize((0.5,), (0.0,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_images_one_by_one_equal_the_whole_batch(dtype):
    large = torch.randint(0, 256, (3, 3, 160, 160), dtype=torch.uint8)
    assert large[0].numel() >= LARGE_IMAGE
    layer = Normalize(*IMAGENET).to(dtype)
    apart = torch.cat([layer(large[i : i + 1]) for i in range(3)])  # a batch of one is never split
    assert torch.equal(layer(large), apart)
    assert torch.equal(layer(large.permute(0, 1, 3, 2)), layer(large.permute(0, 1, 3, 2).contiguous()))


def test_an_exported_layer_takes_any_number_of_large_images():
    large = torch.randint(0, 256, (3, 3, 160, 160), dtype=torch.uint8)
    layer = Normalize(*IMAGENET)
    exported = torch.export.export(layer, (large,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    more = large.repeat(2, 1, 1, 1)
    assert torch.equal(exported.module()(more), layer(more))
    assert torch.equal(torch.jit.trace(layer, large)(more), layer(more))
