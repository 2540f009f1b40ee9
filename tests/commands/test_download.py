"""`tapetum download` against a hub on the loopback interface, through the real code."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import huggingface_hub.constants
import pytest
from tapetum.cli import main
from tapetum.commands.data_sets import DATA_SETS
from tapetum.commands.download import _NAMES, download
from tapetum.errors import DataError
from tapetum.fetching import hub as hub_module
from tapetum.images.sources import read_bytes
from tapetum.indexes import cifake, hf

from fetching.hub_server import Hub, serving
from layouts import make_hf

CIFAKE = "dragonintelligence/CIFAKE-image-dataset"
FLICKR = "nlphuji/flickr30k"


@pytest.fixture
def server(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_module, "_PAUSE", 0.01)
    with serving(Hub()) as running:
        yield running


def serve_cifake(server, folder, **options):
    """A copy on the hub with 24 + 24 train and 8 + 8 test images."""
    make_hf(folder, splits={"train": 24, "test": 8}, **options)
    files = [path for path in folder.rglob("*") if path.is_file()]
    server.files[CIFAKE] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def flickr_rows(count=6):
    rows = []
    for number in range(count):
        captions = [f"Two dogs, no. {number} .", f'A "quoted" café scene {number}!', *["x"] * 3]
        split = ("train", "val", "test")[number % 3]
        rows.append([json.dumps(captions), json.dumps([1, 2]), split, f"{number}.jpg", number])
    return rows


def serve_flickr(server, rows, members):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["raw", "sentids", "split", "filename", "img_id"])
    writer.writerows(rows)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    server.files[FLICKR] = {
        "flickr_annotations_30k.csv": text.getvalue().encode(),
        "flickr30k-images.zip": packed.getvalue(),
        "README.md": b"# Flickr30k",
    }


def test_cifake_lies_as_published_whatever_the_copy_numbers(server, tmp_path, capsys):
    for number, names in enumerate((("FAKE", "REAL"), ("REAL", "FAKE"), ("real", "fake"))):
        copy, folder = tmp_path / f"copy{number}", tmp_path / f"cifake{number}"
        serve_cifake(server, copy, names=names)
        assert main(["download", "cifake", str(folder), "--endpoint", server.url]) == 0
        table = cifake.index(folder).table
        found = Counter(zip(table["split"].to_pylist(), table["label"].to_pylist(), strict=True))
        assert found == {("train", 0): 24, ("train", 1): 24, ("test", 0): 8, ("test", 1): 8}
        written = {one.read_bytes() for one in (folder / "train" / "FAKE").iterdir()}
        listing = hf.index(copy, positive=[names[0] if names[0].casefold() == "fake" else names[1]]).table
        rows = listing.filter(
            [
                a == "train" and b == 1
                for a, b in zip(*(listing[c].to_pylist() for c in ("split", "label")), strict=True)
            ]
        )
        assert written == {read_bytes(copy, path) for path in rows["path"].to_pylist()}
        assert all(one.suffix == ".jpg" for one in (folder / "test" / "REAL").iterdir())
        record = json.loads((folder / "download.json").read_text())
        assert (record["repo"], record["revision"], record["complete"]) == (CIFAKE, server.commit, True)
        assert record["images"] == {"train/FAKE": 24, "train/REAL": 24, "test/FAKE": 8, "test/REAL": 8}
        assert {one.name for one in folder.iterdir()} == {"train", "test", "download.json"}
    printed = capsys.readouterr()
    assert "this copy of cifake is not as published: test/FAKE 8 (published: 10,000)" in printed.err
    assert f"tapetum check data=cifake data.root={tmp_path / 'cifake2'}" in printed.out.replace("\n", "")


def test_complete_data_is_left_alone_and_nobody_is_asked(server, tmp_path):
    serve_cifake(server, tmp_path / "copy")
    folder = tmp_path / "cifake"
    first = download("cifake", folder, endpoint=server.url)
    server.requests.clear()
    assert download("cifake", folder, endpoint=server.url) == first
    assert server.requests == []
    with pytest.raises(DataError, match=f"holds the revision {server.commit}, not v2"):
        download("cifake", folder, endpoint=server.url, revision="v2")
    with pytest.raises(DataError, match="name another folder"):
        download("flickr30k", folder, endpoint=server.url)


def test_unfinished_download_goes_on_at_the_commit_it_began_with(server, tmp_path):
    serve_cifake(server, tmp_path / "copy")
    folder = tmp_path / "cifake"
    server.cut, server.cuts = 3000, 10_000
    server.ranges = False
    with pytest.raises(DataError, match="type the same again to go on"):
        download("cifake", folder, endpoint=server.url)
    assert json.loads((folder / "download.json").read_text())["complete"] is False
    server.cuts, server.ranges = 0, True
    server.requests.clear()
    download("cifake", folder, endpoint=server.url)
    assert not [path for path, _ in server.requests if path.startswith("/api/")]
    assert any(headers.get("Range") == "bytes=3000-" for _, headers in server.requests)
    assert len(list(folder.rglob("*.jpg"))) == 64


def test_interrupted_process_keeps_what_came_and_the_next_goes_on(server, tmp_path):
    serve_cifake(server, tmp_path / "copy")
    folder = tmp_path / "cifake"
    server.slow = 0.05
    command = [sys.executable, "-m", "tapetum", "download", "cifake", str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not sum(one.stat().st_size for one in folder.rglob("*.part")) > 8000:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"To go on, type\n  tapetum download cifake {folder}" in said
    assert "Traceback" not in said
    server.slow = 0
    server.requests.clear()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert any("Range" in headers for _, headers in server.requests)
    assert len(list(folder.rglob("*.jpg"))) == 64


def test_flickr30k_lies_as_karpathy_published_it(server, tmp_path):
    rows = flickr_rows()
    images = {f"flickr30k-images/{row[3]}": f"image {row[3]}".encode() for row in rows}
    serve_flickr(
        server,
        rows,
        {**images, "__MACOSX/flickr30k-images/._0.jpg": b"fork", "flickr30k-images/.DS_Store": b""},
    )
    folder = tmp_path / "flickr30k"
    assert main(["download", "flickr30k", str(folder), f"--endpoint={server.url}"]) == 0
    written = json.loads((folder / "dataset_flickr30k.json").read_text(encoding="utf-8"))
    assert written["dataset"] == "flickr30k"
    assert [one["filename"] for one in written["images"]] == [row[3] for row in rows]
    assert [one["split"] for one in written["images"]] == [row[2] for row in rows]
    for image, row in zip(written["images"], rows, strict=True):
        assert [sentence["raw"] for sentence in image["sentences"]] == json.loads(row[0])
        assert image["sentids"] == [sentence["sentid"] for sentence in image["sentences"]]
        assert (folder / "flickr30k-images" / image["filename"]).read_bytes() == images[
            f"flickr30k-images/{row[3]}"
        ]
    assert written["images"][1]["sentences"][1]["tokens"] == ["a", "quoted", "caf", "scene", "1"]
    assert len(list((folder / "flickr30k-images").iterdir())) == len(rows)
    assert {one.name for one in folder.iterdir()} == {
        "flickr30k-images",
        "dataset_flickr30k.json",
        "download.json",
    }


@pytest.mark.parametrize(
    ("rows", "members", "message"),
    [
        (flickr_rows(), {"../x.jpg": b"1"}, r"holds '\.\./x\.jpg', which leads out of it"),
        (flickr_rows(), {"/etc/x.jpg": b"1"}, "which leads out of it"),
        (flickr_rows(), {"a/0.jpg": b"1", "b/0.jpg": b"2"}, r"holds 0\.jpg twice"),
        (flickr_rows(), {"flickr30k-images/0.jpg": b"1"}, r"lacks 5 of the images, the first is 1\.jpg"),
        ([], {"0.jpg": b"1"}, "holds no row"),
        ([['["a"]', "[1]", "train", "../../x.jpg", 0]], {"0.jpg": b"1"}, r"names the file '\.\./\.\./x"),
        ([['["a"]', "[1]", "restval", "0.jpg", 0]], {"0.jpg": b"1"}, "row 1 .* is of the split 'restval'"),
        ([['"a"', "[1]", "train", "0.jpg", 0]], {"0.jpg": b"1"}, "row 1 .* has no list of captions"),
        ([["a", "[1]", "train", "0.jpg", 0]], {"0.jpg": b"1"}, "is not the list of captions it should be"),
        ([['["a"]', "[1]", "train", "0.jpg", 0]] * 2, {"0.jpg": b"1"}, r"names 0\.jpg twice"),
    ],
)  # fmt: skip
def test_flickr30k_copy_with_something_wrong_is_refused(server, tmp_path, rows, members, message):
    serve_flickr(server, rows, members)
    folder = tmp_path / "in" / "flickr30k"
    with pytest.raises(DataError, match=message):
        download("flickr30k", folder, endpoint=server.url)
    assert {one.name for one in tmp_path.iterdir()} == {"in"}
    assert {one.name for one in (tmp_path / "in").iterdir()} == {"flickr30k"}
    assert json.loads((folder / "download.json").read_text())["complete"] is False


def test_damaged_zip_and_image_are_named(server, tmp_path):
    serve_flickr(server, flickr_rows(), {})
    server.files[FLICKR]["flickr30k-images.zip"] = b"PK no zip"
    with pytest.raises(DataError, match=r"flickr30k-images\.zip is no whole zip"):
        download("flickr30k", tmp_path / "flickr30k", endpoint=server.url)
    serve_cifake(server, tmp_path / "copy", names=("GOOD", "BAD"))
    with pytest.raises(DataError, match=r"'FAKE', which no image of .* it has BAD, GOOD"):
        download("cifake", tmp_path / "cifake", endpoint=server.url)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 1, "nothing to download: tapetum download cifake|flickr30k [DIR]"),
        (["cifak"], 1, "unknown data set cifak: did you mean cifake?"),
        (["imagenet"], 1, "data=hf data.index.repo=ORG/NAME"),
        (["cifake", "a", "b"], 1, "too many words"),
        (["cifake", "--endpont", "x"], 1, "did you mean --endpoint?"),
        (["cifake", "--endpoint"], 1, "--endpoint needs a value"),
        (["cifake", "FULL"], 1, "holds something that tapetum did not download"),
        (["cifake", "FILE"], 1, "is not a folder"),
        (["cifake", "NEW", "--endpoint", "http://127.0.0.1:9"], 1, "--endpoint https://<mirror>"),
    ],
)
def test_what_cannot_be_done_is_said(server, tmp_path, capsys, arguments, code, message):
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "mine.txt").write_text("mine")
    (tmp_path / "FILE").write_text("file")
    arguments = [str(tmp_path / one) if one.isupper() else one for one in arguments]
    assert main(["download", *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "NEW").exists()


def test_names_that_may_be_typed_are_those_that_can_be_fetched():
    assert set(_NAMES) == set(DATA_SETS)


def test_without_a_folder_it_goes_where_the_config_looks(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TAPETUM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    serve_cifake(server, tmp_path / "copy")
    assert main(["download", "cifake", "--revision", server.commit]) == 0
    assert Path(tmp_path / "data" / "cifake" / "train" / "REAL").is_dir()
