"""LLaVA's JSON, conversations a line, and Hugging Face's chat form; and what may be wrong with them."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.images.sources import read_bytes
from tapetum.indexes import chat_jsonl, hf_chat, llava
from tapetum.indexes.build import build
from tapetum.indexes.walk import MissingFolder

from layouts import make_captioned, make_chat_jsonl, make_hf_chat, make_image, make_llava

ANSWERS = ("no", "yes")


def rows(listing):
    return listing.table.to_pylist()


def made(layout, root, **options):
    required = {"required": ("messages",), "seed": 0, "cache": None, "name": "mine"}
    return build(layout, root=root, **required | options)


def says(message):
    return pytest.raises(DataError, match=f"^{re.escape(message)}$")


def turns(*contents):
    return [
        {"role": ("user", "assistant")[number % 2], "content": content}
        for number, content in enumerate(contents)
    ]


def llava_file(root, *items, name="llava.json"):
    make_captioned(root, ["a.jpg", "b.jpg"])
    (root / name).write_text(json.dumps(items))
    return root / name


def item(*values, image="a.jpg", **more):
    named = {} if image is None else {"image": image}
    said = [{"from": ("human", "gpt")[place % 2], "value": value} for place, value in enumerate(values)]
    return {**named, "conversations": said, **more}


def jsonl_file(root, *items, name="chat.jsonl"):
    make_captioned(root, ["a.jpg", "b.jpg"])
    (root / name).write_text("".join(f"{json.dumps(one)}\n" for one in items))
    return root / name


# --- what is read ---


def test_llava_becomes_conversations_with_their_images_in_order(tmp_path):
    listing = llava.index(make_llava(tmp_path, images=4, rows=8))
    found = rows(listing)
    assert [row["path"] for row in found] == [f"images/{n % 4:04d}.jpg" for n in range(8)]
    assert [row["further_images"] for row in found] == [None] * 7 + [["images/0002.jpg"]]
    for number, row in enumerate(found):
        tags = "<image>" * (2 if number == 7 else 1)
        asked = f"{tags}\nIs there a board? ({number // 4})"
        assert row["messages"] == turns(asked, ANSWERS[number % 2])
    assert {row["split"] for row in found} == {None}
    assert listing.test_fraction == 0.1


def test_all_forms_say_the_same(tmp_path):
    llava_rows = made(llava.index, make_llava(tmp_path / "llava", splits=True, rows=23))
    others = {
        "jsonl": made(chat_jsonl.index, make_chat_jsonl(tmp_path / "jsonl", splits=True, rows=23)),
        "hf": made(hf_chat.index, make_hf_chat(tmp_path / "hf", rows=23)),
    }

    def said(index, split):
        messages = index.column("messages")
        return [
            [
                one["content"].replace("<image>", "").strip()
                for one in messages[row]
                if one["role"] != "system"
            ]
            for row in index.rows(split)
        ]

    for name, index in others.items():
        assert said(index, "test") == said(llava_rows, "test"), name
        assert sorted(said(index, "train") + said(index, "val")) == sorted(
            said(llava_rows, "train") + said(llava_rows, "val")
        ), name


def test_typed_parts_name_their_own_images_and_tags_take_the_rows(tmp_path):
    image_url = {"type": "image_url", "image_url": {"url": "b.jpg"}}
    parts = [{"type": "text", "text": "<image> or "}, image_url, {"type": "text", "text": "?"}]
    jsonl_file(tmp_path, {"messages": turns(parts, "the first"), "images": ["a.jpg"]})
    (row,) = rows(chat_jsonl.index(tmp_path))
    assert row["messages"][0]["content"] == "<image> or <image>?"
    assert (row["path"], row["further_images"]) == ("a.jpg", ["b.jpg"])


def test_sharegpt_and_urls_of_files_are_taken(tmp_path):
    make_image(tmp_path / "a b.jpg", generated=False)
    url = {"type": "image_url", "image_url": f"file://{tmp_path}/a%20b.jpg"}
    jsonl_file(
        tmp_path,
        {"conversations": item("<image>What?", "A square.")["conversations"], "image": "a.jpg"},
        {"messages": turns([url, {"type": "text", "text": "What?"}], "A square.")},
        {"messages": turns("<image>What?", " A square.\n"), "images": [str(tmp_path / "b.jpg")]},
    )
    found = rows(chat_jsonl.index(tmp_path))
    assert [row["path"] for row in found] == ["a.jpg", "a b.jpg", "b.jpg"]
    assert [row["messages"] for row in found] == [turns("<image>What?", "A square.")] * 3


@pytest.mark.parametrize("form", ["parquet", "json", "completion"])
def test_hugging_faces_forms_hold_the_same_images(tmp_path, form):
    index = made(hf_chat.index, make_hf_chat(tmp_path / form, form=form, images=8, rows=16))
    make_captioned(tmp_path / "true", [f"{image:04d}.jpg" for image in range(8)])
    contents = {(tmp_path / "true" / f"{n:04d}.jpg").read_bytes(): ANSWERS[n % 2] for n in range(8)}
    assert len(index) == 16
    for row in range(16):
        asked, answer = index.column("messages")[row]
        assert asked["content"].startswith("<image>Is there a board? (")
        assert contents[read_bytes(*index.location(row))] == answer["content"]


def test_images_that_are_nowhere_shown_stand_before_the_first_question(tmp_path):
    rows_ = [
        {"prompt": "What?", "completion": "A square.", "images": ["a.jpg", "b.jpg"]},
        {"prompt": "<image>What?", "completion": "A square.", "image": "a.jpg"},
    ]
    jsonl_file(tmp_path, *rows_)
    listing = hf_chat.index(tmp_path)
    assert [row["messages"][0]["content"] for row in rows(listing)] == [
        "<image><image>\nWhat?",
        "<image>What?",
    ]
    note = "conversations that do not say where their images are shown (before the first question)"
    assert listing.notes == {note: 1}


def test_parquet_with_paths_is_read_as_json_is(tmp_path):
    items = json.loads((make_hf_chat(tmp_path, form="json") / "chat.json").read_text())
    expected = rows(hf_chat.index(tmp_path))
    (tmp_path / "chat.json").unlink()
    for one in items:
        one["images"] = [{"bytes": None, "path": path} for path in one["images"]]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.Table.from_pylist(items)
    column = pa.array([one["images"] for one in items], pa.list_(image))
    table = table.set_column(table.column_names.index("images"), "images", column)
    pq.write_table(table, tmp_path / "chat.parquet")
    assert rows(hf_chat.index(tmp_path)) == expected


def test_embedded_image_of_another_column_name_is_found_again(tmp_path):
    make_captioned(tmp_path, ["a.jpg", "b.jpg"])
    cells = [{"bytes": (tmp_path / name).read_bytes(), "path": None} for name in ("a.jpg", "b.jpg")]
    messages = turns([{"type": "image", "text": None}, {"type": "text", "text": "What?"}], "A square.")
    messages[1]["content"] = [{"type": "text", "text": "A square."}]
    table = [{"messages": messages, "images": cell, "mask": cells[0]["bytes"]} for cell in cells]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "x.parquet")
    index = made(hf_chat.index, tmp_path, val_fraction=0)
    assert sorted(index.column("path")) == ["x.parquet::images:0", "x.parquet::images:1"]
    assert [read_bytes(*index.location(row)) for row in range(2)] == [cell["bytes"] for cell in cells]


# --- splits ---


def test_conversations_about_one_image_are_of_one_split(tmp_path):
    index = made(llava.index, make_llava(tmp_path, images=40, rows=120), val_fraction=0.2)
    where: dict[str, set[str]] = {}
    further = index.column("further_images")
    splits = index.table.column("split").to_pylist()
    for row in range(120):
        for path in (index.column("path")[row], *(further[row] or ())):
            where.setdefault(path, set()).add(splits[row])
    assert all(len(found) == 1 for found in where.values())
    assert {split for found in where.values() for split in found} == {"train", "val", "test"}


def test_files_tell_the_splits_by_name_or_by_argument(tmp_path):
    make_llava(tmp_path, splits=True)
    by_name = rows(llava.index(tmp_path))
    (tmp_path / "train.json").rename(tmp_path / "mine.json")
    (tmp_path / "test.json").rename(tmp_path / "yours.json")
    with pytest.raises(
        DataError, match=r"mine\.json does not tell its split: type data\.index\.annotations="
    ):
        llava.index(tmp_path)
    assert rows(llava.index(tmp_path, annotations={"test": "yours.json", "train": ["mine.json"]})) == [
        *(row for row in by_name if row["split"] == "test"),
        *(row for row in by_name if row["split"] == "train"),
    ]
    only = llava.index(tmp_path, annotations={"train": "mine.json"})
    assert {row["split"] for row in rows(only)} == {None}
    with pytest.raises(
        ConfigError, match=r"unknown split data\.index\.annotations\.tset: did you mean test\?"
    ):
        llava.index(tmp_path, annotations={"tset": "yours.json"})
    with pytest.raises(DataError, match=r"type data\.index\.annotations\.test=<a file below"):
        llava.index(tmp_path, annotations={"test": "nowhere.json"})
    with pytest.raises(ConfigError, match=r"annotations=mine\.json: must end in \.jsonl$"):
        chat_jsonl.index(tmp_path, annotations="mine.json")


def test_image_of_train_and_test_is_counted_and_kept(tmp_path):
    for split in ("train", "test"):
        llava_file(tmp_path, item("<image>What?", "A square."), name=f"{split}.json")
    index = made(llava.index, tmp_path)
    assert index.counts() == {"train": {"images": 1}, "test": {"images": 1}}
    assert index.notes["conversations of train about images that val or test has too (kept)"] == 1


# --- further images in the index ---


def test_further_images_are_looked_for_and_change_the_fingerprint(tmp_path):
    llava_file(tmp_path, item("<image><image>Same?", "no", image=["a.jpg", "b.jpg"]), item("<image>?", "yes"))
    first = made(llava.index, tmp_path)
    make_image(tmp_path / "b.jpg", generated=True, seed=9, size=48)
    second = made(llava.index, tmp_path)
    assert second.fingerprint != first.fingerprint
    assert second.edition != first.edition
    assert second.table.equals(first.table)
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"^1 of the 3 files of mine are not there: b\.jpg "):
        made(llava.index, tmp_path)


def test_kept_index_has_conversations_and_further_images(tmp_path):
    root = make_llava(tmp_path / "data", images=6, rows=12)
    first, again = (made(llava.index, root, cache=tmp_path / "cache") for _ in range(2))
    assert again.table.equals(first.table)
    assert again.fingerprint == first.fingerprint


# --- what may be wrong ---


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            item("<image><image>Same?", "no"),
            "has 2 <image> tags in its messages and 1 image: write <image> once for each image, where it is "
            "shown",
        ),
        (
            item("Same?", "no", image=["a.jpg", "b.jpg"]),
            "has 0 <image> tags in its messages and 2 images: write <image> once for each image, where it is "
            "shown",
        ),
        (item("What?", "no", image=None), "has no image: name one, or take the row out"),
        (item("<image>?", "no", image=[]), "has no image: name one, or take the row out"),
    ],
)
def test_tags_and_images_must_agree(tmp_path, row, message):
    good = item("<image>What?", "A square.")
    file = llava_file(tmp_path, good, {"id": "7", **row})
    with says(f"item 1 (id 7) of {file} {message}"):
        llava.index(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            item("<image>What?", " \n"),
            "message 1 of {} is blank, and is the assistant's: write an answer, or take the row out",
        ),
        (
            item("<image>What?"),
            "the messages of {} are those of user: must be perhaps system, then user and assistant by turns, "
            "and assistant last",
        ),
        (item("<image>?", "<image>"), "message 1 of {} shows an <image>, and is an answer: only questions "
        "can show images"),
        ({"image": "a.jpg"}, "conversations of {} is null: must be a list of messages"),
        ({"image": "a.jpg", "conversations": ["x"]}, "conversations[0] of {} is a text: must be an object"),
        (item("<image>?", 3), "value of message 1 of {} is a number (3): must be a text"),
        (item("<image>?", "a\ud83d"), "value of message 1 of {} holds half a character ('\\ud83d', a lone "
        "surrogate): write it anew"),
        (
            {"image": "a.jpg", "conversations": [{"from": "humane", "value": "<image>"}]},
            "message 0 of {} is of the role 'humane': did you mean human? known are system, user, human, "
            "assistant, gpt",
        ),
        (item("<image>?", "no", image=3), "the image of {} is a number (3): must be the path of a file below "
        "ROOT"),
        (
            item("<image>?", "no", image="../a.jpg"),
            "the image of {} is '../a.jpg', which leads out of data.root=ROOT: type data.root=<a folder "
            "above it>",
        ),
        (
            item("<image>?", "no", image="/etc/passwd"),
            "the image of {} is '/etc/passwd', which leads out of data.root=ROOT: type data.root=<a folder "
            "above it>",
        ),
        (
            item("<image>?", "no", image="https://example.org/a.jpg"),
            "the image of {} is 'https://example.org/a.jpg', which lies elsewhere and may be another image "
            "tomorrow: fetch it into ROOT, and name the file",
        ),
        (
            item("<image>?", "no", image="data:image/png;base64,AAAA"),
            "the image of {} is written out in the text (data:image/png;base64,AAAA…), and would be kept in "
            "memory as a whole: write it into a file below ROOT, and name the file",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_row_is_said_with_its_place(tmp_path, row, message):
    file = llava_file(tmp_path, row)
    with says(message.replace("{}", f"item 0 of {file}").replace("ROOT", str(tmp_path))):
        llava.index(tmp_path)


def test_typed_part_of_another_kind_is_refused(tmp_path):
    audio = [{"type": "input_audio"}, {"type": "text", "text": "What?"}]
    file = jsonl_file(tmp_path, {"messages": turns(audio, "A bell.")})
    with says(
        f"part 0 of content of message 0 of line 1 of {file} is of the type 'input_audio': must be of the "
        "type text or image_url"
    ):
        chat_jsonl.index(tmp_path)
    with pytest.raises(DataError, match=r"must be of the type text or image$"):
        hf_chat.index(tmp_path)


def test_several_embedded_images_in_a_row_are_refused(tmp_path):
    make_captioned(tmp_path, ["a.jpg"])
    cell = {"bytes": (tmp_path / "a.jpg").read_bytes(), "path": "a.jpg"}
    table = [{"prompt": "<image><image>?", "completion": "no", "images": [cell, cell]}]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "x.parquet")
    with says(
        f"row 0 of {tmp_path}/x.parquet embeds a list of 2 in images: an image is read from a parquet file "
        "where a row has one of them, as bytes and path without a list. Write them as files, and name their "
        "paths"
    ):
        hf_chat.index(tmp_path)


def test_files_that_hold_no_conversations_are_refused(tmp_path):
    with pytest.raises(MissingFolder):
        llava.index(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no file that ends in \.json: type data\.root="):
        llava.index(tmp_path)
    (tmp_path / "a.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"a\.json is an object: must be a list of objects, each a conversa"):
        llava.index(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"messages": []}\n{"mess\n')
    with pytest.raises(DataError, match=r"messages of line 1 of .*a\.jsonl is an empty list"):
        chat_jsonl.index(tmp_path)
    (tmp_path / "a.jsonl").write_text('\n{"mess\n')
    with pytest.raises(DataError, match=r"line 2 of .*a\.jsonl is not JSON, column 2: "):
        chat_jsonl.index(tmp_path)
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"a\.jsonl holds no conversation$"):
        chat_jsonl.index(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(DataError, match=r"has neither messages nor prompt and completion: it has question$"):
        hf_chat.index(tmp_path, annotations="a.jsonl")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet is not a whole parquet file"):
        hf_chat.index(tmp_path, annotations="a.parquet")
    with pytest.raises(DataError, match=r"images=\.\./x leads out of data\.root"):
        llava.index(tmp_path, images="../x")
