import json
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tapetum.errors import ConfigError, DataError
from tapetum.indexes import synthetic
from tapetum.indexes.build import build

TINY = partial(synthetic.index, train=16, test=8, size=16)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Pixels float64 [n, 64, 64, 3], bytes and labels of train and test at the default difficulty."""
    layout = partial(synthetic.index, train=800, test=800)
    index = build(
        layout, root=tmp_path_factory.mktemp("set"), val_fraction=0, seed=0, cache=None, name="synthetic"
    )
    parts = {}
    for split in ("train", "test"):
        rows = index.rows(split)
        files = [root / path for root, path in map(index.location, rows.tolist())]
        pixels = np.stack([np.asarray(Image.open(file), dtype=np.float64) for file in files])
        sizes = np.array([file.stat().st_size for file in files])
        parts[split] = pixels, sizes, index.column("label")[rows]
    return parts


def auc_of(probe, rendered):
    features = {split: probe(pixels, sizes) for split, (pixels, sizes, _) in rendered.items()}
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(features["train"], rendered["train"][2])
    return roc_auc_score(rendered["test"][2], model.predict_proba(features["test"])[:, 1])


def radial_spectrum(pixels, _):
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    bins = np.minimum((frequency * 45).astype(int), 31).ravel()
    power = np.log(np.abs(np.fft.fft2(pixels.mean(axis=3))) ** 2 + 1e-3).reshape(len(pixels), -1)
    return np.stack([power[:, bins == number].mean(axis=1) for number in range(32)], axis=1)


def test_colour_contrast_and_bytes_do_not_tell_the_classes_apart(rendered):
    def probe(pixels, sizes):
        return np.column_stack([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2)), sizes])

    assert abs(auc_of(probe, rendered) - 0.5) < 0.06
    assert len(set(rendered["train"][1]) | set(rendered["test"][1])) == 1


def test_the_spectrum_tells_the_classes_apart_but_not_perfectly(rendered):
    assert 0.75 < auc_of(radial_spectrum, rendered) < 0.99


@pytest.mark.parametrize("family", synthetic.FAMILIES)
def test_up_sampling_keeps_a_constant_and_doubles_the_size(family):
    flat = np.full((2, 8, 8, 3), 7.0, dtype=np.float32)
    up = synthetic.FAMILIES[family](flat, 0)
    assert up.shape == (2, 16, 16, 3)
    assert up.mean() == pytest.approx(7.0, rel=1e-5)


def test_bicubic_is_pillow_s_inside_the_border():
    small = np.random.default_rng(0).uniform(0, 255, (1, 12, 12, 3)).astype(np.float32)
    ours = synthetic.up_bicubic(small, 0)[0, :, :, 0]
    pillow = np.asarray(Image.fromarray(small[0, :, :, 0]).resize((24, 24), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(ours[6:-6, 6:-6], pillow[6:-6, 6:-6], atol=1e-3)


@pytest.mark.parametrize("family", synthetic.FAMILIES)
def test_a_trace_leaves_mean_and_deviation_and_shrinks_with_difficulty(family):
    images = np.stack([synthetic.texture(np.random.default_rng(number), 32) for number in range(4)])
    traces = [synthetic.resampled(images, family, difficulty, 0) for difficulty in (0.0, 0.5, 0.9)]
    for trace in traces:
        np.testing.assert_allclose(trace.mean(axis=(1, 2)), images.mean(axis=(1, 2)), rtol=1e-3)
        np.testing.assert_allclose(trace.std(axis=(1, 2)), images.std(axis=(1, 2)), rtol=1e-3)
    distances = [np.abs(trace - images).mean() for trace in traces]
    assert distances[0] > distances[1] > distances[2] > 0


def test_the_set_is_half_real_and_every_family_an_eighth(tmp_path):
    index = build(TINY, root=tmp_path, val_fraction=0, seed=0, cache=None, name="synthetic")
    assert index.counts() == {"train": {"real": 8, "generated": 8}, "test": {"real": 4, "generated": 4}}
    assert index.generators() == sorted(synthetic.FAMILIES)
    made = [name for name in index.column("generator") if name]
    assert {name: made.count(name) for name in made} == dict.fromkeys(synthetic.FAMILIES, 3)


def test_pixels_are_a_function_of_the_arguments(tmp_path):
    def pixels(root, **arguments):
        paths = synthetic.index(
            tmp_path / root, **{"train": 8, "test": 8, "size": 16} | arguments
        ).table.column("path")
        return [(tmp_path / root / path).read_bytes() for path in paths.to_pylist()]

    first = pixels("a")
    assert pixels("b") == first
    assert not set(pixels("a", train=16)[:4]) - set(pixels("c", train=16))
    assert not set(pixels("a", seed=1)) & set(first)
    assert len(set(first)) == 16


def test_it_is_rendered_once_and_again_after_an_interruption(tmp_path):
    paths = TINY(tmp_path).table.column("path").to_pylist()
    place = tmp_path / paths[0].partition("/")[0]
    before = (tmp_path / paths[0]).stat().st_mtime_ns
    TINY(tmp_path)
    assert (tmp_path / paths[0]).stat().st_mtime_ns == before

    shutil.rmtree(place)
    unfinished = tmp_path / f".{place.name}.tmp" / "train"
    unfinished.mkdir(parents=True)
    (unfinished / "half.png").write_bytes(b"")
    assert TINY(tmp_path).table.column("path").to_pylist() == paths
    assert not unfinished.exists()


def test_a_set_that_lost_an_image_or_its_stamp_is_refused(tmp_path):
    path = TINY(tmp_path).table.column("path").to_pylist()[0]
    (tmp_path / path).unlink()
    with pytest.raises(DataError, match=r"\(23 of 24 images\): remove the folder"):
        TINY(tmp_path)
    stamp = tmp_path / path.partition("/")[0] / "synthetic.json"
    assert json.loads(stamp.read_text())["size"] == 16
    stamp.unlink()
    with pytest.raises(DataError, match=r"synthetic\.json can't be read"):
        TINY(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 12}, r"data\.index\.train=12: must be a multiple of 8"),
        ({"test": 0}, r"data\.index\.test=0: must be a multiple of 8"),
        ({"size": 15}, r"data\.index\.size=15: must be even"),
        ({"difficulty": 1.0}, r"data\.index\.difficulty=1\.0: must be at least 0 and below 1"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        synthetic.index(tmp_path, **arguments)
