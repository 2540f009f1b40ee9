"""Shifted images against torchvision's RandomCrop with padding, draw for draw."""

import pytest
import torch
from tapetum.config.build import build
from tapetum.config.compose import compose
from tapetum.config.overrides import prepare
from tapetum.errors import ConfigError
from tapetum.images.shift import RandomShift
from tapetum.runs.building import build_network_on_meta
from torchvision.transforms.v2 import RandomCrop


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (5, 9)])
@pytest.mark.parametrize("pixels", [1, 2])
def test_a_shift_is_a_padded_random_crop_of_the_same_draws(size, pixels):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    theirs = RandomCrop(size, padding=pixels, padding_mode="reflect")
    found = set()
    for seed in range(20):
        torch.manual_seed(seed)
        expected = theirs(image)
        torch.manual_seed(seed)
        moved = RandomShift(pixels)(image)
        assert moved.dtype == torch.uint8
        assert torch.equal(moved, expected)
        found.add(moved.numpy().tobytes())
    assert len(found) > 4


def test_a_shift_by_nothing_is_refused():
    with pytest.raises(ConfigError, match="pixels=0 moves nothing"):
        RandomShift(0)


@pytest.mark.parametrize("model", ["small_resnet", "npr_64", "ferretnet_s"])
def test_the_thumbnail_augmentation_goes_with_a_network_of_any_size(model):
    config = compose(prepare([f"model={model}", "augment=thumbnail"], multirun=False)).config
    augment, spec = build(config["augment"]), build_network_on_meta(config).input_spec
    image = torch.randint(0, 256, (3, *spec.output_size), dtype=torch.uint8)
    found = [augment(image, spec, seed) for seed in range(12)]
    assert {tuple(one.shape) for one in found} == {tuple(image.shape)}
    assert len({one.numpy().tobytes() for one in found}) > 4
