import pytest
import torch
from tapetum.errors import ConfigError
from tapetum.images.mask import RandomMask


def black_patches(image, patch):
    """The grid of patches: whether each is black; every other pixel must be untouched white."""
    rows, columns = image.shape[-2] // patch, image.shape[-1] // patch
    grid = torch.zeros(rows, columns, dtype=torch.bool)
    rest = image.clone()
    for row in range(rows):
        for column in range(columns):
            part = rest[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            grid[row, column] = bool((part == 0).all())
            if grid[row, column]:
                part.fill_(255)
    assert (rest == 255).all()
    return grid


@pytest.mark.parametrize(("size", "patch"), [((64, 48), 16), ((50, 35), 8)])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75])
def test_as_many_whole_patches_are_black_as_the_share_says(size, patch, ratio):
    torch.manual_seed(0)
    image = torch.full((3, *size), 255, dtype=torch.uint8)
    grid = black_patches(RandomMask(1.0, (ratio, ratio), patch)(image), patch)
    assert int(grid.sum()) == int(size[0] * size[1] * ratio / patch**2)
    assert (image == 255).all()  # the input is not changed


def test_a_share_that_exceeds_the_whole_patches_blackens_them_all_and_ends():
    image = torch.full((1, 31, 31), 255, dtype=torch.uint8)  # one whole patch, room for 3.7
    assert black_patches(RandomMask(1.0, (1.0, 1.0), 16)(image), 16).all()
    tiny = torch.full((1, 5, 5), 255, dtype=torch.uint8)
    assert torch.equal(RandomMask(1.0, (1.0, 1.0), 16)(tiny), tiny)


def test_probability_and_share_are_kept_to_over_many_draws():
    torch.manual_seed(0)
    image = torch.full((1, 64, 64), 255, dtype=torch.uint8)
    transform = RandomMask(0.5, (0.0, 0.75), 8)
    shares = torch.tensor([(transform(image) == 0).float().mean().item() for _ in range(400)])
    masked = shares[shares > 0]
    assert 0.42 < len(masked) / 400 < 0.58
    assert masked.max() <= 0.75
    assert masked.mean().item() == pytest.approx(0.375, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1.5}, "p=1.5 is no probability"),
        ({"ratio": (0.5, 0.1)}, r"ratio=\[0.5, 0.1\]"),
        ({"ratio": (0.5,)}, r"ratio=\[0.5\]"),
        ({"patch": 0}, "patch=0 is no side"),
    ],
)
def test_arguments_without_meaning_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        RandomMask(**arguments)
