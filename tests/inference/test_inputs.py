"""What counts as an image, in which order, and what is said of the rest."""

import csv
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tapetum.errors import DataError
from tapetum.inference.inputs import find_images, shown

from layouts import make_image


def touch(root, *names):
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(inputs, root):
    return [os.path.relpath(path, root) for path in find_images(inputs).paths]


def test_a_folder_gives_its_images_at_any_depth_and_counts_the_rest(tmp_path):
    touch(tmp_path, "b.JPG", "a/z.png", "a/b/c.tiff", "notes.txt", "a/Thumbs.db", "._b.JPG", ".git/x.png")
    touch(tmp_path, "__MACOSX/b.jpg")
    images = find_images(tmp_path)
    assert images.paths == [str(tmp_path / name) for name in ("a/b/c.tiff", "a/z.png", "b.JPG")]
    assert images.notes == {
        "files left out that are no images by their ending": 2,
        "hidden files and folders left out": 3,
    }


def test_several_inputs_keep_their_order_and_every_mention(tmp_path):
    touch(tmp_path, "b/1.jpg", "a/1.jpg", "c.jpg")
    images = find_images([tmp_path / "b", tmp_path / "c.jpg", tmp_path / "a", tmp_path / "c.jpg"])
    assert [os.path.relpath(path, tmp_path) for path in images.paths] == [
        "b/1.jpg",
        "c.jpg",
        "a/1.jpg",
        "c.jpg",
    ]
    assert images.notes == {"paths named more than once, with a row each time": 1}


def test_links_in_circles_end_and_linked_folders_are_followed(tmp_path):
    touch(tmp_path, "in/a.jpg", "elsewhere/b.jpg")
    for name in ("in/loop", "in/again"):
        (tmp_path / name).symlink_to(tmp_path / "in")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "self.jpg").symlink_to("self.jpg")
    assert found(tmp_path / "in", tmp_path) == ["in/a.jpg", "in/other/b.jpg", "in/self.jpg"]
    assert found(str(tmp_path / "in" / "**" / "*.jpg"), tmp_path) == ["in/a.jpg", "in/self.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("?.*", ["a.jpg", "b.jpg", "c.png"]),
        ("**/*.jpg", ["a.jpg", "b.jpg", "deep/er/d.jpg"]),
        ("**", ["a.jpg", "b.jpg", "c.png", "deep/er/d.jpg"]),
        ("[ac].*", ["a.jpg", "c.png"]),
        ("*.gif", ["e.gif"]),
        ("deep/../*.png", ["c.png"]),
        (".hid*/*", [".hidden/f.jpg"]),
        ("lists/*.txt", ["a.jpg"]),
    ],
)
def test_a_pattern_gives_the_files_that_match(tmp_path, monkeypatch, pattern, expected):
    touch(
        tmp_path, "b.jpg", "a.jpg", "c.png", "deep/er/d.jpg", "e.gif", "notes.md", ".hidden/f.jpg", ".g.jpg"
    )
    touch(tmp_path, "folder.jpg/.keep")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "one.txt").write_text("a.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert [os.path.normpath(path) for path in find_images(pattern).paths] == expected
    absolute = [os.path.relpath(path, tmp_path) for path in find_images(str(tmp_path / pattern)).paths]
    assert [os.path.normpath(path) for path in absolute] == expected


def test_lists_keep_their_order_and_their_odd_names(tmp_path):
    names = ["z.jpg", "a, b.jpg", 'quo"te.jpg', "z.jpg", "ü.jpg", " space .jpg"]
    (tmp_path / "list.txt").write_text("\ufeff" + "\r\n".join(names[:3]) + "\n\n" + "\n".join(names[3:]))
    assert find_images(tmp_path / "list.txt").paths == names
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["n", "path"], *([0, name] for name in [*names, "new\nline.jpg"])])
    assert find_images(tmp_path / "list.csv").paths == [*names, "new\nline.jpg"]


def test_names_that_are_not_utf8_are_found_and_shown(tmp_path):
    try:
        touch(tmp_path, b"caf\xe9.jpg")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    images = find_images(tmp_path)
    assert Path(images.paths[0]).exists()
    assert shown(images.paths[0]) == rf"{tmp_path}/caf\xe9.jpg"
    assert images.notes == {r"paths that are not UTF-8, written with \x..": 1}
    (tmp_path / "list.txt").write_bytes(os.fsencode(images.paths[0]) + b"\n")
    assert find_images(tmp_path / "list.txt").paths == images.paths


def test_archives_give_their_images(tmp_path):
    image = make_image(tmp_path / "a.png", generated=True)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("x/2.png", "x/1.png", "notes.txt", "x/._1.png", ".y/3.png"):
            archive.add(image, name)
    images = find_images(tmp_path / "a.tar")
    assert images.paths == [f"{tmp_path}/a.tar::x/2.png", f"{tmp_path}/a.tar::x/1.png"]
    assert sum(images.notes.values()) == 3
    pq.write_table(pa.table({"image": [b"1", b"2"], "n": [1, 2]}), tmp_path / "a.parquet")
    assert find_images(tmp_path / "a.parquet").paths == [f"{tmp_path}/a.parquet::{row}" for row in (0, 1)]
    assert find_images(f"{tmp_path}/a.tar::x/1.png").paths == [f"{tmp_path}/a.tar::x/1.png"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent", None, "absent: there is no such file or folder, and it is no pattern"),
        ("absent.tar::a.jpg", None, "there is no such file or folder"),
        ("nothing*.jpg", None, r"holds no image: files that end in .bmp, .*\(nor any other file\)"),
        ("a**b", None, "."),
        ("empty.txt", b"\n\n", "empty.txt holds no image: it has no row with one"),
        ("empty.csv", b"", "has no column path; it has nothing"),
        ("other.csv", b"file,label\na,b\n", "other.csv has no column path; it has file, label"),
        ("rows.csv", b"path\n", "rows.csv holds no image: it has no row with one"),
        ("blank.csv", b"n,path\n1,\n", "blank.csv, line 2, has no path"),
        ("short.csv", b"n,path\n1\n", "short.csv, line 2, has no path"),
        ("quote.csv", b'path\n"a\n', "quote.csv, line 1, is not csv: unexpected end of data"),
        ("nul.csv", b"path\n" + b"a" * 200_000 + b"\n", "is not csv: field larger than field limit"),
        ("bad.tar", b"no tar", "bad.tar is not a whole, uncompressed tar archive"),
        ("bad.parquet", b"no parquet", "bad.parquet is not a parquet file"),
    ],
)
def test_what_holds_no_image_is_said(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        find_images(str(tmp_path / name))


def test_a_folder_without_an_image_says_what_was_looked_for_and_what_was_there(tmp_path):
    touch(tmp_path, "a.gif", "b.heic", ".c.jpg")
    with pytest.raises(DataError) as error:
        find_images(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds no image: files that end in .bmp, .dib, .jfif, .jpe, .jpeg, .jpg, .png, .tif, "
        ".tiff, .webp (in any case) were looked for, and there is none (files left out that are no images by "
        "their ending: 2; hidden files and folders left out: 1)"
    )


def test_no_input_is_an_error():
    with pytest.raises(DataError, match="no input"):
        find_images([])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    touch(tmp_path, "open/a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        images = find_images(tmp_path)
        assert found(tmp_path, tmp_path) == ["open/a.jpg"]
        assert images.unlisted == {str(tmp_path / "closed"): "the folder cannot be listed: Permission denied"}
        with pytest.raises(DataError, match="closed: the folder cannot be listed: Permission denied"):
            find_images(tmp_path / "closed")
    finally:
        (tmp_path / "closed").chmod(0o700)
