"""Captions of one's own: an image_text_folder, and tar archives."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from functools import partial

import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.images.sources import read_bytes
from tapetum.indexes import caption_tars, image_text_folder
from tapetum.indexes.build import build
from tapetum.indexes.walk import MissingFolder

from layouts import (
    SPLITS,
    captions_of,
    make_caption_tars,
    make_captioned,
    make_image_text_folder,
)

SAY = ": write what is to be seen on the image, or take the caption out"


def rows(listing):
    return listing.table.to_pylist()


def made(layout, root, **options):
    required = {"required": ("captions",), "seed": 0, "cache": None, "name": "mine"}
    return build(layout, root=root, **required | options)


def says(message):
    return pytest.raises(DataError, match=f"^{re.escape(message)}$")


# --- image_text_folder ---


@pytest.mark.parametrize("form", ["text", "manifest", "manifests"])
def test_folder_with_splits_is_read_in_each_form(tmp_path, form):
    index = made(image_text_folder.index, make_image_text_folder(tmp_path, form=form))
    assert index.counts() == {split: {"images": number} for split, number in SPLITS.items()}
    assert {*index.table.column_names} - {"root"} == {*image_text_folder.COLUMNS}
    first = index.rows("val")[:2]
    assert [index.location(row)[1] for row in first] == ["val/0000.jpg", "val/0001.png"]
    second = captions_of(1, 1 if form == "text" else 2)
    assert [index.column("captions")[row] for row in first] == [captions_of(0, 1), second]


def test_folder_without_splits_is_split_by_the_bytes_and_keeps_copies_together(tmp_path):
    make_image_text_folder(tmp_path, splits={"": 60})
    for number in range(0, 60, 6):
        copy = tmp_path / f"{number + 3:04d}.jpg"
        copy.write_bytes((tmp_path / f"{number:04d}.jpg").read_bytes())
    index = made(partial(image_text_folder.index, test_fraction=0.3), tmp_path, val_fraction=0.3)
    assert {*index.counts()} == {"train", "val", "test"}
    split = dict(zip(index.column("path"), index.column("split"), strict=True))
    assert all(split[f"{n:04d}.jpg"] == split[f"{n + 3:04d}.jpg"] for n in range(0, 60, 6))
    assert made(image_text_folder.index, tmp_path, limit=7).counts()["train"] == {"images": 7}


def test_splits_may_have_roots_of_their_own_each_with_its_manifest(tmp_path):
    make_image_text_folder(tmp_path, form="manifests")
    roots = {split: tmp_path / split for split in ("train", "test")}
    index = made(image_text_folder.index, None, roots=roots, val_fraction=0)
    assert index.counts() == {"train": {"images": 24}, "test": {"images": 8}}
    assert index.location(0) == (tmp_path / "train", "0000.jpg")


def test_folders_of_any_depth_and_endings_in_any_case_are_read(tmp_path):
    make_captioned(tmp_path, ["a/b/c.d.JPEG", "x.webp"])
    (tmp_path / "a/b/c.d.TXT").write_bytes(b"\xef\xbb\xbf  ein Caf\xc3\xa9\r\n")
    (tmp_path / "x.txt").write_text("cafe\u0301\u2028 🐕 \nsecond line")
    listing = image_text_folder.index(tmp_path)
    assert {row["path"]: row["captions"] for row in rows(listing)} == {
        "a/b/c.d.JPEG": ["ein Café"],
        "x.webp": ["cafe\u0301\u2028 🐕 \nsecond line"],
    }
    assert listing.notes == {"captions of several lines (kept as they are)": 1}


def test_images_that_a_manifest_does_not_name_are_counted(tmp_path):
    make_captioned(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "mine.json").write_text('{"./b.jpg": "x"}')
    listing = image_text_folder.index(tmp_path, manifest="mine.json")
    assert [row["path"] for row in rows(listing)] == ["b.jpg"]
    assert listing.notes == {"images left out that mine.json does not name": 2}


def test_manifest_can_be_switched_off_but_not_be_missing(tmp_path):
    make_captioned(tmp_path, ["a.jpg"])
    (tmp_path / "manifest.json").write_text('{"a.jpg": "of the manifest"}')
    (tmp_path / "a.txt").write_text("of the text")
    assert rows(image_text_folder.index(tmp_path))[0]["captions"] == ["of the manifest"]
    assert rows(image_text_folder.index(tmp_path, manifest=None))[0]["captions"] == ["of the text"]
    missing = tmp_path / "other.json"
    with says(f"{missing} is not a file: type data.index.manifest=<a file below {tmp_path}>"):
        image_text_folder.index(tmp_path, manifest="other.json")


def test_text_that_is_edited_in_place_is_read_anew(tmp_path):
    make_image_text_folder(tmp_path / "set", splits={"": 4})
    first = made(image_text_folder.index, tmp_path / "set", cache=tmp_path / "cache")
    (tmp_path / "set" / "0002.txt").write_text("something else")
    second = made(image_text_folder.index, tmp_path / "set", cache=tmp_path / "cache")
    assert ["something else"] in second.column("captions")
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        (["a.jpg", "b.jpg"], {"a.txt": "x"},
         "1 of 2 images below {root} have no caption: b.jpg. b.txt is missing: write it, or move the image "
         "away"),
        (["a.jpg"], {},
         "1 of 1 images below {root} have no caption: a.jpg. a.txt is missing: there is no .txt file at all, "
         "and no manifest.json in data.root: bring one or the other"),
        (["a.jpg"], {"a.txt": "x", "readme.txt": "y"},
         "1 of 2 captions below {root} have no image: readme.txt. Bring the image, or move the file away"),
        (["a.jpg"], {"a.txt": ""}, "the caption in {root}/a.txt is empty" + SAY),
        (["a.jpg"], {"a.txt": " \n\t\u3000"}, "the caption in {root}/a.txt is blank" + SAY),
        (["a.jpg"], {"a.txt": b"x\ncaf\xe9"}, "line 2 of {root}/a.txt is not UTF-8: save the file as UTF-8"),
        (["a.jpg", "a.png"], {"a.txt": "x"},
         "{root} holds a.jpg and a.png, two images with one caption, a.txt: rename one of them"),
        (["a.jpg"], {"a.txt": "x", "a.TXT": "x"},
         "{root} holds a.TXT and a.txt, two caption files of one image: rename one of them"),
        (["train/a.jpg", "other/b.jpg"], {"train/a.txt": "x", "other/b.txt": "x"},
         "{root} holds split folders (train) and others beside them (other): move the others away, or into "
         "the split they belong to"),
    ],
)  # fmt: skip
def test_images_and_texts_that_do_not_fit_are_named(tmp_path, images, texts, message):
    make_captioned(tmp_path, images)
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with says(message.format(root=tmp_path)):
        image_text_folder.index(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a.jpg": "x",\n "b.jpg": }',
         "{file} is not JSON: line 2, column 11: Expecting value. Mend that place, or write the file anew"),
        ('["a.jpg"]',
         '{file} is a list: it must be one object such as {"a.jpg": "a red square", "b.jpg": ["one caption", '
         '"another"]}'),
        ("{}",
         '{file} is empty: it must be one object such as {"a.jpg": "a red square", "b.jpg": ["one caption", '
         '"another"]}'),
        ('{"a.jpg": "x", "a.jpg": "y"}', "{file} has the key 'a.jpg' twice in one object: keep one"),
        ('{"a.jpg": "x", "./a.jpg": "y"}',
         "key './a.jpg' of {file} names a.jpg, as key 'a.jpg' of {file} does: name each image once, with all "
         "of its captions"),
        ('{"a.jpg": 3}', "key 'a.jpg' of {file} has a number (3): write a caption, or a list of captions"),
        ('{"a.jpg": null}', "key 'a.jpg' of {file} has null: write a caption, or a list of captions"),
        ('{"a.jpg": {"caption": "x"}}',
         "key 'a.jpg' of {file} has an object: write a caption, or a list of captions"),
        ('{"a.jpg": []}', "key 'a.jpg' of {file} has no caption: its list is empty"),
        ('{"a.jpg": ["x", true]}',
         "the caption in item 1 of key 'a.jpg' of {file} is true or false: write a text"),
        ('{"a.jpg": ["x", ""]}', "the caption in item 1 of key 'a.jpg' of {file} is empty" + SAY),
        ('{"a.jpg": "\\n"}', "the caption in key 'a.jpg' of {file} is blank" + SAY),
        ('{"a.jpg": "x", "sub/c.jpg": "y"}',
         "1 of 2 images with captions are not in {root}: sub/c.jpg; the first is that of key 'sub/c.jpg' of "
         "{file}. Bring them back, or take their captions out"),
        ('{"sub\\\\a.jpg": "y"}',
         "1 of 1 images with captions are not in {root}: sub\\a.jpg; the first is that of key "
         "'sub\\\\a.jpg' of {file}. Write / between folders"),
        ('{"../a.jpg": "y"}', "key '../a.jpg' of {file} leads out of {root}: write names relative to it"),
        ('{"manifest.json": "y"}',
         "1 of 1 images with captions are not in {root}: manifest.json; the first is that of key "
         "'manifest.json' of {file}. Bring them back, or take their captions out"),
    ],
)  # fmt: skip
def test_bad_manifest_is_named_with_its_key(tmp_path, content, message):
    make_captioned(tmp_path, ["a.jpg"])
    file = tmp_path / "manifest.json"
    file.write_text(content)
    with says(message.replace("{file}", str(file)).replace("{root}", str(tmp_path))):
        image_text_folder.index(tmp_path)


def test_manifests_above_and_in_a_split_are_one_too_many(tmp_path):
    make_image_text_folder(tmp_path, form="manifests")
    make_image_text_folder(tmp_path, form="manifest")
    with says(f"{tmp_path} holds manifest.json and test/manifest.json: keep the one, or the others"):
        image_text_folder.index(tmp_path)


def test_images_outside_the_splits_are_counted_or_refused(tmp_path):
    make_image_text_folder(tmp_path)
    make_captioned(tmp_path, ["stray.jpg"])
    assert image_text_folder.index(tmp_path).notes == {
        "images left out that lie outside every split folder": 1
    }
    make_image_text_folder(tmp_path, form="manifest")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"stray.jpg": "x"}))
    with pytest.raises(DataError, match=r"\(stray\.jpg\) has no split, but other rows have one"):
        made(image_text_folder.index, tmp_path)


def test_folder_that_is_not_there_and_arguments_out_of_range(tmp_path):
    with pytest.raises(MissingFolder):
        image_text_folder.index(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"data\.index\.test_fraction=1: must be at least 0"):
        image_text_folder.index(tmp_path, test_fraction=1)
    with pytest.raises(DataError, match="holds no images for mine"):
        made(image_text_folder.index, tmp_path)


# --- tar archives ---


def pack(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(("source", "count"), [("txt", 1), ("caption", 1), ("captions", 5)])
def test_captions_stand_beside_the_images_of_an_archive(tmp_path, source, count):
    index = made(caption_tars.index, make_caption_tars(tmp_path / "set", source=source))
    assert index.counts() == {split: {"images": number} for split, number in SPLITS.items()}
    row = index.rows("test")[3]
    root, path = index.location(row)
    assert path == "test-000000.tar::000000003.jpg"
    assert read_bytes(root, path)[:2] == b"\xff\xd8"
    assert index.column("captions")[row] == [one.strip() for one in captions_of(3, count)]


def test_archives_without_splits_are_split_by_hash(tmp_path):
    make_caption_tars(tmp_path / "set", splits={"00000": 40})
    layout = partial(caption_tars.index, test_fraction=0.3, copies="remove")
    index = made(layout, tmp_path / "set", val_fraction=0.3)
    assert {*index.counts()} == {"train", "val", "test"}
    assert {*index.table.column_names} - {"root"} == {*caption_tars.COLUMNS}
    assert Counter(index.column("split")) == Counter(
        made(layout, tmp_path / "set", val_fraction=0.3).column("split")
    )


@pytest.mark.parametrize(
    ("members", "captions", "message"),
    [
        ({"a.jpg": b"x"}, None,
         "none of the 1 images in the archives of {root} has a .txt beside it, or a .json with the key "
         "captions or caption: type data.index.captions=<key of .json>"),
        ({"a.jpg": b"x", "a.txt": b"y", "b.jpg": b"x"}, None,
         "0.tar::b.jpg has no caption: b.txt is not there (1 of 2 images). Name the source with "
         "data.index.captions=txt, or a key of .json"),
        ({"a.jpg": b"x", "a.json": b'{"text": "y"}', "b.jpg": b"x", "b.json": b"{}"}, "text",
         "0.tar::b.jpg has no caption: b.json is not there, or has no text (1 of 2 images). Name the source "
         "with data.index.captions=txt, or a key of .json"),
        ({"a.jpg": b"x", "a.txt": b" \n"}, None, "the caption in a.txt of 0.tar is empty" + SAY),
        ({"a.jpg": b"x", "a.txt": b""}, None, "the caption in a.txt of 0.tar is empty" + SAY),
        ({"a.jpg": b"x", "a.json": b'{"caption": 1}'}, None,
         "a.json of 0.tar, key caption is a number (1): must be a caption, or a list of captions"),
        ({"a.jpg": b"x", "a.json": b'{"captions": []}'}, None,
         "a.json of 0.tar, key captions is an empty list: must be a caption, or a list of captions"),
        ({"a.jpg": b"x", "a.json": b'{"captions": ["y", "\\t"]}'}, None,
         "the caption in item 1 of a.json of 0.tar, key captions is blank" + SAY),
        ({"a.jpg": b"x", "a.json": b'{"caption": "y"'}, None,
         "{root}/0.tar: the member a.json cannot be read (Expecting ',' delimiter: line 1 column 16 (char "
         "15)): write it anew"),
    ],
)  # fmt: skip
def test_archive_without_a_right_caption_is_named_with_the_member(tmp_path, members, captions, message):
    pack(tmp_path / "0.tar", members)
    with says(message.replace("{root}", str(tmp_path))):
        caption_tars.index(tmp_path, captions=captions)
