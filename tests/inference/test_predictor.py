"""From a finished run to predictions in Python."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tapetum
import torch
from PIL import Image
from tapetum.errors import CheckpointError, ConfigError, DataError
from tapetum.images.decode import decode

from layouts import make_image


@pytest.fixture(scope="module")
def written(run):
    return pq.read_table(run.predictions("test"))


def root_of(run) -> Path:
    return Path(run.read_config()["data"]["root"])


def test_predictions_are_those_the_run_wrote(run, predictor, written):
    paths = [root_of(run) / path for path in written["path"].to_pylist()]
    found = predictor.predict(paths, batch_size=3, threshold="config")
    np.testing.assert_allclose(found["logit"].to_numpy(), written["logit"].to_numpy(), atol=1e-6, rtol=0)
    assert found["item"].to_pylist() == [str(path) for path in paths]
    for name in ("verdict", "band"):
        assert found[name].to_pylist() == written[name].to_pylist()
    expected = torch.sigmoid(torch.from_numpy(found["logit"].to_numpy().copy()).double())
    np.testing.assert_allclose(found["probability"].to_numpy(), expected, rtol=1e-6)


def test_order_is_that_of_the_items_whatever_their_kind(run, predictor, written):
    paths = [root_of(run) / path for path in written["path"].to_pylist()][:4]
    logits = predictor.predict(paths)["logit"].to_numpy()
    items = [
        str(paths[3]),
        Image.open(paths[1]),
        decode(paths[2].read_bytes()).permute(1, 2, 0).numpy(),
        paths[0],
    ]
    found = predictor.predict(items, batch_size=2)
    np.testing.assert_allclose(found["logit"].to_numpy(), logits[[3, 1, 2, 0]], atol=1e-6, rtol=0)
    assert found["item"].to_pylist() == [str(paths[3]), "item 1", "item 2", str(paths[0])]


@pytest.mark.parametrize("kind", ["upside down", "transparent", "16 bit", "palette", "cmyk", "grey"])
def test_a_pil_image_is_read_as_its_file_is(predictor, tmp_path, kind):
    pixels = np.asarray(Image.open(make_image(tmp_path / "a.png", generated=True, size=40)))
    image, options, suffix = Image.fromarray(pixels), {}, "png"
    if kind == "upside down":
        exif = Image.Exif()
        exif[0x0112] = 6
        options, suffix = {"exif": exif, "quality": 95}, "jpg"
    elif kind == "transparent":
        image.putalpha(Image.fromarray(np.linspace(0, 255, 1600).reshape(40, 40).astype(np.uint8)))
    elif kind == "16 bit":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif kind == "palette":
        image = image.quantize(16)
    elif kind == "cmyk":
        image, suffix = image.convert("CMYK"), "tif"
    else:
        image = image.convert("L")
    file = tmp_path / f"image.{suffix}"
    image.save(file, **options)
    logits = predictor.predict([file, Image.open(file)])["logit"].to_numpy()
    assert logits[0] == pytest.approx(logits[1], abs=1e-6)


def test_grey_arrays_are_three_equal_channels(predictor):
    grey = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    logits = predictor.predict([grey, np.stack([grey] * 3, axis=2), grey[..., None]])["logit"].to_numpy()
    np.testing.assert_allclose(logits, logits[0], atol=1e-6)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("absent.jpg", r"^item 1 \(.*absent.jpg\) can't be used: the file does not exist$"),
        (
            np.zeros((4, 4), np.float32),
            r"^item 1 \(ndarray\) .* must be uint8 .*, this one is float32 \[4, 4\]$",
        ),
        (np.zeros((4, 4, 4), np.uint8), r"^item 1 \(ndarray\) .* an array of 4 channels, .* takes 3$"),
        (np.zeros((0, 4, 3), np.uint8), r"^item 1 \(ndarray\) .* this one is uint8 \[0, 4, 3\]$"),
        (Image.new("F", (4, 4)), r"^item 1 \(Image\) can't be used: .* mode F, which has no fixed range"),
        (7, r"^item 1 \(int\) can't be used: an item is a path, a PIL image or a uint8 array$"),
    ],
)
def test_an_item_that_cannot_be_read_is_named(predictor, tmp_path, item, message):
    item = tmp_path / item if isinstance(item, str) else item
    good = make_image(tmp_path / "good.png", generated=False)
    with pytest.raises(DataError, match=message):
        predictor.predict([good, item])


def test_the_first_bad_item_is_named_however_many_follow(predictor, tmp_path):
    good = make_image(tmp_path / "good.png", generated=False)
    items = [good] * 5 + ["gone.jpg"] + [good] * 3 + ["gone too.jpg"]
    with pytest.raises(DataError, match=r"^item 5 \(gone.jpg\) can't be used: the file does not exist$"):
        predictor.predict(items, batch_size=2)


@pytest.mark.parametrize("item", ["one.jpg", Path("one.jpg"), np.zeros((8, 8, 3), np.uint8)])
def test_a_single_item_is_asked_into_a_list(predictor, item):
    with pytest.raises(DataError, match=r"put a single one into a list, predict\(\[item\]\)"):
        predictor.predict(item)


def test_an_array_of_images_is_several_items(predictor):
    several = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    expected = predictor.predict(list(several))["logit"].to_numpy()
    np.testing.assert_allclose(predictor.predict(several)["logit"].to_numpy(), expected, atol=1e-6)


def test_one_pil_image_may_come_many_times(predictor, tmp_path):
    lazy = Image.open(make_image(tmp_path / "a.png", generated=True, size=200))  # loads when it is read
    logits = predictor.predict([lazy] * 40, batch_size=4, workers=4)["logit"].to_numpy()
    np.testing.assert_allclose(logits, logits[0], atol=1e-6)


def test_workers_and_batch_size_change_nothing(predictor, tmp_path):
    images = [make_image(tmp_path / f"{n}.png", generated=bool(n % 2), seed=n) for n in range(23)]
    expected = predictor.predict(images, batch_size=1, workers=0)
    for batch_size, workers in ((4, 1), (7, 3), (64, 8)):
        found = predictor.predict(images, batch_size, workers=workers)
        assert found["item"].to_pylist() == expected["item"].to_pylist()
        np.testing.assert_allclose(found["logit"].to_numpy(), expected["logit"].to_numpy(), atol=1e-5)
    with pytest.raises(ConfigError, match="batch_size=0 must be at least 1"):
        predictor.predict(images, 0)


def test_the_fitted_threshold_is_that_of_the_weights_it_was_fitted_for(run, predictor, tmp_path):
    fitted = run.read_metrics()["val/threshold"]
    assert predictor.fitted_threshold == fitted
    assert tapetum.load(run.checkpoints / "best.ckpt", device="cpu").fitted_threshold == fitted
    assert tapetum.load(run.path, which="last", device="cpu").fitted_threshold is None
    copied = tmp_path / "checkpoints" / "best.ckpt"
    copied.parent.mkdir()
    copied.write_bytes((run.checkpoints / "best.ckpt").read_bytes())
    alone = tapetum.load(copied, device="cpu")
    assert alone.fitted_threshold is None
    with pytest.raises(
        ConfigError, match=r"threshold=fitted, but validation has fitted none .* threshold=config"
    ):
        alone.predict([], threshold="fitted")


def test_verdicts_follow_the_fitted_threshold_unless_told_otherwise(run, predictor, written):
    paths = [root_of(run) / path for path in written["path"].to_pylist()]
    fitted = run.read_metrics()["val/threshold"]
    found = predictor.predict(paths)
    logits = found["logit"].to_numpy()
    assert found["verdict"].to_pylist() == ["generated" if one > fitted else "real" for one in logits]
    assert found.equals(predictor.predict(paths, threshold="fitted"))
    cut = float(np.sort(found["probability"].to_numpy())[4])
    given = predictor.predict(paths, threshold=cut - 1e-6)["verdict"].to_pylist()
    assert given.count("generated") == len(paths) - 4


def test_no_items_are_no_predictions(predictor):
    found = predictor.predict([])
    assert found.num_rows == 0
    assert found.column_names == ["item", "logit", "probability", "verdict", "band"]


def test_a_predictor_knows_its_run(run, predictor):
    assert predictor.config["name"] == run.read_config()["name"]
    assert predictor.metadata["step"] == 2
    assert not predictor.module.training
    last = tapetum.load(run.path, which="last", device="cpu")
    by_file = tapetum.load(run.checkpoints / "last.ckpt", device="cpu")
    for name, value in last.module.state_dict().items():
        assert torch.equal(by_file.module.state_dict()[name], value)


def test_a_foreign_file_is_no_run(tmp_path):
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match="is not a checkpoint of tapetum"):
        tapetum.load(tmp_path / "w.ckpt")
