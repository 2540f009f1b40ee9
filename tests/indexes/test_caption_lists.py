"""Flickr30k, Flickr8k and MS COCO: published files of captions, and what may be wrong with them."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.images.sources import read_bytes
from tapetum.indexes import coco_captions, flickr8k, flickr30k
from tapetum.indexes.build import build
from tapetum.indexes.walk import MissingFolder

from layouts import (
    captions_of,
    make_captioned,
    make_coco_captions,
    make_flickr8k,
    make_flickr30k,
)


def rows(listing):
    return listing.table.to_pylist()


def made(layout, root, **options):
    required = {"required": ("captions",), "seed": 0, "cache": None, "name": "mine"}
    return build(layout, root=root, **required | options)


def write(root, name, content):
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def says(message):
    return pytest.raises(DataError, match=f"^{re.escape(message)}$")


# --- Flickr30k ---


@pytest.mark.parametrize("form", ["karpathy", "token", "csv"])
def test_flickr30k_has_the_same_captions_in_all_its_lists(tmp_path, form):
    listing = flickr30k.index(make_flickr30k(tmp_path, form=form, images=20))
    folder = "flickr30k_images/flickr30k_images" if form == "csv" else "flickr30k-images"
    found = rows(listing)
    assert [row["path"] for row in found] == [f"{folder}/{1000092795 + 7 * n}.jpg" for n in range(20)]
    assert [row["captions"] for row in found] == [[one.strip() for one in captions_of(n)] for n in range(20)]
    split = {8: "val", 9: "test"}
    expected = [split.get(n % 10, "train") if form == "karpathy" else None for n in range(20)]
    assert [row["split"] for row in found] == expected
    assert "group" not in listing.table.column_names


def test_flickr30k_of_the_hub_is_read_row_by_row_in_its_own_splits(tmp_path):
    make_flickr30k(tmp_path / "hub", form="parquet", images=20)
    make_flickr30k(tmp_path / "files", images=20)
    index = made(flickr30k.index, tmp_path / "hub")
    assert index.counts() == {
        split: {"images": number} for split, number in (("train", 16), ("val", 2), ("test", 2))
    }
    for row, name in enumerate(sorted((tmp_path / "files" / "flickr30k-images").iterdir())):
        root, path = index.location(row)
        assert path == f"TEST/test/{row // 10:04d}.parquet::{row % 10}"
        assert read_bytes(root, path) == name.read_bytes()
        assert index.column("captions")[row] == captions_of(row)


def test_images_that_karpathy_left_out_are_counted(tmp_path):
    make_flickr30k(tmp_path, images=10)
    make_captioned(tmp_path / "flickr30k-images", ["36979.jpg"])
    assert flickr30k.index(tmp_path).notes == {"images left out that dataset_flickr30k.json does not name": 1}


def test_file_that_is_read_can_be_chosen_and_the_others_are_named(tmp_path):
    make_flickr30k(tmp_path, images=10)
    make_flickr30k(tmp_path, form="token", images=10)
    listing = flickr30k.index(tmp_path)
    assert {row["split"] for row in rows(listing)} == {"train", "val", "test"}
    note = "files of captions not read, since dataset_flickr30k.json is: results_20130124.token"
    assert listing.notes == {note: 1}
    chosen = flickr30k.index(tmp_path, annotations="results_20130124.token")
    assert {row["split"] for row in rows(chosen)} == {None}
    with pytest.raises(DataError, match=r"x\.json is not a file: type data\.index\.annotations=<a file"):
        flickr30k.index(tmp_path, annotations="x.json")
    with pytest.raises(DataError, match=r"images=nowhere: .*nowhere is not a folder"):
        flickr30k.index(tmp_path, images="nowhere")
    with pytest.raises(DataError, match=r"images=\.\./x leads out of data\.root"):
        flickr30k.index(tmp_path, images="../x")


def test_known_broken_row_is_mended_and_counted_and_any_other_is_an_error(tmp_path):
    make_captioned(tmp_path / "flickr30k-images", ["2199200615.jpg"])
    head = "image_name| comment_number| comment\n2199200615.jpg| 3| A dog , running .\n"
    broken = "2199200615.jpg| 4   A dog runs across the grass .\n"
    file = write(tmp_path, "results.csv", head + broken)
    listing = flickr30k.index(tmp_path)
    assert rows(listing)[0]["captions"] == ["A dog , running .", "A dog runs across the grass ."]
    assert listing.notes == {"rows mended that lack a separator (2199200615.jpg, comment 4)": 1}
    file.write_text(head + broken.replace("the grass", "a street"))
    with says(
        f"line 3 of {file} is '2199200615.jpg| 4   A dog runs across a street .', not image| number| "
        "caption: mend it, or take it out"
    ):
        flickr30k.index(tmp_path)


SAY = ": write what is to be seen on the image, or take the caption out"
BOM, CRLF = b"\xef\xbb\xbf", b"\r\n"


@pytest.mark.parametrize(
    ("name", "head", "line"),
    [
        ("results_20130124.token", "", "a.jpg#{n}\t{text}"),
        ("results.csv", "image_name| comment_number| comment", "a.jpg| {n}| {text}"),
    ],
)
def test_byte_order_mark_line_ends_and_unusual_characters_leave_captions_as_they_are(
    tmp_path, name, head, line
):
    texts = [
        "cafe\u0301 and café",
        "雪の上の犬 🐕\u200d🦺",
        "a\u2028b\x0bc\x85d",
        'a "b" | c',
        "\u05d0 \u200f x",
    ]
    lines = [head] * bool(head) + [line.format(n=n, text=text) for n, text in enumerate(texts)]
    make_captioned(tmp_path / "images", ["a.jpg"])
    write(tmp_path, name, BOM + "\n".join(lines).encode().replace(b"\n", CRLF) + CRLF)
    assert rows(flickr30k.index(tmp_path))[0]["captions"] == texts


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.jpg#0 no tab"],
         "line 1 of {file} is 'a.jpg#0 no tab', not name.jpg#number, a tab and the caption"),
        (["a.jpg#0\tx", "", "a.jpg#1\t  "],
         "the caption in line 3 of {file} is blank" + SAY),
        (["a.jpg#0\t"],
         "the caption in line 1 of {file} is empty" + SAY),
        (["a.jpg#0\t\u200b\u00a0\u200b"],
         "the caption in line 1 of {file} is blank" + SAY),
        (["a.jpg#0\tx", "a.jpg#00\ty"],
         "line 2 of {file} is caption 00 of a.jpg, as line 1 of {file} is: keep one"),
        ([], "{file} holds no caption"),
        (["a.jpg#0\tx", "c.jpg#0\tz", "c.jpg#1\tz"],
         "1 of 2 images with captions are not in {root}/images: images/c.jpg; the first is that of line 2 of "
         "{file}. Did you mean images/a.jpg?"),
        (["b.jpg#0\tx"],
         "1 of 2 images have no caption in {file}: images/a.jpg. Add their captions, or move the images "
         "away"),
    ],
)  # fmt: skip
def test_bad_token_file_is_named_with_its_line(tmp_path, lines, message):
    make_captioned(tmp_path / "images", ["a.jpg", "b.jpg"])
    if "c.jpg" in message:
        (tmp_path / "images" / "b.jpg").unlink()
    file = write(tmp_path, "results_20130124.token", "\n".join(lines))
    with says(message.format(file=file, root=tmp_path)):
        flickr30k.index(tmp_path)


def test_bytes_that_are_no_utf_8_are_named_with_their_line(tmp_path):
    make_captioned(tmp_path / "images", ["a.jpg"])
    file = write(tmp_path, "results_20130124.token", b"a.jpg#0\tx\na.jpg#1\tcaf\xe9\n")
    with says(f"line 2 of {file} is not UTF-8: save the file as UTF-8"):
        flickr30k.index(tmp_path)


def entry(**other):
    return {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "a dog"}]} | other


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [\n{"filename": }]}',
         "{file} is not JSON: line 2, column 14: Expecting value. Mend that place, or write the file anew"),
        ([], '{file} is not an object with a list "images": it is not Karpathy\'s file'),
        ({"images": [entry(), 3]}, "images[1] of {file} is a number (3), not an object"),
        ({"images": [entry(filename=7)]},
         "images[0] of {file} has a number (7) as filename: must be a text"),
        ({"images": [{"split": "train"}]}, "images[0] of {file} has no filename: must be a text"),
        ({"images": [entry(split="dev")]},
         "images[0] of {file} (a.jpg) is of the split 'dev', known are train, val, test"),
        ({"images": [entry(sentences=[])]},
         "images[0] of {file} (a.jpg) has no caption: its sentences must be a list of objects with raw"),
        ({"images": [entry(sentences=[{"tokens": ["a"]}])]},
         "sentences[0] in images[0] of {file} (a.jpg) is not an object with raw"),
        ({"images": [entry(sentences=[{"raw": "x"}, {"raw": ["x"]}])]},
         "the caption in sentences[1] in images[0] of {file} (a.jpg) is a list: write a text"),
        ('{"images": [{"filename": "a.jpg", "split": "val", "sentences": [{"raw": "\\ud83d"}]}]}',
         "the caption in sentences[0] in images[0] of {file} (a.jpg) holds half a character ('\\ud83d', "
         "a lone surrogate): write it anew"),
        ({"images": [entry(), entry(split="val")]},
         "images[1] of {file} names a.jpg, as images[0] of {file} does: name each image once, with all of "
         "its captions"),
        ('{"images": [{"split": "train", "split": "val"}]}',
         "{file} has the key 'split' twice in one object: keep one"),
    ],
)  # fmt: skip
def test_bad_karpathy_file_is_named_with_its_entry(tmp_path, content, message):
    make_captioned(tmp_path / "images", ["a.jpg"])
    text = content if isinstance(content, str) else json.dumps(content)
    file = write(tmp_path, "dataset_flickr30k.json", text)
    with says(message.replace("{file}", str(file))):
        flickr30k.index(tmp_path)


def test_json_that_is_nested_without_end_is_no_json_of_captions(tmp_path):
    file = write(tmp_path, "dataset_flickr30k.json", "[" * 100_000)
    with says(f"{file} is not the JSON it should be: it is nested too deep"):
        flickr30k.index(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"caption": None},
         "{file} has no column caption, as nlphuji/flickr30k has; it has image, split, filename"),
        ({"image": ["a", "b"]}, "the column image of {file} holds no image bytes (string)"),
        ({"caption": ["one", "two"]}, "the column caption of {file} is string, must be list<item: string>"),
        ({"caption": [["x"], []]}, "row 1 of {file} (b.jpg) has no caption: every image needs one"),
        ({"caption": [["x"], None]}, "row 1 of {file} (b.jpg) has no caption: every image needs one"),
        ({"caption": [["x"], ["y", None]]}, "the caption in row 1 (b.jpg) of {file} is null: write a text"),
        ({"caption": [["x"], ["y", "\t"]]},
         "the caption in row 1 (b.jpg) of {file} is blank" + SAY),
        ({"split": ["train", "tset"]},
         "row 1 of {file} (b.jpg) is of the split 'tset': did you mean test? known are train, val, test"),
        ({"split": ["train", None]},
         "row 1 of {file} (b.jpg) is of the split None, known are train, val, test"),
        ({"filename": ["a.jpg", "a.jpg"]},
         "row 1 of {file} names a.jpg, as row 0 of {file} does: fetch the files anew"),
        ({"filename": ["a.jpg", ""]}, "row 1 of {file} has no filename: fetch the files anew"),
    ],
)  # fmt: skip
def test_bad_parquet_of_the_hub_is_named_with_its_row(tmp_path, changed, message):
    columns = {
        "image": [{"bytes": b"x", "path": "a.jpg"}, {"bytes": b"y", "path": "b.jpg"}],
        "caption": [["x"], ["y"]],
        "split": ["train", "test"],
        "filename": ["a.jpg", "b.jpg"],
    }
    kept = {name: values for name, values in (columns | changed).items() if values is not None}
    file = tmp_path / "0000.parquet"
    pq.write_table(pa.table(kept), file)
    with says(message.replace("{file}", str(file))):
        flickr30k.index(tmp_path)


def test_folder_that_is_no_flickr30k_says_what_is_looked_for(tmp_path):
    with pytest.raises(MissingFolder):
        flickr30k.index(tmp_path / "nowhere")
    with says(
        f"{tmp_path} holds none of dataset_flickr30k.json, results_20130124.token, results.csv, in itself or "
        "a folder of it, and no .parquet file: type data.root=<the folder of Flickr30k>, or "
        "data.index.annotations=<file>"
    ):
        flickr30k.index(tmp_path)
    write(tmp_path, "results_20130124.token", "a.jpg#0\tx\n")
    with pytest.raises(
        DataError, match=r"^no images in .*flickr30k-images, .*: type data\.index\.images=<the"
    ):
        flickr30k.index(tmp_path)


# --- Flickr8k ---


def test_flickr8k_without_lists_is_split_by_the_bytes_of_its_images(tmp_path):
    make_flickr8k(tmp_path, images=60)
    names = sorted((tmp_path / "Images").iterdir())
    for original, copy in zip(names[:20], names[20:40], strict=True):
        copy.write_bytes(original.read_bytes())
    index = made(partial(flickr8k.index, test_fraction=0.3), tmp_path, val_fraction=0.3)
    splits = index.column("split")
    assert {"train", "val", "test"} == {*splits}
    assert splits[:20] == splits[20:40], "copies of an image are of one split"
    assert all(len(one) == 5 for one in index.column("captions"))
    assert index.column("captions")[1] == [one.strip() for one in captions_of(1)]
    again = made(partial(flickr8k.index, test_fraction=0.3), tmp_path, val_fraction=0.3, seed=7)
    assert again.column("split") == splits, "without a seed"


def test_flickr8k_with_lists_has_their_splits(tmp_path):
    listing = flickr8k.index(make_flickr8k(tmp_path, images=20, lists=True))
    assert Counter(row["split"] for row in rows(listing)) == {"train": 14, "val": 2, "test": 2}
    assert listing.notes == {"images left out that no split list names": 2}
    assert made(flickr8k.index, tmp_path).counts()["val"] == {"images": 2}


def test_limit_takes_that_many_images_of_each_split_without_labels(tmp_path):
    make_flickr8k(tmp_path, images=40, lists=True)
    index = made(flickr8k.index, tmp_path, limit={"train": 10, "test": 3})
    assert index.counts() == {"train": {"images": 10}, "val": {"images": 4}, "test": {"images": 3}}
    more = made(flickr8k.index, tmp_path, limit={"train": 12, "test": 3})
    assert {*index.column("path")} < {*more.column("path")}


def test_captions_in_quotes_hold_commas_quotes_and_lines(tmp_path):
    make_captioned(tmp_path / "Images", ["a.jpg"])
    cells = [
        "image,caption",
        'a.jpg,"one, two"',
        'a.jpg,"say ""hi"""',
        'a.jpg,"two\nlines"',
        "",
        "a.jpg,\u2028é",
    ]
    content = "\r\n".join([*cells, ""])
    write(tmp_path, "captions.txt", BOM + content.encode())
    listing = flickr8k.index(tmp_path)
    assert rows(listing)[0]["captions"] == ["one, two", 'say "hi"', "two\nlines", "é"]
    assert listing.notes == {"captions of several lines (kept as they are)": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.jpg,x\n", "the first line of {file} names the columns a.jpg, x: it must be image,caption"),
        ("", "the first line of {file} names the columns none: it must be image,caption"),
        ("image,caption\na.jpg,a man, a dog\n",
         "line 2 of {file} has 3 cells, the header has 2: quote captions that hold commas"),
        ('image,caption\na.jpg,"two\nlines"\na.jpg,\n',
         "the caption in line 4 of {file} is empty" + SAY),
        ("image,caption\n,x\n", "line 2 of {file} names no image"),
        ('image,caption\na.jpg,"x"y\n',
         "{file} is not csv after line 2 (',' expected after '\"'): write quotes inside a quoted caption "
         "twice"),
        ("image,caption\nA.jpg,x\n",
         "1 of 1 images with captions are not in {root}/Images: Images/A.jpg; the first is that of line 2 of "
         "{file}. Did you mean Images/a.jpg?"),
        ("image,caption\n",
         "1 of 1 images have no caption in {file}: Images/a.jpg. Add their captions, or move the images "
         "away"),
    ],
)  # fmt: skip
def test_bad_captions_txt_is_named_with_its_line(tmp_path, content, message):
    make_captioned(tmp_path / "Images", ["a.jpg"])
    file = write(tmp_path, "captions.txt", content)
    with says(message.format(file=file, root=tmp_path)):
        flickr8k.index(tmp_path)


def test_name_in_another_unicode_form_is_told_apart(tmp_path):
    make_captioned(tmp_path / "Images", ["cafe\u0301.jpg"])
    write(tmp_path, "captions.txt", "image,caption\ncafé.jpg,x\n")
    with pytest.raises(DataError, match="is there in another Unicode form"):
        flickr8k.index(tmp_path)


def test_flickr8k_token_file_has_five_captions_of_an_image_that_never_was(tmp_path):
    make_captioned(tmp_path / "Flicker8k_Dataset", ["a.jpg"])
    stray = "2258277193_586949ec62.jpg.1"
    write(tmp_path, "text/Flickr8k.token.txt", f"a.jpg#0\tx\n{stray}#0\ty\n")
    listing = flickr8k.index(tmp_path)
    assert [row["path"] for row in rows(listing)] == ["Flicker8k_Dataset/a.jpg"]
    assert listing.notes == {f"images left out that never had a file: {stray}": 1}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": "a.jpg"},
         "{root} holds Flickr_8k.trainImages.txt but not Flickr_8k.devImages.txt, Flickr_8k.testImages.txt: "
         "bring all three, or move them away"),
        ({"train": "a.jpg", "dev": "b.jpg", "test": "b.jpg"},
         "line 1 of {root}/Flickr_8k.testImages.txt names b.jpg, as line 1 of {root}/Flickr_8k.devImages.txt "
         "does: an image has one split"),
        ({"train": "a.jpg", "dev": "b.jpg", "test": "c.jpg"},
         "line 1 of {root}/Flickr_8k.testImages.txt names c.jpg, which has no captions (1 such images in the "
         "three lists): bring its captions, or take it out"),
    ],
)  # fmt: skip
def test_bad_split_lists_are_named(tmp_path, lists, message):
    make_captioned(tmp_path / "Images", ["a.jpg", "b.jpg"])
    write(tmp_path, "captions.txt", "image,caption\na.jpg,x\nb.jpg,y\n")
    for split, content in lists.items():
        write(tmp_path, f"Flickr_8k.{split}Images.txt", content)
    with says(message.format(root=tmp_path)):
        flickr8k.index(tmp_path)


# --- MS COCO ---


@pytest.mark.parametrize("year", [2014, 2017])
def test_coco_is_read_from_its_annotations_and_its_val_is_the_test(tmp_path, year):
    index = made(coco_captions.index, make_coco_captions(tmp_path, year=year), val_fraction=0)
    assert index.counts() == {"train": {"images": 24}, "test": {"images": 8}}
    row = index.rows("test")[1]
    name = "COCO_val2014_000000100025.jpg" if year == 2014 else "000000100025.jpg"
    assert index.location(row)[1] == f"val{year}/{name}"
    assert sorted(index.column("captions")[row]) == sorted(one.strip() for one in captions_of(1))


def test_karpathy_of_coco_comes_first_and_its_restval_goes_to_train(tmp_path):
    make_coco_captions(tmp_path, with_karpathy=True)
    listing = coco_captions.index(tmp_path)
    counted = Counter((row["split"], row["path"].split("/")[0]) for row in rows(listing))
    assert counted == {
        ("train", "train2014"): 24, ("train", "val2014"): 4, ("val", "val2014"): 2, ("test", "val2014"): 2
    }  # fmt: skip
    assert listing.notes == {"captions not read, since data.index.protocol is karpathy: 2014": 1}
    without = coco_captions.index(tmp_path, restval=None)
    assert Counter(row["split"] for row in rows(without)) == {"train": 24, "val": 2, "test": 2}
    assert without.notes["images left out that the file of captions does not name"] == 4
    assert len(rows(coco_captions.index(tmp_path, protocol=2014))) == 32


def test_coco_images_may_lie_in_a_folder_of_their_own(tmp_path):
    make_coco_captions(tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("train2014", "val2014"):
        (tmp_path / name).rename(tmp_path / "images" / name)
    assert rows(coco_captions.index(tmp_path))[0]["path"].startswith("images/train2014/COCO_train2014_")
    assert rows(coco_captions.index(tmp_path, images="images"))[0]["path"].startswith("images/train2014/")


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([], [], '{file} is not an object with the lists "images" and "annotations"'),
        ([{"id": 1}], [1], "images[0] of {file} has no file_name"),
        ([{"id": "1", "file_name": "a.jpg"}], [1],
         "images[0] of {file} has a text as id: must be a whole number"),
        ([{"id": 1, "file_name": "a.jpg"}] * 2, [1],
         "images[1] of {file} has the id 1, as images[0] of {file} has: keep one"),
        ([{"id": 1, "file_name": "a.jpg"}], [5], "annotations[0] of {file} is a number (5), not an object"),
        ([{"id": 1, "file_name": "a.jpg"}], [{"image_id": 2, "caption": "x"}],
         "annotations[0] of {file} is of the image 2, which is not among its images: take it out"),
        ([{"id": 1, "file_name": "a.jpg"}], [{"image_id": 1, "caption": 4}],
         "the caption in annotations[0] of {file} is a number (4): write a text"),
        ([{"id": 1, "file_name": "a.jpg"}], [{"image_id": 1, "caption": " \n"}],
         "the caption in annotations[0] of {file} is blank" + SAY),
        ([{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
         [{"image_id": 1, "caption": "x"}],
         "1 of the images of {file} have no caption, the first is b.jpg (images[1] of {file}): add one, or "
         "take them out"),
        ([{"id": 1, "file_name": "b.jpg"}], [{"image_id": 1, "caption": "x"}],
         "1 of 1 images with captions are not in {root}/train2014: train2014/b.jpg; the first is that of "
         "images[0] of {file}. Did you mean train2014/a.jpg?"),
    ],
)  # fmt: skip
def test_bad_annotations_are_named_with_their_entry(tmp_path, images, annotations, message):
    make_captioned(tmp_path / "train2014", ["a.jpg"])
    content = json.dumps({"images": images, "annotations": annotations})
    file = write(tmp_path, "annotations/captions_train2014.json", content)
    with says(message.format(file=file, root=tmp_path) if images else message.replace("{file}", str(file))):
        coco_captions.index(tmp_path)


def test_folder_that_is_no_coco_says_what_is_looked_for(tmp_path):
    with pytest.raises(MissingFolder):
        coco_captions.index(tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"holds no file of captions: looked for dataset_coco\.json .*none of"
    ):
        coco_captions.index(tmp_path)
    make_coco_captions(tmp_path / "coco")
    with pytest.raises(DataError, match=r"no file of captions for data\.index\.protocol=2017: .* found 2014"):
        coco_captions.index(tmp_path / "coco", protocol=2017)
    with pytest.raises(ConfigError, match=r"data\.index\.protocol=2015: must be null, karpathy, 2014, 2017"):
        coco_captions.index(tmp_path / "coco", protocol=2015)
    with pytest.raises(ConfigError, match=r"data\.index\.restval=val: must be train, or null"):
        coco_captions.index(tmp_path / "coco", restval="val")


# --- what they share ---


@pytest.mark.parametrize("layout", [flickr30k, flickr8k, coco_captions])
def test_columns_are_those_that_are_declared_and_a_kept_index_is_the_same(tmp_path, layout):
    make = {flickr30k: make_flickr30k, flickr8k: make_flickr8k, coco_captions: make_coco_captions}[layout]
    make(tmp_path / "set")
    whole = partial(layout.index, copies="remove")
    index = made(whole, tmp_path / "set", cache=tmp_path / "cache")
    assert {*index.table.column_names} - {"root"} == {*layout.COLUMNS}
    again = made(whole, tmp_path / "set", cache=tmp_path / "cache")
    assert again.table.equals(index.table)
    assert again.fingerprint == index.fingerprint
    with pytest.raises(ConfigError, match=r"data\.index\.copies=drop: must be keep or remove"):
        layout.index(tmp_path / "set", copies="drop")


def test_copies_of_test_images_leave_train_where_that_is_asked_for(tmp_path):
    make_flickr30k(tmp_path, images=20)
    names = sorted((tmp_path / "flickr30k-images").iterdir())
    names[0].write_bytes(names[9].read_bytes())
    index = made(partial(flickr30k.index, copies="remove"), tmp_path)
    assert index.counts()["train"] == {"images": 15}
    assert index.notes == {"exact duplicates of other splits removed from train": 1}
    assert made(flickr30k.index, tmp_path).counts()["train"] == {"images": 16}


def test_changed_caption_is_another_index(tmp_path):
    make_flickr30k(tmp_path, form="token", images=5)
    file = tmp_path / "results_20130124.token"
    first = made(flickr30k.index, tmp_path, cache=tmp_path / "cache")
    file.write_text(file.read_text().replace("chequered", "checkered"))
    second = made(flickr30k.index, tmp_path, cache=tmp_path / "cache")
    assert first.fingerprint != second.fingerprint
    assert any("checkered" in one for captions in second.column("captions") for one in captions)
