"""`tapetum gallery`, `search` and `predict` with a run of retrieval, from the command line."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tapetum
from tapetum.inference.embedder import vectors_of
from tapetum.inference.gallery import read_gallery, sha256
from tapetum.runs.building import build_index

from commands.experiments import run
from layouts import make_image
from retrieval_runs import ARGUMENTS, train_embedder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return train_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def embedder(made):
    return tapetum.load(made.path, device="cpu")


@pytest.fixture(scope="module")
def images(embedder, made):
    """The test split as a folder of class folders."""
    index = build_index(embedder.config)
    root, path = index.location(pq.read_table(made.predictions("test"))["index"][0].as_py())
    return root / path.rpartition("/")[0].rpartition("/")[0]


@pytest.fixture(scope="module")
def built(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("gallery") / "g.parquet"
    call("gallery", made.path, out)
    return out


@pytest.fixture
def gallery(built, tmp_path):
    return Path(shutil.copy(built, tmp_path))


def call(*words, code=0):
    assert run(*map(str, words), "accelerator=cpu") == code


def test_a_gallery_is_what_the_run_learnt_from(made, gallery):
    found, written = read_gallery(gallery), pq.read_table(made.predictions("gallery"))
    assert np.array_equal(found.embeddings, vectors_of(written["embedding"]))
    assert found.images["class"].to_pylist() == written["class"].to_pylist()
    assert found.images["label"].to_pylist() == written["label"].to_pylist()
    for path, short in zip(found.images["path"].to_pylist(), written["path"].to_pylist(), strict=True):
        assert path.endswith(short)
    checkpoint = made.checkpoints / "best.ckpt"
    assert found.about["run"] == str(made.path)
    assert found.about["checkpoint"] == "best.ckpt"
    assert found.about["sha256"] == sha256(checkpoint)
    assert found.about["index"] == tapetum.load(made.path, device="cpu").metadata["index"]
    assert found.about["radiometry"]["_target_"] == "tapetum.images.infrared.ImagePercentile"
    assert found.about["decision"] == {"rule": "knn", "k": 10, "exclude": None}
    assert found.about["geometry"]["size"] == [24, 24]


def test_images_of_ones_own_are_of_the_class_of_their_folder(made, embedder, images, tmp_path, capsys):
    shutil.copytree(images, tmp_path / "photos")
    (tmp_path / "photos" / "cross" / "broken.png").write_bytes(b"")
    out = tmp_path / "g.parquet"
    call("gallery", made.path, out, tmp_path / "photos", code=3)
    said = capsys.readouterr().out
    assert f"no embedding for 1, all listed in {out}.unreadable.csv" in said
    assert "broken.png: the file is empty (0 bytes)" in said
    assert f"written {out}: 48 images of 8 classes, 16 numbers each" in said
    found = read_gallery(out)
    paths = found.images["path"].to_pylist()
    assert paths == sorted(paths)
    assert found.images["class"].to_pylist() == [path.split("/")[-2] for path in paths]
    names = sorted(set(found.images["class"].to_pylist()))
    assert found.images["label"].to_pylist() == [names.index(path.split("/")[-2]) for path in paths]
    np.testing.assert_allclose(found.embeddings, embedder.embed(paths), atol=1e-6)


def test_the_gallery_of_other_data(made, images, tmp_path, capsys):
    out = tmp_path / "g.parquet"
    call(
        "gallery",
        made.path,
        out,
        "data=infrared_folder",
        f"data.root={images}",
        "data.index.test_fraction=0.25",
    )
    found = read_gallery(out)
    assert 24 <= len(found) < 48
    assert all(path.startswith(str(images)) for path in found.images["path"].to_pylist())
    assert found.about["data"] == "infrared_folder"
    call("gallery", made.path, out, "data.limit={train: 24}")
    assert 0 < len(read_gallery(out)) <= 24


def test_the_nearest_images_are_those_of_brute_force(made, embedder, gallery, images, tmp_path, capsys):
    out = tmp_path / "hits.csv"
    call("search", gallery, images, "k=4", f"out={out}")
    assert "written" in capsys.readouterr().out
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    paths = sorted(map(str, images.rglob("*.png")))
    searched = read_gallery(gallery)
    queries = embedder.embed(paths)
    every = queries @ searched.embeddings.T
    order = np.argsort(-every, axis=1, kind="stable")[:, :4]
    assert [row["query"] for row in rows] == [path for path in paths for _ in range(4)]
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4] * len(paths)
    found = np.array([float(row["similarity"]) for row in rows]).reshape(-1, 4)
    np.testing.assert_allclose(found, np.take_along_axis(every, order, 1), atol=1e-5)
    for row, number in zip(rows, order.ravel().tolist(), strict=True):
        near = searched.images.slice(number, 1).to_pylist()[0]
        if (row["path"], row["class"]) != (near["path"], near["class"]):  # as similar, to a rounding
            other = searched.images["path"].to_pylist().index(row["path"])
            query = paths.index(row["query"])
            assert every[query, other] == pytest.approx(every[query, number], abs=1e-6)
    assert [row["decision"] for row in rows[::4]] == searched.classify(queries)


def test_several_images_are_answered_on_the_terminal_and_the_last_line_times_it(gallery, images, capsys):
    one, other = sorted(images.rglob("*.png"))[:2]
    call("search", gallery, one, other)
    said = capsys.readouterr().out
    assert said.count("similarity") == 2
    assert f"{one}: " in said
    assert "(knn, k=10)" in said
    last = said.rstrip().splitlines()[-1]
    assert last.startswith("load ")
    assert all(step in last for step in ("prepare", "embed", "search"))


def test_an_image_that_cannot_be_read_does_not_stop_the_others(gallery, images, tmp_path, capsys):
    good = next(images.rglob("*.png"))
    (tmp_path / "bad.png").write_text("no image")
    visible = make_image(tmp_path / "visible.png", generated=True)
    call("search", gallery, tmp_path / "bad.png", good, visible, code=3)
    said = capsys.readouterr().out
    assert said.count("similarity") == 1
    assert f"{tmp_path / 'bad.png'}: not a JPEG" in said
    assert "visible.png: a visible image where infrared is expected" in said
    out = tmp_path / "hits.json"
    call("search", gallery, tmp_path / "bad.png", good, f"out={out}", code=3)
    assert len(json.loads(out.read_text())) == 5
    assert (tmp_path / "hits.json.unreadable.csv").is_file()
    call("search", gallery, tmp_path / "bad.png", code=1)
    assert "no image of 1 could be read" in capsys.readouterr().err


def test_a_run_that_moved_is_named_and_other_weights_are_refused(made, gallery, images, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(made.path, moved)
    shutil.move(made.path, tmp_path / "away")
    try:
        good = next(images.rglob("*.png"))
        call("search", gallery, good, code=1)
        assert "type run=DIR to say where that run is now" in capsys.readouterr().err
        call("search", gallery, good, f"run={moved}")
        call("search", gallery, good, f"run={moved / 'checkpoints' / 'best.ckpt'}")
        checkpoint = moved / "checkpoints" / "best.ckpt"
        checkpoint.write_bytes(checkpoint.read_bytes() + b"\0")
        capsys.readouterr()
        call("search", gallery, good, f"run={moved}", code=1)
        assert "was made with other weights than" in capsys.readouterr().err
    finally:
        shutil.move(tmp_path / "away", made.path)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["gallery"], 2, "a run and an output are needed, and there is nothing: tapetum gallery RUN"),
        (["gallery", "{run}"], 2, "a run and an output are needed"),
        (["gallery", "{run}", "out.csv"], 2, "a gallery is a .parquet file"),
        (["gallery", "{images}", "{out}"], 1, "is not a run"),
        (["gallery", "{run}", "{out}", "{images}", "data.limit=3"], 2, "is of a data set or of images"),
        (["gallery", "{run}", "{out}", "nowhere"], 1, "nowhere: there is no such file or folder"),
        (["gallery", "{run}", "{out}", "model.decision.k=3"], 2, "would change the run, or says nothing"),
        (["gallery", "{run}", "{out}", "data.radiometry=null"], 2, "are read as the run has learnt"),
        (["gallery", "{run}", "{out}", "data=infrared_folder", "data.root=/nowhere"], 2, "/nowhere"),
        (["gallery", "{run}", "{out}", "--k", "3"], 2, "--k is a flag, and there are none"),
        (["search", "{gallery}"], 2, "a gallery and images are needed"),
        (["search", "{gallery}", "{images}", "k=0"], 2, "k=0 must be a whole number"),
        (["search", "{gallery}", "{images}", "k=x"], 2, "k=x must be a whole number"),
        (["search", "{gallery}", "{images}", "k=999"], 2, "k=999: the gallery holds"),
        (["search", "{gallery}", "nowhere.png"], 1, "there is no such file or folder"),
        (["search", "nowhere.parquet", "{images}"], 1, "there is no such gallery"),
        (["search", "{run}/predictions/test.parquet", "{images}"], 1, "is a table, but no gallery"),
        (["search", "{gallery}", "{images}", "out=x.txt"], 2, "it must be .csv, .json, .parquet"),
        (["search", "{gallery}", "{images}", "model=npr"], 2, "search GALLERY IMAGE… takes k=…"),
        (["predict", "{run}", "{images}", "{out}", "threshold=0.5"], 2, "gives no verdicts"),
        (["predict", "{run}", "{images}", "{out}", "model.thresholds.high=0.9"], 2, "has no thresholds"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    made, gallery, images, tmp_path, capsys, words, code, message
):
    places = {"run": made.path, "images": images, "out": tmp_path / "out.parquet", "gallery": gallery}
    assert run(*[word.format(**places) for word in words]) == code
    assert message in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["g.parquet"]


def test_a_detector_has_no_gallery(finished, tmp_path, capsys):
    call("gallery", finished, tmp_path / "g.parquet", code=2)
    assert "is a run of detection, which has no embeddings" in capsys.readouterr().err


def test_predict_writes_embeddings(made, embedder, images, tmp_path, capsys):
    call("predict", made.path, images, tmp_path / "out.csv")
    said = capsys.readouterr().out
    assert "embeddings of 16 numbers and length 1" in said
    assert f"written {tmp_path / 'out.csv'}: 48 images, " in said
    assert "uncertain" not in said
    paths = sorted(map(str, images.rglob("*.png")))
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = [list(row.values())[1:] for row in csv.DictReader(file)]
    np.testing.assert_allclose(np.array(rows, np.float32), embedder.embed(paths), atol=1e-6)
    model = [word for word in ARGUMENTS if word.startswith(("model", "data=", "data.index"))]
    call("predict", images, tmp_path / "again.csv", *model, f"weights={made.path}")
    assert "read as infrared images" in capsys.readouterr().out
    with (tmp_path / "again.csv").open(newline="") as file:
        again = [list(row.values())[1:] for row in csv.DictReader(file)]
    np.testing.assert_allclose(np.array(again, np.float32), np.array(rows, np.float32), atol=1e-6)
