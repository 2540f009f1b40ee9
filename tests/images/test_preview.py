import numpy as np
import pytest
import torch
from PIL import Image
from tapetum.errors import ImageError
from tapetum.images.preview import preview
from tapetum.images.sources import read_image


def test_16_bit_levels_are_stretched_from_their_own_1st_to_their_own_99th_percentile(tmp_path):
    levels = np.random.default_rng(0).integers(21000, 21400, size=(40, 24)).astype(np.uint16)
    levels[0, 0] = 65535  # one hot pixel
    Image.fromarray(levels).save(tmp_path / "a.png")
    low, high = np.percentile(levels, [1, 99])
    wanted = np.rint(255 * np.clip((levels - low) / (high - low), 0, 1))
    found = preview(tmp_path, "a.png")
    assert found.shape == (3, 40, 24)
    assert found.dtype == torch.uint8
    assert np.abs(found.numpy() - wanted).max() <= 1
    assert int(read_image(tmp_path, "a.png").float().std()) < 15  # what the eye would get otherwise


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_8_bit_images_are_as_they_are(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(90, 110, size=(6, 5, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(tmp_path / "a.png")
    assert torch.equal(preview(tmp_path, "a.png"), read_image(tmp_path, "a.png"))


def test_a_broken_file_says_what_is_wrong_with_it(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image at all")
    with pytest.raises(ImageError, match="not a JPEG, PNG"):
        preview(tmp_path, "a.png")
