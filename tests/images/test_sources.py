"""Bytes from files, tar archives and parquet files."""

import io
import os
import tarfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tapetum.errors import DataError, ImageError
from tapetum.images import parquet_images, sources
from tapetum.images.decode import Limits
from tapetum.images.sources import read_bytes, read_image


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def png(value=7):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def everywhere(tmp_path):
    """The same image as a file, a tar member and rows of two kinds of parquet; the paths that name it."""
    data = png()
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "x.JPG").write_bytes(data)
    (tmp_path / "odd::name.png").write_bytes(data)
    write_tar(tmp_path / "t.tar", {"dir/other.png": png(1), "dir/x::y.png": data})
    rows = [png(0), png(1), png(2), data]
    pq.write_table(pa.table({"label": [0, 1, 0, 1], "bytes": rows}), tmp_path / "p.parquet", row_group_size=3)
    structs = [{"bytes": row, "path": "x.png"} for row in rows]
    pq.write_table(pa.table({"image": structs, "thumbnail": structs[::-1]}), tmp_path / "hf.parquet")
    return tmp_path, ["a b/x.JPG", "odd::name.png", "t.tar::dir/x::y.png", "p.parquet::3", "hf.parquet::3"]


def test_the_same_bytes_come_from_everywhere(everywhere):
    root, paths = everywhere
    for path in paths:
        assert read_bytes(root, path) == png()
        assert torch.equal(read_image(root, path, channels=1), torch.full((1, 4, 5), 7, dtype=torch.uint8))


def test_limit_of_bytes_holds_everywhere(everywhere):
    root, paths = everywhere
    for path in paths:
        with pytest.raises(ImageError, match=f"the file has {len(png())} bytes, more than the 20"):
            read_bytes(root, path, limits=Limits(max_bytes=20))


@pytest.mark.parametrize(
    ("path", "kind", "reason"),
    [
        ("nothing.png", ImageError, "the file does not exist"),
        ("a b", ImageError, "not a regular file but a directory"),
        ("pipe", ImageError, "not a regular file but a pipe, socket or device"),
        ("empty.png", ImageError, r"the file is empty \(0 bytes\)"),
        ("a b/x.JPG/y", ImageError, "the file cannot be opened: Not a directory"),
        ("null\0byte", ImageError, "the file cannot be opened"),
        ("t.tar::nothing.png", ImageError, "the archive has no member 'nothing.png'"),
        ("d.tar::dir", ImageError, "the member 'dir' is a directory"),
        ("d.tar::link", ImageError, "the member 'link' is not a regular file"),
        ("none.tar::x", DataError, "the archive .*none.tar cannot be opened: No such file or directory"),
        ("not.tar::x", DataError, "not.tar is not a whole, uncompressed tar archive"),
        ("gz.tar::x", DataError, "unpack it, or make it anew with `tar -cf`"),
        ("cut.tar::dir/x::y.png", DataError, "cut.tar is not a whole, uncompressed tar archive"),
        ("p.parquet::4", ImageError, "no row '4' in the parquet file: it has rows 0 to 3"),
        ("p.parquet::-1", ImageError, "no row '-1'"),
        ("p.parquet::x", ImageError, "no row 'x'"),
        ("null.parquet::0", ImageError, "column 'image' holds no bytes in this row"),
        ("none.parquet::0", DataError, "none.parquet cannot be opened"),
        ("not.parquet::0", DataError, "not.parquet is not a parquet file"),
        ("two.parquet::0", DataError, "needs one column with image bytes, or one called image; it has a, b"),
        ("zero.parquet::0", DataError, "it has none of label"),
    ],
)
def test_what_is_missing_or_wrong_is_named(everywhere, path, kind, reason):
    root, _ = everywhere
    os.mkfifo(root / "pipe")
    (root / "empty.png").touch()
    (root / "not.tar").write_bytes(b"no archive" * 100)
    (root / "not.parquet").write_bytes(b"no archive" * 100)
    (root / "cut.tar").write_bytes((root / "t.tar").read_bytes()[:1600])
    with tarfile.open(root / "gz.tar", "w:gz") as archive:
        archive.add(root / "a b" / "x.JPG", "x")
    with tarfile.open(root / "d.tar", "w") as archive:
        for name, member_type in (("dir", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type = member_type
            archive.addfile(member)
    pq.write_table(pa.table({"image": pa.array([None], pa.binary())}), root / "null.parquet")
    pq.write_table(pa.table({"a": [b"1"], "b": [b"2"]}), root / "two.parquet")
    pq.write_table(pa.table({"label": [1]}), root / "zero.parquet")
    with pytest.raises(kind, match=reason) as error:
        read_bytes(root, path)
    assert type(error.value) is kind
    assert kind is DataError or str(root) not in str(error.value)


def test_hard_link_in_a_tar_is_followed(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    os.link(tmp_path / "a.png", tmp_path / "b.png")
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        archive.add(tmp_path / "a.png", "a.png")
        archive.add(tmp_path / "b.png", "b.png")
        assert archive.getmember("b.png").islnk()
    assert read_bytes(tmp_path, "t.tar::b.png") == png()


def test_last_of_two_members_with_one_name_counts_as_in_tar(tmp_path):
    write_tar(tmp_path / "t.tar", {"x": b"first"})
    with tarfile.open(tmp_path / "t.tar", "a") as archive:
        member = tarfile.TarInfo("x")
        member.size = 6
        archive.addfile(member, io.BytesIO(b"second"))
    assert read_bytes(tmp_path, "t.tar::x") == b"second"


def test_archive_is_read_anew_when_it_changes(tmp_path):
    path = tmp_path / "t.tar"
    write_tar(path, {"x": b"old"})
    assert read_bytes(tmp_path, "t.tar::x") == b"old"
    write_tar(path, {"before": b"1" * 2000, "x": b"new!"})
    assert read_bytes(tmp_path, "t.tar::x") == b"new!"


def test_archive_is_opened_once(tmp_path, monkeypatch):
    write_tar(tmp_path / "t.tar", {str(i): bytes([i]) for i in range(20)})
    opened = []
    original = tarfile.open
    monkeypatch.setattr(
        tarfile, "open", lambda *args, **options: opened.append(1) or original(*args, **options)
    )
    for i in range(20):
        assert read_bytes(tmp_path, f"t.tar::{i}") == bytes([i])
    assert len(opened) == 1


def test_more_archives_than_are_kept_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for i in range(60):
        write_tar(tmp_path / f"{i}.tar", {"x": bytes([i])})
    for _ in range(2):
        for i in range(60):
            assert read_bytes(tmp_path, f"{i}.tar::x") == bytes([i])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 20


def test_threads_read_the_right_members(tmp_path):
    for name in range(20):  # more archives than are kept, so that some are let go while they are read
        write_tar(tmp_path / f"{name}.tar", {str(i): f"{name}-{i}".encode() * 50 for i in range(30)})
    rows = [f"row-{i}".encode() for i in range(40)]
    pq.write_table(pa.table({"image": rows}), tmp_path / "p.parquet", row_group_size=7)
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            name, i = int(rng.integers(20)), int(rng.integers(30))
            if read_bytes(tmp_path, f"{name}.tar::{i}") != f"{name}-{i}".encode() * 50:
                wrong.append((name, i))
            if read_bytes(tmp_path, f"p.parquet::{i}") != rows[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_worker_reads_even_if_a_lock_was_held(tmp_path):
    write_tar(tmp_path / "t.tar", {"x": b"1"})
    pq.write_table(pa.table({"image": [b"2"]}), tmp_path / "p.parquet")
    read_bytes(tmp_path, "t.tar::x")
    read_bytes(tmp_path, "p.parquet::0")
    with sources._lock:
        child = os.fork()
        if child == 0:
            right = read_bytes(tmp_path, "t.tar::x") == b"1" and read_bytes(tmp_path, "p.parquet::0") == b"2"
            os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("order", ["random", "ascending", "descending"])
def test_large_row_group_is_read_in_parts_that_are_right(tmp_path, monkeypatch, order):
    monkeypatch.setattr(parquet_images, "_WHOLE_BYTES", 10_000)
    monkeypatch.setattr(parquet_images, "_PART_BYTES", 3_000)
    rows = [f"row-{i}".encode() * (1 + i % 50) for i in range(401)]
    pq.write_table(pa.table({"image": rows, "other": rows}), tmp_path / "p.parquet", row_group_size=300)
    wanted = np.arange(401) if order != "descending" else np.arange(401)[::-1]
    if order == "random":
        np.random.default_rng(0).shuffle(wanted)
    for i in wanted:
        assert read_bytes(tmp_path, f"p.parquet::image:{i}") == rows[i]
    with pytest.raises(ImageError, match="no row '401'"):
        read_bytes(tmp_path, "p.parquet::image:401")
    with pytest.raises(DataError, match="has no column 'img' with image bytes: it has image, other"):
        read_bytes(tmp_path, "p.parquet::img:0")


def test_row_groups_kept_are_bounded_in_bytes():
    groups = parquet_images.RowGroups(kept_bytes=1000)
    arrays = [pa.array([bytes(300)]) for _ in range(20)]
    for number, array in enumerate(arrays):
        groups.put(("file", number), array)
        assert groups.get(("file", number)) is array
        kept = [one for one in range(20) if groups.get(("file", one)) is not None]
        assert sum(arrays[one].nbytes for one in kept) <= 1000
        assert kept[-1] == number
    huge = pa.array([bytes(5000)])
    groups.put(("file", 99), huge)
    assert groups.get(("file", 99)) is huge
    assert groups.get(("file", 19)) is None


def test_headers_of_many_archives_are_read_once_each(tmp_path, monkeypatch):
    for name in range(40):  # more than are kept open
        write_tar(tmp_path / f"{name}.tar", {str(i): f"{name}-{i}".encode() for i in range(3)})
    opened = []
    original = tarfile.open
    monkeypatch.setattr(
        tarfile, "open", lambda *args, **options: opened.append(1) or original(*args, **options)
    )
    for i in range(3):
        for name in range(40):
            assert read_bytes(tmp_path, f"{name}.tar::{i}") == f"{name}-{i}".encode()
    assert len(opened) == 40
