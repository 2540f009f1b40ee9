"""From a finished run of retrieval to embeddings in Python."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import tapetum
import torch
from PIL import Image
from tapetum.errors import ConfigError, DataError
from tapetum.images.geometry import InputSpec
from tapetum.images.infrared import ImagePercentile
from tapetum.inference.embedder import Embedder, radiometry_of, vectors_of
from tapetum.modules.retrieval import RetrievalModule
from tapetum.runs.building import build_index

from layouts import make_image
from retrieval_runs import train_embedder


@pytest.fixture(scope="module")
def embedder_run(tmp_path_factory):
    return train_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def embedder(embedder_run):
    return tapetum.load(embedder_run.path, device="cpu")


@pytest.fixture(scope="module")
def written(embedder_run):
    return pq.read_table(embedder_run.predictions("test"))


@pytest.fixture(scope="module")
def paths(embedder, written):
    index = build_index(embedder.config)
    return [root / path for root, path in map(index.location, written["index"].to_pylist())]


def test_embeddings_are_those_the_run_wrote_to_the_bit(embedder, written, paths):
    found = embedder.embed(paths, batch_size=20)
    assert np.array_equal(found, vectors_of(written["embedding"]))
    assert (found.dtype, found.shape) == (np.float32, (48, 16))
    assert found.flags.writeable
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_batch_size_and_workers_change_nothing(embedder, paths):
    expected = embedder.embed(paths)
    for batch_size, workers in ((1, 0), (7, 1), (64, 5)):
        np.testing.assert_allclose(embedder.embed(paths, batch_size, workers=workers), expected, atol=1e-6)


def test_order_is_that_of_the_images_whatever_their_kind(embedder, paths):
    levels = [np.array(Image.open(path)).astype(np.uint16) for path in paths[:6]]
    mapped = ImagePercentile()(torch.from_numpy(levels[5])[None])[0].numpy()
    images = [
        str(paths[3]), Image.open(paths[1]), levels[2], levels[0][..., None],
        np.stack([levels[4]] * 3, axis=2), mapped.astype(np.float64),
    ]  # fmt: skip
    expected = embedder.embed(paths[:6])[[3, 1, 2, 0, 4, 5]]
    np.testing.assert_allclose(embedder.embed(images, 2), expected, atol=1e-6)


def test_no_images_are_no_embeddings(embedder):
    assert embedder.embed([]).shape == (0, 16)
    assert embedder.predict([]).num_rows == 0


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("absent.png", r"item 2 \(.*absent.png\) can't be used: the file does not exist"),
        ("text.png", r"item 2 \(.*text.png\) can't be used: not a JPEG, PNG"),
        (
            "visible.png",
            r"item 2 \(.*visible.png\) can't be used: a visible image where infrared is expected",
        ),
        (np.zeros((0, 4), np.uint16), r"item 2 \(ndarray\) .* an array without pixels, uint16 \[0, 4\]"),
        (np.zeros((4, 4, 2), np.uint8), r"item 2 \(ndarray\) .* this one is uint8 \[4, 4, 2\]"),
        (np.zeros(4, np.uint8), r"item 2 \(ndarray\) .* this one is uint8 \[4\]"),
        (np.zeros((4, 4), np.int64), r"item 2 \(ndarray\) .* must be uint8, uint16 or float"),
        (np.full((4, 4), np.nan), r"item 2 \(ndarray\) .* 16 of the array's 16 values are NaN or infinite"),
        (np.full((4, 4), 8000.0), r"item 2 \(ndarray\) .* floats are taken as already mapped to \[0, 1\]"),
        (torch.zeros(4, 4), r"item 2 \(Tensor\) .* an item is a path, a PIL image or an array"),
        (None, r"item 2 \(NoneType\) can't be used"),
    ],
)
def test_an_image_that_cannot_be_embedded_is_named(embedder, paths, tmp_path, image, message):
    (tmp_path / "text.png").write_text("no image")
    make_image(tmp_path / "visible.png", generated=True)
    image = tmp_path / image if isinstance(image, str) else image
    with pytest.raises(DataError, match=message):
        embedder.embed([paths[0], paths[1], image, paths[2], "absent too.png"])


@pytest.mark.parametrize("image", ["one.png", np.zeros((8, 8), np.uint16), np.zeros((8, 8, 1))])
def test_a_single_image_is_asked_into_a_list(embedder, image):
    with pytest.raises(DataError, match=r"several items are embedded: .* embed\(\[item\]\)"):
        embedder.embed(image)


def test_a_table_has_the_same_vectors_and_names(embedder, paths):
    found = embedder.predict(paths[:5])
    assert found.column_names == ["item", "embedding"]
    assert found["item"].to_pylist() == list(map(str, paths[:5]))
    assert np.array_equal(vectors_of(found["embedding"]), embedder.embed(paths[:5]))


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_every_format_gives_the_vectors_back_to_the_bit(embedder, paths, tmp_path, kind):
    out = tmp_path / f"out.{kind}"
    written = embedder.predict_files(paths[:25], out, 20)
    expected = embedder.embed(paths[:25], 20)
    if kind == "csv":
        with out.open(newline="") as file:
            header, *lines = csv.reader(file)
        assert header == ["path", *(f"e{place}" for place in range(16))]
        names, found = [line[0] for line in lines], [line[1:] for line in lines]
    else:
        rows = json.loads(out.read_text()) if kind == "json" else pq.read_table(out).to_pylist()
        names, found = [row["path"] for row in rows], [row["embedding"] for row in rows]
    assert names == list(map(str, paths[:25]))
    assert np.array_equal(np.array(found, np.float32), expected)
    assert (written.images, written.verdicts, written.bands, written.unreadable) == (25, {}, {}, 0)


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_table_of_embeddings_is_replaced_and_a_strangers_is_not(embedder, predictor, paths, tmp_path, kind):
    out = tmp_path / f"out.{kind}"
    make_image(tmp_path / "a.png", generated=True)
    predictor.predict_files(tmp_path / "a.png", out)
    for _ in range(2):  # over a table of another task, and over one of its own
        embedder.predict_files(paths[:2], out)
    predictor.predict_files(tmp_path / "a.png", out)
    out.write_text("path,e1\na,1\n")
    with pytest.raises(DataError, match="exists and is no table of predictions"):
        embedder.predict_files(paths[:2], out)


def test_what_cannot_be_read_is_listed_and_the_rest_is_embedded(embedder, paths, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    written = embedder.predict_files([paths[0], tmp_path / "text.png", paths[1]], tmp_path / "out.csv")
    assert (written.images, written.unreadable) == (2, 1)
    assert "no image" in written.listed.read_text()


class Sums(torch.nn.Module):
    """Images of any size from 3 x 3 on, to the direction of two sums; a black image has none."""

    dimension = 2
    input_spec = InputSpec(size=None, resize="none", channels=1)

    def forward(self, images):
        rows = torch.nn.functional.conv2d(images.float(), torch.ones(1, 1, 3, 3)).flatten(2)
        sums = torch.stack([rows.sum(dim=2), rows.square().sum(dim=2)], dim=2)[:, 0]
        return sums / sums.norm(dim=1, keepdim=True)


def test_images_that_a_network_cannot_take_or_answer_are_named():
    config = {"data": {"decoder": "fast", "eval_batch_size": 16}, "trainer": {"precision": "32-true"}}
    module = RetrievalModule(Sums(), loss=None).eval()
    embedder = Embedder(module, config, {}, torch.device("cpu"), infrared=True)
    drawn = np.random.default_rng(0)
    good = [drawn.integers(1, 256, size, dtype=np.uint8) for size in ((5, 4), (3, 9), (8, 8))]
    images = [good[0], good[0][:1, :1], good[1], np.zeros((4, 4), np.uint8), good[2]]
    (part,) = embedder.stream(images)
    assert part.numbers.tolist() == [0, 2, 4]
    assert [bad.number for bad in part.bad] == [1, 3]
    assert "the network can't take its 1x1 pixels" in part.bad[0].reason
    assert part.bad[1].reason == "the network's answer is nan, which is no number to judge by"
    assert np.array_equal(vectors_of(part.table["embedding"]), embedder.embed(good, batch_size=1))
    assert part.seconds > 0


def test_each_model_says_what_the_other_one_does(embedder, predictor, paths):
    for asked in (
        lambda: embedder.rule(),
        lambda: embedder.predict(paths, threshold=0.5),
        lambda: embedder.stream(paths, threshold="fitted"),
    ):
        with pytest.raises(ConfigError, match=r"gives no verdicts, .* tapetum gallery RUN gallery.parquet"):
            asked()
    with pytest.raises(ConfigError, match=r"has no embeddings. Type .predict\(images\)"):
        predictor.embed(paths)


def test_a_loaded_run_says_what_it_is(embedder):
    assert isinstance(embedder, Embedder)
    assert embedder.config["task"] == "retrieval"
    assert embedder.metadata["modalities"] == ["infrared"]
    assert (embedder.dimension, embedder.infrared, embedder.radiometry) == (16, True, ImagePercentile())
    assert "embeddings of 16 numbers" in embedder.described()
    assert "ImagePercentile(low=1.0, high=99.0)" in embedder.described()


@pytest.mark.parametrize("target", ["tapetum.commands.train.train", "torch.nn.Linear", "os.system"])
def test_a_map_that_is_none_is_refused(target):
    config = {"data": {"radiometry": {"_target_": target}}, "allow_targets": []}
    with pytest.raises(ConfigError, match=f"data.radiometry._target_={target} is no radiometric map"):
        radiometry_of(config)
    nested = {"_target_": "tapetum.images.infrared.FullRange", "bits": {"_target_": target}}
    with pytest.raises(ConfigError, match=r"data.radiometry.bits._target_=.* is no radiometric map"):
        radiometry_of({"data": {"radiometry": nested}, "allow_targets": []})
