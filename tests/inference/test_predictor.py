"""From a finished run to predictions in Python."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tapetum
import torch
from PIL import Image
from tapetum.errors import CheckpointError, DataError
from tapetum.images.decode import decode
from tapetum.runs.directory import RunDirectory

from layouts import make_folder, make_image


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDirectory:
    """A run of the real command, in this process: one epoch on 24 tiny images."""
    from tapetum.commands.train import train
    from tapetum.config.compose import compose
    from tapetum.config.overrides import prepare

    folder = tmp_path_factory.mktemp("run")
    make_folder(folder / "data", splits={"train": 8, "val": 4, "test": 5}, size=40)
    arguments = [
        "model=timm_backbone", "model.net.name=test_resnet.r160_in1k", "model.net.size=32",
        "model.net.hidden=16", "data=folder", f"data.root={folder / 'data'}", "data.batch_size=8",
        "data.num_workers=0", "trainer.accelerator=cpu", "trainer.max_epochs=1",
        f"paths.outputs={folder / 'out'}", f"paths.cache={folder / 'cache'}",
    ]  # fmt: skip
    train(compose(prepare(arguments, multirun=False)))
    (config,) = (folder / "out").rglob("config.yaml")
    return RunDirectory(config.parent)


@pytest.fixture(scope="module")
def predictor(run):
    return tapetum.load(run.path, device="cpu")


@pytest.fixture(scope="module")
def written(run):
    return pq.read_table(run.predictions("test"))


def root_of(run) -> Path:
    return Path(run.read_config()["data"]["root"])


def test_predictions_are_those_the_run_wrote(run, predictor, written):
    paths = [root_of(run) / path for path in written["path"].to_pylist()]
    found = predictor.predict(paths, batch_size=3)
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
