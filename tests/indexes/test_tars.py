"""Tar archives as an Index: WebDataset shards and packed folders."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections import Counter
from functools import partial

import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.images.sources import read_bytes
from tapetum.indexes import cifake, tars
from tapetum.indexes.build import build

from layouts import make_cifake, make_tar_of, make_tars

NUMBERED = [("a.jpg", b"x"), ("a.cls", b"0\n"), ("b.jpg", b"x"), ("b.cls", b"1")]


def pack(path, members, *, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def rows(listing):
    return list(zip(*(listing.table[name].to_pylist() for name in ("path", "split", "label")), strict=True))


def test_shards_of_webdataset(tmp_path):
    listing = tars.index(make_tars(tmp_path))
    counted = Counter((split, label) for _, split, label in rows(listing))
    assert counted == {
        (split, label): n for split, n in (("train", 24), ("val", 8), ("test", 8)) for label in (0, 1)
    }
    for path, split, label in rows(listing):
        archive, _, member = path.partition("::")
        assert archive.startswith(split)
        assert member.startswith("fake" if label else "real")
        with tarfile.open(tmp_path / archive) as opened:
            assert read_bytes(tmp_path, path) == opened.extractfile(member).read()
    by_key = tars.index(tmp_path, generator="generator").table["generator"].to_pylist()
    assert by_key == ["gan" if label else None for _, _, label in rows(listing)]
    assert listing.table["generator"].to_pylist() == [
        "fake" if label else None for _, _, label in rows(listing)
    ]


def test_packed_cifake_is_what_the_folder_is(tmp_path):
    folder = make_cifake(tmp_path / "cifake")
    make_tar_of(folder, tmp_path / "packed" / "cifake.tar")
    listing = tars.index(tmp_path / "packed")
    expected = cifake.index(folder).table
    unpacked = zip(*(expected[name].to_pylist() for name in ("path", "split", "label")), strict=True)
    assert {
        (path.removeprefix("cifake.tar::cifake/"), split, label) for path, split, label in rows(listing)
    } == set(unpacked)
    assert all((folder / path.partition("::cifake/")[2]).read_bytes() == read_bytes(tmp_path / "packed", path)
               for path, _, _ in rows(listing))  # fmt: skip


@pytest.mark.parametrize(
    ("members", "arguments", "expected"),
    [
        (NUMBERED, {"real": [0], "generated": [1]}, [0, 1]),
        (NUMBERED, {"real": [1], "generated": [0]}, [1, 0]),
        ([("a.jpg", b"x"), ("a.txt", b"real"), ("b.png", b"x"), ("b.txt", b"Fake")],
         {"label": "txt"}, [0, 1]),
        ([("a.jpg", b"x"), ("a.json", b'{"is": true}'), ("b.jpg", b"x"), ("b.json", b'{"is": false}')],
         {"label": "is", "real": ["false"], "generated": ["true"]}, [1, 0]),
        ([("./real/a.jpg", b"x"), ("./fake/a.jpg", b"x")], {}, [0, 1]),
        ([("a.cls", b"x"), ("real/a.jpg", b"x"), ("fake/a.v2.jpg", b"x")], {"label": "folder"}, [0, 1]),
    ],
)  # fmt: skip
def test_labels_stand_beside_images_or_in_folders(tmp_path, members, arguments, expected):
    pack(tmp_path / "shard-000000.tar", members)
    assert tars.index(tmp_path, **arguments).table["label"].to_pylist() == expected


def test_text_that_is_no_label_is_the_caption(tmp_path):
    pack(tmp_path / "0.tar", [("a.jpg", b"x"), ("a.txt", "ein Café".encode()), ("b.jpg", b"x")])
    table = tars.index(tmp_path).table
    assert table["captions"].to_pylist() == [["ein Café"], None]
    assert "label" not in table.column_names
    with pytest.raises(DataError, match="has no column label"):
        build(tars.index, root=tmp_path, seed=1, cache=None, name="tars")


@pytest.mark.parametrize(
    ("archives", "expected"),
    [
        (["train-000000.tar", "valid-0.tar", "test.tar"], {"train", "val", "test"}),
        (["train/0.tar", "test/0.tar"], {"train", "test"}),
        (["shard-000000.tar"], {None}),
    ],
)
def test_splits_by_archive(tmp_path, archives, expected):
    for name in archives:
        pack(tmp_path / name, [("real/a.jpg", b"x")])
    assert set(tars.index(tmp_path).table["split"].to_pylist()) == expected


@pytest.mark.parametrize(
    ("members", "arguments", "message"),
    [
        ([("../x/real/a.jpg", b"x")], {}, r"holds '\.\./x/real/a\.jpg', which leads out of it"),
        ([("/real/a.jpg", b"x")], {}, "which leads out of it"),
        ([("real/a.jpg", b"x"), ("real/a.jpg", b"y")], {}, r"holds real/a\.jpg twice"),
        ([("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"real")], {}, r"key a \(a\.jpg, a\.png\)"),
        ([("a.jpg", b"x"), ("b.jpg", b"x"), ("b.cls", b"real")], {}, r"a\.jpg has no label: a\.cls"),
        ([("a.jpg", b"x"), ("a.json", b"{")], {}, r"the member a\.json cannot be read"),
        ([("a.jpg", b"x"), ("a.txt", b"\xff")], {}, r"the member a\.txt cannot be read"),
        ([("a.jpg", b"x"), ("a.json", b"{}")], {"label": "kind"}, r"or lacks the key kind"),
        ([("a.jpg", b"x"), ("a.cls", b"0")], {}, r"'0' is not known\. There are: '0' \(1 images\)\."),
        ([("cats/a.jpg", b"x")], {}, "'cats' is not known.* 'data.index.real=.cats.'"),
        ([("real/fake/a.jpg", b"x")], {}, "lies in folders of both classes"),
        ([("notes.md", b"x")], {}, "holds no image in its 1 archives"),
        ([], {}, "holds no image in its 1 archives"),
    ],
)  # fmt: skip
def test_members_that_are_wrong_are_named(tmp_path, members, arguments, message):
    pack(tmp_path / "shard.tar", members)
    with pytest.raises(DataError, match=message):
        tars.index(tmp_path, **arguments)


def test_archive_and_folder_that_contradict_each_other(tmp_path):
    pack(tmp_path / "train.tar", [("test/real/a.jpg", b"x")])
    with pytest.raises(DataError, match="name says train, the folder in it test"):
        tars.index(tmp_path)
    with pytest.raises(ConfigError, match="both name 'A'"):
        tars.index(tmp_path, real=["a"], generated=["A", "a"])


@pytest.mark.parametrize(("name", "mode"), [("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar.xz", "w:xz")])
def test_compressed_archives_are_refused_with_advice(tmp_path, name, mode):
    pack(tmp_path / name, [("real/a.jpg", b"x")], mode=mode)
    with pytest.raises(DataError, match=f"{name} is compressed .*gunzip"):
        tars.index(tmp_path)
    (tmp_path / name).rename(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a\.tar is compressed with (gzip|xz).*: type (gunzip|unxz)"):
        tars.index(tmp_path)


def test_damaged_archives_are_named(tmp_path):
    file = pack(tmp_path / "a.tar", [(f"real/{number}.jpg", bytes([number]) * 700) for number in range(5)])
    whole = file.read_bytes()
    member = 512 + 1024
    for damaged in (
        whole[: 2 * member + 100],  # within a header
        whole[: 2 * member + 700],  # within an image
        whole[: 2 * member],  # between two members: nothing but the end mark is missing
        whole[: 2 * member] + b"\xff" * 512 + whole[2 * member + 512 :],  # a header that is none
        whole + whole,  # joined with cat
        b"no archive" * 200,
        b"",
    ):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.tar"):
            tars.index(tmp_path)
    file.write_bytes(whole)
    assert len(tars.index(tmp_path).table) == 5


def test_roots_that_are_no_folder_of_archives(tmp_path):
    file = pack(tmp_path / "a.tar", [("real/a.jpg", b"x")])
    with pytest.raises(DataError, match=f"is a file: type data.root={tmp_path}"):
        tars.index(file)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.tar file"):
        tars.index(tmp_path / "empty")


def test_hidden_and_foreign_members_are_counted(tmp_path):
    members = [("real/a.jpg", b"x"), ("real/._a.jpg", b"x"), ("__MACOSX/real/b.jpg", b"x"), ("read.me", b"x")]
    pack(tmp_path / "a.tar", members)
    listing = tars.index(tmp_path)
    assert len(listing.table) == 1
    assert listing.notes == {
        "hidden members left out": 2,
        "members left out that are neither images nor beside one": 1,
    }


def test_headers_are_read_once_and_again_when_an_archive_changes(tmp_path, monkeypatch):
    root = make_tars(tmp_path / "data", splits={"train": 8, "val": 2, "test": 2})
    time.sleep(0.05)  # what changed within 20 ms is listed twice
    opened = []
    original = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *args, **kw: opened.append(1) or original(*args, **kw))
    find = partial(build, tars.index, root=root, seed=1, cache=tmp_path / "cache", name="tars")
    first = find()
    assert len(opened) == 6
    assert find().fingerprint == first.fingerprint
    assert len(opened) == 6
    pack(root / "train-000000.tar", [("a.jpg", b"x"), ("a.json", b'{"label": "real"}')])
    time.sleep(0.05)
    opened.clear()
    assert len(find()) < len(first)
    assert len(opened) == 6


def test_ten_thousand_members_are_not_looked_through_for_each_image(tmp_path):
    names = [f"real/{number:05d}.jpg" for number in range(10_000)]
    pack(tmp_path / "a.tar", [(name, name.encode()) for name in names])
    assert read_bytes(tmp_path, f"a.tar::{names[0]}") == names[0].encode()
    began = time.perf_counter()
    for name in names[::-7]:
        assert read_bytes(tmp_path, f"a.tar::{name}") == name.encode()
    # Reading the headers takes half a second; once an image, these would take ten minutes.
    assert time.perf_counter() - began < 5


def test_json_label_that_is_a_number_is_text_all_the_same(tmp_path):
    content = json.dumps({"label": 1}).encode()
    pack(tmp_path / "a.tar", [("a.jpg", b"x"), ("a.json", content)])
    assert tars.index(tmp_path, real=[0], generated=[1]).table["label"].to_pylist() == [1]
