"""Folders in, tables out: every file ends as a prediction or as a named reason."""

import csv
import os
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tapetum
import torch
from PIL import Image
from tapetum.detectors.npr import NPR
from tapetum.errors import DataError
from tapetum.inference.inputs import find_images
from tapetum.inference.predictor import Predictor
from tapetum.modules.detection import DetectionModule
from tapetum.modules.losses import BinaryCrossEntropy

from inference.mutations import mutated, originals
from layouts import make_image

MUTATIONS = int(os.environ.get("TAPETUM_TEST_MUTATIONS", "1500"))


def rows(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_files(folder, files):
    folder.mkdir(exist_ok=True)
    for number, (ending, data) in enumerate(files):
        (folder / f"{number:05d}{ending}").write_bytes(data)
    return folder


def plain(net, size=None):
    """A predictor of a network alone, whose images keep their sizes."""
    module = DetectionModule(net, loss=BinaryCrossEntropy(), geometry={"size": size} if size else None)
    config = {"data": {"decoder": "fast", "eval_batch_size": 16}, "trainer": {"precision": "32-true"}}
    return Predictor(module.eval(), config, {}, torch.device("cpu"))


def test_a_folder_becomes_the_rows_that_predict_gives(predictor, tmp_path):
    images = [make_image(tmp_path / "in" / f"{n:02}.png", generated=bool(n % 2), seed=n) for n in range(11)]
    seen = []
    written = predictor.predict_files(
        tmp_path / "in", tmp_path / "out.parquet", 4, progress=lambda *done: seen.append(done)
    )
    expected = predictor.predict(images, 4)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.rename_columns(expected.column_names).equals(expected)
    assert seen == [(4, 11), (8, 11), (11, 11)]
    assert written.images == 11
    assert written.verdicts == {
        name: count
        for name in ("generated", "real")
        if (count := expected["verdict"].to_pylist().count(name))
    }
    assert (written.unreadable, written.listed, written.notes) == (0, None, {})


def test_what_cannot_be_read_is_listed_in_order_and_the_rest_is_predicted(predictor, tmp_path):
    good = make_image(tmp_path / "in" / "good, but.png", generated=True)
    (tmp_path / "in" / "empty.jpg").write_bytes(b"")
    (tmp_path / "in" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "in" / "text.png").write_text("no image")
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    out = tmp_path / "out.csv"
    written = predictor.predict_files(tmp_path / "in", out, 2)
    assert [row["path"] for row in rows(out)] == [str(good)]
    assert written.listed == tmp_path / "out.csv.unreadable.csv"
    reasons = {Path(row["path"]).name: row["reason"] for row in rows(written.listed)}
    assert reasons == {
        "empty.jpg": "the file is empty (0 bytes)",
        "gone.jpg": "the file does not exist",
        "pipe.jpg": "not a regular file but a pipe, socket or device",
        "text.png": "not a JPEG, PNG, WebP, BMP or TIFF file: it begins with b'no image'",
    }
    assert list(reasons) == sorted(reasons)
    assert written.unreadable == 4
    assert [reason for _, reason in written.first] == list(reasons.values())
    for name in ("empty.jpg", "gone.jpg", "text.png", "pipe.jpg"):
        (tmp_path / "in" / name).unlink()
    assert predictor.predict_files(tmp_path / "in", out).listed is None
    assert not (tmp_path / "out.csv.unreadable.csv").exists()  # or it would tell of images that are mended


def test_where_nothing_can_be_read_the_reasons_are_there_and_the_old_table_stays(predictor, tmp_path):
    make_image(tmp_path / "in" / "a.png", generated=True)
    out = tmp_path / "out.csv"
    predictor.predict_files(tmp_path / "in", out)
    before = out.read_bytes()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"no image of 1 could be read.*/a.png: the file is empty"):
        predictor.predict_files(tmp_path / "in", out)
    assert out.read_bytes() == before
    assert len(rows(tmp_path / "out.csv.unreadable.csv")) == 1


def test_an_output_inside_the_input_does_not_disturb_it(predictor, tmp_path):
    make_image(tmp_path / "a.png", generated=True)
    for _ in range(2):
        written = predictor.predict_files(tmp_path, tmp_path / "out.csv")
        assert written.images == 1
    assert written.notes == {"files left out that are no images by their ending": 1}


def test_a_table_is_a_list_for_the_next_run(predictor, tmp_path):
    make_image(tmp_path / "in" / "a, b.png", generated=True)
    predictor.predict_files(tmp_path / "in", tmp_path / "out.csv")
    before = rows(tmp_path / "out.csv")
    predictor.predict_files(tmp_path / "out.csv", tmp_path / "out.csv")
    assert rows(tmp_path / "out.csv") == before


def test_an_archive_that_vanishes_is_a_reason_and_not_the_end(predictor, tmp_path):
    good = make_image(tmp_path / "a.png", generated=True)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/gone.tar::a.jpg\n{good}\n")
    written = predictor.predict_files(tmp_path / "list.txt", tmp_path / "out.csv")
    assert (written.images, written.unreadable) == (1, 1)
    assert "gone.tar cannot be opened: No such file or directory" in written.first[0][1]


def test_names_that_are_not_utf8_are_predicted(predictor, tmp_path):
    image = make_image(tmp_path / "a.png", generated=True)
    name = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        image.rename(name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for kind in ("csv", "json", "parquet"):
        written = predictor.predict_files(tmp_path, tmp_path / f"out.{kind}")
        assert (written.images, written.unreadable) == (1, 0)
    assert rows(tmp_path / "out.csv")[0]["path"] == rf"{tmp_path}/caf\xe9.png"
    assert predictor.predict([name])["item"].to_pylist() == [rf"{tmp_path}/caf\xe9.png"]


def test_a_network_that_answers_nan_gives_a_reason(tmp_path):
    class Nan(torch.nn.Module):
        input_spec = NPR(size=64).input_spec

        def forward(self, images):
            return images.float().mean(dim=(1, 2, 3)).log()  # of a black image: -inf

    make_image(tmp_path / "in" / "a.png", generated=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "black.png")
    written = plain(Nan()).predict_files(tmp_path / "in", tmp_path / "out.json")
    assert written.images == 1
    ((path, reason),) = written.first
    assert path.endswith("black.png")
    assert reason == "the network's answer is -inf, which is no number to judge by"


def test_images_that_a_network_of_any_size_cannot_take_are_named(tmp_path):
    """NPR at its published geometry: no resize, and a pixel is too little for its convolutions."""
    torch.manual_seed(0)
    predictor = plain(NPR(size=None))
    (tmp_path / "in").mkdir()
    sizes = [(40, 30), (1, 1), (40, 30), (64, 48), (3, 200)]
    for number, size in enumerate(sizes):
        Image.effect_noise(size, 60).convert("RGB").save(tmp_path / "in" / f"{number}.png")
    written = predictor.predict_files(tmp_path / "in", tmp_path / "out.csv")
    good = [row["path"] for row in rows(tmp_path / "out.csv")]
    bad = [row["path"] for row in rows(written.listed)] if written.listed else []
    assert sorted(good + bad) == find_images(tmp_path / "in").paths
    assert "the network can't take its 1x1 pixels" in dict(written.first)[str(tmp_path / "in" / "1.png")]
    alone = predictor.predict([tmp_path / "in" / "3.png"])["logit"][0].as_py()
    among = {row["path"]: float(row["logit"]) for row in rows(tmp_path / "out.csv")}
    assert among[str(tmp_path / "in" / "3.png")] == pytest.approx(alone, abs=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_every_damaged_file_ends_as_a_prediction_or_as_a_reason(predictor, tmp_path):
    folder = write_files(tmp_path / "in", mutated(MUTATIONS))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    written = predictor.predict_files(folder, tmp_path / "out.csv", workers=2)
    good, bad = rows(tmp_path / "out.csv"), rows(written.listed)
    assert sorted(row["path"] for row in [*good, *bad]) == find_images(folder).paths
    assert len(good) > 0.05 * MUTATIONS < len(bad)
    assert all(row["reason"] for row in bad)
    assert all(np.isfinite(float(row["logit"])) for row in good)
    # A header may ask for 134 million pixels, in each of two threads, and Pillow holds them twice on the way.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2.5e6
    assert time.monotonic() - began < 60 + 0.02 * MUTATIONS


def test_the_files_that_are_damaged_are_sound_before(predictor, tmp_path):
    whole = originals()
    written = predictor.predict_files(write_files(tmp_path / "in", whole), tmp_path / "out.csv")
    assert (written.images, written.unreadable) == (len(whole), 0)


def test_a_loaded_run_is_reached_from_the_package(run, tmp_path):
    make_image(tmp_path / "a.png", generated=True)
    written = tapetum.load(run.path, device="cpu").predict_files(
        str(tmp_path / "*.png"), str(tmp_path / "o.json")
    )
    assert written.images == 1
