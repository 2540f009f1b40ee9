"""Degradations against Pillow, scipy and counting."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest
from tapetum.errors import ConfigError
from tapetum.images import degradations
from tapetum.images.degradations import (
    RandomGaussianBlur,
    RandomJpeg,
    gaussian_blur,
    gaussian_noise,
    jpeg,
    resize_factor,
    webp,
)


def picture(channels=3, height=45, width=38):
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[:, :, None]
    pixels = smooth + rng.normal(0, 10, (height, width, channels))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def through_pillow(image, kind, **options):
    pixels = image.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, kind, **options)
    decoded = np.atleast_3d(np.asarray(Image.open(buffer)))
    return torch.from_numpy(decoded.copy()).permute(2, 0, 1)


@pytest.mark.parametrize("quality", [1, 30, 75, 100])
@pytest.mark.parametrize(("subsampling", "code"), [("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2)])
def test_jpeg_equals_pillow(quality, subsampling, code):
    expected = through_pillow(picture(), "JPEG", quality=quality, subsampling=code)
    assert torch.equal(jpeg(picture(), quality, subsampling=subsampling), expected)
    other = jpeg(picture(), quality, codec="simplejpeg", subsampling=subsampling)
    assert (other.float() - expected.float()).abs().mean() < 3


@pytest.mark.parametrize("codec", ["pillow", "simplejpeg"])
def test_jpeg_quality_reaches_the_encoder(codec):
    """A published robustness script passed it as the flag's number: every quality gave the same file."""
    errors = [
        (jpeg(picture(), quality, codec=codec).float() - picture().float()).square().mean().item()
        for quality in (5, 20, 50, 80, 95)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[-1]


@pytest.mark.parametrize("codec", ["pillow", "simplejpeg"])
def test_grey_stays_grey(codec):
    grey = picture(1)
    expected = through_pillow(grey, "JPEG", quality=60)
    result = jpeg(grey, 60, codec=codec)
    assert result.shape == grey.shape
    assert (result.float() - expected.float()).abs().mean() < 2
    assert webp(grey, 60).shape == grey.shape


def test_webp_equals_pillow():
    assert torch.equal(webp(picture(), 40), through_pillow(picture(), "WEBP", quality=40))


@settings(max_examples=60, deadline=None)
@given(
    sigma=st.floats(0, 6),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    stored=st.sampled_from(["hwc", "chw"]),
)
def test_blur_equals_scipy_up_to_rounding(sigma, height, width, channels, stored):
    image = picture(channels, height, width)
    image = image.contiguous() if stored == "chw" else image
    expected = np.stack([gaussian_filter(plane.astype(np.float64), sigma) for plane in image.numpy()])
    blurred = gaussian_blur(image, sigma)
    assert blurred.dtype == torch.uint8
    assert np.abs(blurred.numpy() - expected).max() <= 0.5 + 1e-3


def test_noise_has_the_given_deviation_and_seed():
    flat = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    noisy = gaussian_noise(flat, 12.0, torch.Generator().manual_seed(5))
    assert torch.equal(noisy, gaussian_noise(flat, 12.0, torch.Generator().manual_seed(5)))
    difference = noisy.float() - 128
    assert difference.mean().abs() < 0.2
    assert abs(difference.std().item() - 12) < 0.2
    assert abs(np.corrcoef(difference[0].flatten(), difference[1].flatten())[0, 1]) < 0.03


def test_noise_stays_in_range():
    for value in (0, 255):
        noisy = gaussian_noise(torch.full((1, 50, 50), value, dtype=torch.uint8), 40.0)
        assert (noisy == value).float().mean() > 0.4


@pytest.mark.parametrize(
    ("factor", "size"), [(0.5, (22, 19)), (1.0, (45, 38)), (2.0, (90, 76)), (0.001, (1, 1))]
)
def test_resize_factor_scales_both_sides(factor, size):
    assert resize_factor(picture(), factor).shape[1:] == size


def test_random_blur_draws_sigma_uniformly_and_p_of_the_time(monkeypatch):
    drawn = []
    monkeypatch.setattr(degradations, "gaussian_blur", lambda image, sigma: drawn.append(sigma) or image)
    torch.manual_seed(0)
    transform = RandomGaussianBlur(0.3, (0.5, 2.5))
    image = picture()
    for _ in range(4000):
        transform(image)
    assert abs(len(drawn) - 1200) < 150  # five standard deviations
    assert kstest(drawn, "uniform", (0.5, 2.0)).pvalue > 1e-4


def test_random_jpeg_draws_every_quality_of_the_range(monkeypatch):
    """Copies of CNNDetection draw one of the two numbers only."""
    drawn = []
    monkeypatch.setattr(degradations, "jpeg", lambda image, quality, codec: drawn.append(quality) or image)
    torch.manual_seed(0)
    transform = RandomJpeg(0.5, [30, 100])
    image = picture()
    for _ in range(14200):
        transform(image)
    counts = np.bincount(drawn, minlength=101)
    assert abs(len(drawn) - 7100) < 300
    assert counts[:30].sum() == 0
    assert len(counts) == 101
    assert counts[30:].min() > 50
    assert counts[30:].max() < 150


def test_random_transforms_follow_the_default_generator_and_change_the_image():
    for transform in (RandomGaussianBlur(1.0), RandomJpeg(1.0)):
        torch.manual_seed(3)
        first = transform(picture())
        torch.manual_seed(3)
        assert torch.equal(first, transform(picture()))
        assert not torch.equal(first, picture())


def test_probability_zero_and_one():
    torch.manual_seed(0)
    for _ in range(20):
        assert torch.equal(RandomJpeg(0.0)(picture()), picture())
        assert not torch.equal(RandomJpeg(1.0, (10, 10))(picture()), picture())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jpeg(picture(), 0), "quality=0 is out of range: use 1 to 100"),
        (lambda: jpeg(picture(), 50, codec="cv2"), "unknown value codec=cv2: pillow, simplejpeg"),
        (lambda: jpeg(picture(), 50, subsampling="420"), "unknown value subsampling=420"),
        (lambda: webp(picture(), 101), "quality=101"),
        (lambda: gaussian_blur(picture(), -1), "sigma=-1"),
        (lambda: gaussian_blur(picture(), float("nan")), "sigma=nan"),
        (lambda: gaussian_noise(picture(), -1), "std=-1"),
        (lambda: resize_factor(picture(), 0), "factor=0 must be above 0"),
        (lambda: RandomGaussianBlur(1.5), "p=1.5 is out of range"),
        (lambda: RandomGaussianBlur(0.5, (3, 0)), r"sigma=\[3, 0\] is no interval"),
        (lambda: RandomJpeg(0.5, (30,)), r"quality=\[30\] is no interval"),
        (lambda: RandomJpeg(0.5, (30, 101)), "is no interval within 1 to 100"),
    ],
)
def test_values_out_of_range_are_config_errors(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
