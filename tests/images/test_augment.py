"""Augmentation: a function of the seed, and of nothing else."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tapetum.config.build import build
from tapetum.errors import ConfigError, DataError
from tapetum.images.augment import Augment, sample_seed
from tapetum.images.degradations import RandomGaussianBlur, RandomJpeg
from tapetum.images.geometry import InputSpec, center_crop, prepare, resize
from torchvision.transforms import v2

FIXED = InputSpec((24, 24))
CROPPED = InputSpec((32, 32), "shortest", (24, 20))
FREE = InputSpec(None, "none")
CONF = Path(__file__).parents[2] / "conf" / "augment"
GROUPS = {file.stem for file in CONF.glob("*.yaml")}
COMPRESSING = {"wang2020", "cnndetection"}


def picture(height=60, width=50, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)


def wang2020():
    return Augment(
        before_crop=[RandomGaussianBlur(0.5), RandomJpeg(0.5)],
        crop="random",
        after_crop=[v2.RandomHorizontalFlip()],
    )


def product_photo():
    changes = [v2.RandomHorizontalFlip(), v2.RandomRotation(15), v2.ColorJitter(0.2, 0.2, 0.1, 0.05)]
    return Augment(enlarge=8, crop="random", after_crop=changes)


def run(augment, spec, seed):
    return augment(augment.resize(picture(), spec), spec, seed)


@pytest.mark.parametrize("make", [wang2020, product_photo])
@pytest.mark.parametrize("spec", [FIXED, CROPPED])
def test_result_is_a_function_of_the_seed(make, spec):
    first = [run(make(), spec, seed) for seed in range(30)]
    for image in first:
        assert image.dtype == torch.uint8
        assert image.shape == (3, *spec.output_size)
    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    again = [run(make(), spec, seed) for seed in reversed(range(30))]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert len({image.numpy().tobytes() for image in first}) > 10


def test_every_global_generator_is_seeded_inside_and_untouched_outside():
    drawn = []

    def draw(image):
        drawn.append((torch.rand(1).item(), random.random(), np.random.rand(), np.random.randn()))
        return image

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    np.random.randn()  # leaves a second normal value in the generator, which is part of its state
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state())
    augment = Augment(before_crop=[draw])
    for seed in (5, 2**64 - 1, 5):
        augment(picture(), FIXED, seed)
    assert drawn[0] == drawn[2]
    assert all(a != b for a, b in zip(drawn[0], drawn[1], strict=True))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    after = np.random.get_state()
    assert np.array_equal(before[2][1], after[1])
    assert before[2][2:] == after[2:]


def test_generators_are_restored_when_a_transform_fails():
    def fail(image):
        torch.rand(1)
        raise RuntimeError("no")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no"):
        Augment(after_crop=[fail])(picture(), FIXED, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_no_augmentation_is_what_evaluation_sees():
    for spec in (FIXED, CROPPED, FREE, InputSpec((70, 70), "tile", (64, 64))):
        augment = Augment()
        assert augment.deterministic
        assert torch.equal(run(augment, spec, 3), prepare(picture(), spec))


def test_transforms_and_random_crop_are_not_deterministic():
    identity = v2.Identity()
    assert not Augment(crop="random").deterministic
    assert not Augment(before_crop=[identity]).deterministic
    assert not Augment(after_crop=[identity]).deterministic
    assert Augment(enlarge=8).deterministic


def test_order_is_before_crop_then_after():
    sizes = []

    def look(image):
        sizes.append(tuple(image.shape[1:]))
        return image

    augment = Augment(before_crop=[look], enlarge=8, after_crop=[look])
    image = augment(augment.resize(picture(), CROPPED), CROPPED, 0)
    assert sizes == [(48, 40), (24, 20)]
    assert torch.equal(image, center_crop(resize(picture(), CROPPED, enlarge=8), (24, 20)))


def test_random_crop_moves_with_the_seed():
    augment = Augment(enlarge=8, crop="random")
    resized = augment.resize(picture(), FIXED)
    windows = resized.unfold(1, 24, 1).unfold(2, 24, 1)
    places = set()
    for seed in range(200):
        crop = augment(resized, FIXED, seed)
        top, left = (windows == crop[:, None, None]).all(-1).all(-1).all(0).nonzero()[0].tolist()
        places.add((top, left))
    assert {top for top, _ in places} == {left for _, left in places} == set(range(9))


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (
            v2.ToDtype(torch.float32),
            r"ToDtype\(.*returned float32 \[3, 24, 24\], expected uint8",
        ),
        (v2.Grayscale(), r"Grayscale\(.*returned uint8 \[1, 24, 24\]"),
        (v2.CenterCrop(10), r"CenterCrop\(.*returned uint8 \[3, 10, 10\], expected uint8 \[3, 24, 24\]"),
        (v2.ToPILImage(), r"ToPILImage\(.*returned a Image, not a tensor"),
    ],
)
def test_transform_that_returns_something_else_is_named(transform, message):
    with pytest.raises(DataError, match=message):
        Augment(after_crop=[v2.Identity(), transform])(picture(), FIXED, 0)


def test_floats_stay_floats_and_are_changed_by_the_same_seed():
    augment = Augment(enlarge=8, crop="random", after_crop=[v2.RandomHorizontalFlip(), v2.RandomInvert()])
    resized = augment.resize(picture(), FIXED)
    for seed in range(10):
        shares = augment(resized.float() / 255, FIXED, seed)
        assert shares.dtype == torch.float32
        assert torch.allclose(shares * 255, augment(resized, FIXED, seed).float(), atol=1e-4)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (v2.ToDtype(torch.uint8, scale=True), r"returned uint8 \[3, 24, 24\], expected float32"),
        (
            v2.Normalize([0.5] * 3, [0.5] * 3),
            r"Normalize\(.*returned values from -1 to 1, expected float32 in",
        ),
        (v2.Lambda(lambda image: image / 0), "returned values from nan to nan"),
    ],
)
def test_transform_that_takes_floats_out_of_their_range_is_named(transform, message):
    image = picture(24, 24).float() / 255
    image[0, 0, :2] = torch.tensor([0.0, 1.0])
    with pytest.raises(DataError, match=message):
        Augment(after_crop=[v2.Identity(), transform])(image, FIXED, 0)


@pytest.mark.parametrize("group", sorted(GROUPS - COMPRESSING))
def test_groups_without_compression_take_floats(group):
    augment = build(yaml.safe_load((CONF / f"{group}.yaml").read_text()))
    resized = augment.resize(picture().float() / 255, CROPPED)
    for seed in range(6):
        found = augment(resized, CROPPED, seed)
        assert found.dtype == torch.float32
        assert found.shape == (3, 24, 20)


@pytest.mark.parametrize("group", sorted(COMPRESSING))
def test_groups_with_compression_say_that_they_take_bytes(group):
    config = yaml.safe_load((CONF / f"{group}.yaml").read_text())
    for change in config["before_crop"]:
        if "p" in change:
            alone = build(config | {"before_crop": [change | {"p": 1.0}]})
            with pytest.raises(DataError, match="float32"):
                alone(alone.resize(picture().float() / 255, CROPPED), CROPPED, 0)


def test_size_may_change_before_the_crop_and_where_none_is_fixed():
    shrink = v2.CenterCrop(10)
    assert Augment(before_crop=[shrink])(picture(), FIXED, 0).shape == (3, 24, 24)
    assert Augment(after_crop=[shrink])(picture(), FREE, 0).shape == (3, 10, 10)


@pytest.mark.parametrize("options", [{"crop": "random"}, {"enlarge": 32}])
def test_random_crop_without_an_output_size_is_a_config_error(options):
    with pytest.raises(ConfigError, match=r"leaves each image its own: give it a crop, crop=\[224,224\]"):
        Augment(**options).resize(picture(), FREE)


def test_impossible_arguments_are_config_errors():
    with pytest.raises(ConfigError, match=r"augment\.crop=middle: center, random"):
        Augment(crop="middle")
    with pytest.raises(ConfigError, match=r"augment\.enlarge=-1"):
        Augment(enlarge=-1)


def test_sample_seed_never_changes_from_process_to_process():
    """Values written down by another process."""
    assert sample_seed(42, 3, 10**7) == 8614177003314620731
    assert sample_seed(0, 0, 1) == 4764156602392020899


def test_sample_seed_starts_as_splitmix64():
    """First output of SplitMix64 from state 0, as published with the generator."""
    state = 0xE220A8397B1DCDAF
    for value in (0, 0):
        state = (state + value + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    assert sample_seed(0, 0, 0) == state


def test_sample_seeds_do_not_collide_and_look_independent():
    seeds = np.array(
        [sample_seed(s, e, i) for s in range(5) for e in range(10) for i in range(1000)], dtype=np.uint64
    )
    assert len(set(seeds.tolist())) == len(seeds)
    assert len(set((seeds & np.uint64(0xFFFFFFFF)).tolist())) > len(seeds) - 5
    bits = np.unpackbits(seeds.view(np.uint8)).reshape(-1, 64).astype(float)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.012
    grid = seeds.reshape(5, 10, 1000) / 2**64
    for a, b in ((grid[:-1], grid[1:]), (grid[:, :-1], grid[:, 1:]), (grid[..., :-1], grid[..., 1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.03


def test_seed_epoch_and_index_are_not_interchangeable():
    assert len({sample_seed(*key) for key in ((1, 2, 3), (1, 3, 2), (2, 1, 3), (3, 2, 1), (0, 0, 6))}) == 5
