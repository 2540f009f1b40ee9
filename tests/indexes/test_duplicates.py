"""The same image twice, as a copy or as a look-alike, never asks for itself."""

import shutil
import time
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from tapetum.indexes import (
    flir_adas,
    identity_folder,
    infrared_folder,
    llcm,
    manifest,
    regdb,
    solar_modules,
    sysu_mm01,
)
from tapetum.indexes.build import build
from tapetum.indexes.duplicates import without_near
from tapetum.indexes.roles import roles
from tapetum.indexes.splits import without_copies
from tapetum.indexes.table import Index, to_table
from tests.layouts import (
    make_flir_adas,
    make_identity_folder,
    make_infrared,
    make_infrared_folder,
    make_llcm,
    make_regdb,
    make_retrieval_manifest,
    make_solar_modules,
    make_sysu_mm01,
)


def made(layout, place, **options):
    return build(
        layout, **{"root": place, "seed": 0, "cache": None, "name": "mine", "val_fraction": 0} | options
    )


MAKERS = {
    "infrared_folder": (infrared_folder.index, make_infrared_folder),
    "solar_modules": (solar_modules.index, make_solar_modules),
    "flir_adas": (flir_adas.index, make_flir_adas),
    "identity_folder": (identity_folder.index, make_identity_folder),
    "sysu_mm01": (sysu_mm01.index, make_sysu_mm01),
    "regdb": (regdb.index, make_regdb),
    "llcm": (llcm.index, make_llcm),
    "manifest": (manifest.index, make_retrieval_manifest),
}


@pytest.mark.parametrize("name", MAKERS)
def test_no_query_is_byte_for_byte_in_its_gallery_or_in_train(name, tmp_path):
    layout, make = MAKERS[name]
    clean = made(layout, make(tmp_path))
    found = roles(clean, "test")
    query, searched, learnt = (
        tmp_path / clean.location(int(row))[1]
        for row in (found.queries[0], found.gallery[0], clean.rows("train")[-1])
    )
    # One query is a copy of a gallery image, another of a train image.
    second = tmp_path / clean.location(int(found.queries[-1]))[1]
    shutil.copyfile(searched, query)
    shutil.copyfile(learnt, second)
    index = made(layout, tmp_path)

    def contents(numbers):
        boxes = index.column("box") if "box" in index.table.column_names else [None] * len(index)
        return {
            (tmp_path.joinpath(index.location(int(row))[1]).read_bytes(), str(boxes[row])) for row in numbers
        }

    again = roles(index, "test")
    assert contents(again.queries).isdisjoint(contents(again.gallery) | contents(index.rows("train")))
    assert any(
        "duplicates" in note or "byte for byte" in note for note in set(index.notes) - set(clean.notes)
    )
    assert len(index) < len(clean)


def test_queries_of_which_the_gallery_has_a_copy_leave_and_train_leaves_for_both():
    table = to_table(
        {
            "path": list("abcdefgh"),
            "split": ["test"] * 5 + ["train"] * 3,
            "role": ["gallery", "query", "query", "query", "gallery", None, "query", "gallery"],
        }
    )
    contents = pa.array(["1", "1", "2", None, "3", "2", "4", "4"])
    clean, notes = without_copies(table, contents)
    assert clean.column("path").to_pylist() == ["a", "c", "d", "e", "h"]
    assert notes == {
        "exact duplicates of other splits removed from train": 1,
        "exact duplicates of gallery images removed from the queries of test": 1,
        "exact duplicates of gallery images removed from the queries of train": 1,
    }


def test_look_alikes_leave_the_queries_whatever_their_gain_format_and_depth(tmp_path):
    make_infrared_folder(tmp_path, splits={"train": 6, "val": 3, "test": 3}, bits=16)
    with Image.open(tmp_path / "train/car/0000.png") as opened:
        levels = np.asarray(opened).astype(float)
    stretched = (levels - levels.min()) / np.ptp(levels) * 200 + 20
    Image.fromarray(stretched.astype(np.uint8)).save(tmp_path / "test/car/twin.png")
    Image.fromarray((levels * 1.1 + 300).astype(np.uint16)).save(tmp_path / "val/car/twin.tiff")
    # A twin of val is one of train, too: val is carved from it.
    Image.fromarray((levels * 0.9).astype(np.uint16)).save(tmp_path / "val/car/second.tiff")
    index = made(partial(infrared_folder.index, near_duplicates=0.995), tmp_path)
    assert [path for path in index.column("path") if "twin" in path or "second" in path] == []
    assert index.notes == {
        "queries removed from val that look like an image they search or learn from": 2,
        "queries removed from test that look like an image they search or learn from": 1,
    }
    assert len(made(infrared_folder.index, tmp_path)) == len(index) + 3, "null looks for none"


def thumbnail(path, box=None):
    """16 x 16 means by hand, of images whose sides are multiples of 16."""
    with Image.open(path) as opened:
        pixels = np.asarray(opened).astype(float)
    if box:
        pixels = pixels[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])]
    height, width = (side // 16 for side in pixels.shape)
    small = pixels.reshape(16, height, 16, width).mean((1, 3)).ravel()
    small -= small.mean()
    return small / np.linalg.norm(small)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_look_alikes_are_those_of_a_double_loop(tmp_path, threshold):
    rows = []
    for number in range(40):
        path = f"{number}.png"
        make_infrared(tmp_path / path, kind=number % 4, seed=number, size=(64, 48))
        split, role = [("train", "gallery"), ("train", "query"), ("test", "gallery"), ("test", "query")][
            number // 10
        ]
        rows.append(
            {"path": path, "split": split, "role": role, "box": [0, 16, 32, 48] if number % 2 else None}
        )
    table = pa.Table.from_pylist(rows)
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    index = Index(to_table({**columns, "root": [0] * 40}), (tmp_path,), "")
    looks = [thumbnail(tmp_path / row["path"], row["box"]) for row in rows]
    gone = {
        query
        for query in range(30, 40)
        if any(looks[query] @ looks[other] >= threshold for other in range(30))
    }
    kept, notes = without_near(index, threshold)
    assert kept.column("path").to_pylist() == [row["path"] for n, row in enumerate(rows) if n not in gone]
    assert sum(notes.values()) == len(gone)
    assert gone, "the threshold is one that finds some"


def test_constant_and_damaged_images_look_like_nothing(tmp_path):
    make_infrared_folder(tmp_path, splits={"train": 2, "test": 2}, classes=("a", "b"))
    for split in ("train", "test"):
        level = 100 if split == "train" else 90
        Image.fromarray(np.full((32, 32), level, np.uint8)).save(tmp_path / split / "a" / "flat.png")
    (tmp_path / "test/a/half.png").write_bytes((tmp_path / "test/a/0000.png").read_bytes()[:60])
    index = made(partial(infrared_folder.index, near_duplicates=0.9), tmp_path)
    assert "test/a/flat.png" in index.column("path")
    assert index.notes["images that can't be read and so were not compared with others"] == 1


def test_twenty_thousand_thumbnails_are_compared_in_seconds():
    from tapetum.indexes.duplicates import _best

    looks = torch.nn.functional.normalize(torch.randn(20_000, 256, generator=torch.manual_seed(0)), dim=1)
    began = time.perf_counter()
    best = _best(looks[:4000], looks[4000:])
    assert time.perf_counter() - began < 20
    np.testing.assert_allclose(best[:20], (looks[:20] @ looks[4000:].T).amax(1).numpy(), rtol=1e-5)


def test_what_was_found_is_kept_with_the_index(tmp_path, monkeypatch):
    root = make_infrared_folder(tmp_path / "data", splits={"train": 4, "test": 2})
    layout = partial(infrared_folder.index, near_duplicates=0.6)
    first = made(layout, root, cache=tmp_path / "cache")
    monkeypatch.setattr("tapetum.indexes.build.without_near", lambda *_: pytest.fail("compared again"))
    assert made(layout, root, cache=tmp_path / "cache").notes == first.notes
