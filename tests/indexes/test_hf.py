"""Hugging Face data sets: parquet shards and image files in the hub's form, labels by name."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.fetching import hub as hub_module
from tapetum.images.sources import read_bytes
from tapetum.indexes import hf
from tapetum.indexes.build import build

from fetching.hub_server import Hub, serving
from layouts import make_folder, make_hf, make_image

IMAGE = {"bytes": b"\xff\xd8\xff", "path": "a.jpg"}
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path, columns, *, names=None, **options):
    """A parquet file; names: column → class names in its `huggingface` metadata."""
    table = pa.table(columns)
    if names is not None:
        features = {
            column: {"_type": "ClassLabel", "names": list(listed)} for column, listed in names.items()
        }
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def one_shard(root, labels, *, names=("FAKE", "REAL"), kind=None, **more):
    columns = {"image": [IMAGE] * len(labels), "label": pa.array(labels, kind), **more}
    write(root / "data" / "train-00000-of-00001.parquet", columns, names=names and {"label": names})
    return root


def rows(listing):
    return list(zip(*(listing.table[name].to_pylist() for name in ("path", "split", "label")), strict=True))


@pytest.mark.parametrize("names", [("FAKE", "REAL"), ("REAL", "FAKE")])
@pytest.mark.parametrize(("embedded", "card"), [(True, True), (True, False), (False, True)])
def test_labels_go_by_name_whatever_their_numbers(tmp_path, names, embedded, card):
    root = make_hf(tmp_path, names=names, embedded=embedded, card=card)
    listing = hf.index(root, positive=["FAKE"])
    counted = Counter((split, label) for _, split, label in rows(listing))
    assert counted == {
        ("train", 0): 24,
        ("train", 1): 24,
        ("val", 0): 8,
        ("val", 1): 8,
        ("test", 0): 8,
        ("test", 1): 8,
    }
    for path, _, label in rows(listing):
        file, _, row = path.partition("::")
        table = pq.read_table(root / file).to_pylist()[int(row)]
        assert names[table["label"]] == ("FAKE" if label else "REAL")
        assert read_bytes(root, path) == table["image"]["bytes"]
    generators = listing.table["generator"].to_pylist()
    assert generators == ["FAKE" if label else None for _, _, label in rows(listing)]


def test_index_is_built_and_kept_until_a_shard_changes(tmp_path):
    root = make_hf(tmp_path / "set")
    options = {"root": root, "seed": 1, "cache": tmp_path / "cache", "name": "hf"}
    index = build(partial(hf.index, positive=["FAKE"]), **options)
    assert index.counts()["test"] == {"real": 8, "generated": 8}
    again = build(partial(hf.index, positive=["FAKE"]), **options)
    assert again.fingerprint == index.fingerprint
    other = build(partial(hf.index, positive=["REAL"]), **options)
    assert other.fingerprint != index.fingerprint
    make_hf(root, seed=5)
    assert build(partial(hf.index, positive=["FAKE"]), **options).edition != index.edition


@pytest.mark.parametrize(
    ("labels", "kind", "names", "positive", "expected"),
    [
        (["ai", "human", "ai"], pa.string(), None, ["ai"], [1, 0, 1]),
        ([True, False, None], pa.bool_(), None, [True], [1, 0, None]),
        ([0, 1, -1], pa.int64(), ("FAKE", "REAL"), ["FAKE"], [1, 0, None]),
        ([2, 0, 1], pa.int32(), ("real", "dalle", "sdxl"), ["dalle", "sdxl"], [1, 0, 1]),
        (["real", "gan", None], pa.dictionary(pa.int8(), pa.string()), None, ["gan"], [0, 1, None]),
    ],
)  # fmt: skip
def test_kinds_of_label_columns(tmp_path, labels, kind, names, positive, expected):
    listing = hf.index(one_shard(tmp_path, labels, kind=kind, names=names), positive=positive)
    assert listing.table["label"].to_pylist() == expected


def test_generator_is_the_class_or_a_column(tmp_path):
    root = one_shard(tmp_path, [0, 1, 2], names=("real", "dalle", "sdxl"), made_by=["nobody", "v3", None])
    by_class = hf.index(root, positive=["dalle", "sdxl"]).table["generator"].to_pylist()
    assert by_class == [None, "dalle", "sdxl"]
    by_column = hf.index(root, positive=["dalle", "sdxl"], generator="made_by").table["generator"].to_pylist()
    assert by_column == [None, "v3", None]


def test_several_image_columns_are_told_apart_in_the_path(tmp_path):
    write(
        tmp_path / "train.parquet",
        {"photo": [{"bytes": b"p", "path": ""}], "mask:b": [{"bytes": b"m", "path": ""}], "label": ["FAKE"]},
    )
    with pytest.raises(DataError, match=r"type data\.index\.image=NAME, of photo, mask:b"):
        hf.index(tmp_path, positive=["FAKE"])
    for column, content in (("photo", b"p"), ("mask:b", b"m")):
        (path,) = hf.index(tmp_path, positive=["FAKE"], image=column).table["path"].to_pylist()
        assert read_bytes(tmp_path, path) == content


@pytest.mark.parametrize(
    ("files", "card", "arguments", "expected"),
    [
        (["data/train-00000-of-00001", "data/validation-00000-of-00001"], "", {}, ["train", "val"]),
        (["train", "dev", "eval"], "", {}, ["train", "val", "test"]),
        (["default/partial-train/0000", "default/test/0000"], "", {}, ["train", "test"]),
        (["images", "more"], "", {}, [None, None]),
        (["train", "t_a", "t_b"], "", {"splits": {"train": "train", "t_b": "test"}}, ["train", "test"]),
        (["a/train", "b/train"], "", {"config_name": "b"}, ["train"]),
        (
            ["x/1", "x/2"],
            "configs:\n- config_name: default\n  data_files:\n"
            "  - {split: train, path: [x/1.*]}\n  - {split: test, path: x/2*}",
            {},
            ["train", "test"],
        ),
    ],
)  # fmt: skip
def test_splits_by_name_folder_and_card(tmp_path, files, card, arguments, expected):
    for file in files:
        write(tmp_path / f"{file}.parquet", {"image": [IMAGE], "label": ["FAKE"]})
    (tmp_path / "README.md").write_text(f"---\n{card}\n---\n" if card else "no head")
    listing = hf.index(tmp_path, positive=["FAKE"], **arguments)
    found = sorted(listing.table["split"].to_pylist(), key=lambda split: expected.index(split))
    assert found == expected


@pytest.mark.parametrize(
    ("files", "card", "arguments", "message"),
    [
        (["train", "odd"], "", {}, r"'odd' is not known .* 'data.index.splits=\{odd: test, train: train\}'"),
        (["train"], "", {"splits": {"test": "test"}}, "names 'test', .* has not: it has train"),
        (["a/train", "b/train"], "", {}, "type data.index.config_name=NAME, of a, b"),
        (["a/train", "b/train"], "", {"config_name": "c"}, "config_name=c is not among .* a, b"),
        (["train-00000-of-00002"], "", {}, r"train-00001-of-00002\.parquet is missing \(1 of 2 shards\)"),
        (["train"], "a: [", {}, "is not YAML"),
        (["train"], "configs: [{config_name: x, data_files: data/*}]", {}, "lists files for x"),
    ],
)  # fmt: skip
def test_splits_that_are_wrong_are_named(tmp_path, files, card, arguments, message):
    for file in files:
        write(tmp_path / f"{file}.parquet", {"image": [IMAGE], "label": ["FAKE"]})
    (tmp_path / "README.md").write_text(f"---\n{card}\n---\n")
    with pytest.raises(DataError, match=message):
        hf.index(tmp_path, positive=["FAKE"], **arguments)


@pytest.mark.parametrize(
    ("positive", "kind", "message"),
    [
        (["fake"], DataError, r"positive names 'fake', .*: did you mean FAKE\? it has FAKE, REAL"),
        (["FAKES"], DataError, r"did you mean FAKE\?"),
        ([1], ConfigError, r"must be class names, not numbers"),
        ([], ConfigError, "must be a list of class names"),
        ("FAKE", ConfigError, "must be a list of class names"),
    ],
)
def test_positive_that_names_no_class_is_refused(tmp_path, positive, kind, message):
    with pytest.raises(kind, match=message):
        hf.index(one_shard(tmp_path, [0, 1]), positive=positive)


def test_numbers_without_names_are_never_guessed(tmp_path):
    root = one_shard(tmp_path, [0, 1], names=None)
    with pytest.raises(DataError, match="holds the numbers 0, 1, nothing says what they are called") as error:
        hf.index(root, positive=["FAKE"])
    head = str(error.value).partition("three lines ---, ")[2].removesuffix(" and ---")
    (root / "README.md").write_text(f"---\n{head.replace('A,', 'FAKE,').replace('B}', 'REAL}')}\n---\n")
    assert hf.index(root, positive=["FAKE"]).table["label"].to_pylist() == [1, 0]


@pytest.mark.parametrize(
    ("columns", "names", "arguments", "message"),
    [
        ({"image": [IMAGE], "label": [7]}, {"label": ["A", "B"]}, {}, "row 0 has label 7, .* 0 A, 1 B"),
        ({"label": ["A"]}, None, {}, "no column with image bytes, only label"),
        ({"image": [IMAGE], "kind": [3.5]}, None, {}, "which column tells real from generated is not clear"),
        ({"image": [IMAGE], "kind": ["A"]}, None, {"label": "knd"}, "no column knd .*did you mean kind"),
        ({"image": [IMAGE], "label": [3.5]}, None, {}, "its column label is double, which is no class"),
        ({"image": [IMAGE], "label": ["A"]}, None, {"image": "label"}, "no image bytes; those do: image"),
        ({"image": [IMAGE], "label": ["A"]}, None, {"generator": "by"}, "data.index.generator=by"),
        ({"image": pa.array([{"path": "x"}], STRUCT), "label": ["A"]}, None, {}, "only the paths"),
        ({"image": pa.array([], STRUCT), "label": pa.array([], pa.string())}, None, {}, "hold no row"),
    ],
)  # fmt: skip
def test_columns_that_are_wrong_are_named_with_their_file(tmp_path, columns, names, arguments, message):
    write(tmp_path / "train.parquet", columns, names=names)
    with pytest.raises(DataError, match=message) as error:
        hf.index(tmp_path, positive=["A"], **arguments)
    assert "train.parquet" in str(error.value)


def test_shards_with_other_columns_are_named(tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet", {"image": [IMAGE], "label": ["FAKE"]})
    write(tmp_path / "train-00001-of-00002.parquet", {"image": [IMAGE], "class": ["FAKE"]})
    with pytest.raises(DataError, match=r"00001-of-00002\.parquet: it has no column label"):
        hf.index(tmp_path, positive=["FAKE"])
    write(tmp_path / "train-00001-of-00002.parquet", {"img": [IMAGE], "label": ["FAKE"]})
    with pytest.raises(DataError, match=r"00001-of-00002\.parquet: it has no column image"):
        hf.index(tmp_path, positive=["FAKE"])


def test_shards_that_number_their_classes_differently_still_agree(tmp_path):
    for number, names in enumerate((["FAKE", "REAL"], ["REAL", "FAKE"])):
        columns = {"image": [IMAGE] * 2, "label": [0, 1]}
        write(tmp_path / f"train-{number:05d}-of-00002.parquet", columns, names={"label": names})
    assert hf.index(tmp_path, positive=["FAKE"]).table["label"].to_pylist() == [1, 0, 0, 1]


def test_rows_without_bytes_are_counted(tmp_path):
    images = [IMAGE, None, {"bytes": None, "path": "x"}]
    write(tmp_path / "train.parquet", {"image": images, "label": ["FAKE"] * 3})
    notes = hf.index(tmp_path, positive=["FAKE"]).notes
    assert notes["rows without image bytes (kept; reading them is an error)"] == 2


def test_truncated_file_and_other_forms_are_named(tmp_path):
    make_hf(tmp_path / "set", card=False)
    shard = tmp_path / "set" / "data" / "test-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(
        DataError, match=r"test-00000-of-00001\.parquet is not a whole parquet file .* fetch it again"
    ):
        hf.index(tmp_path / "set", positive=["FAKE"])
    (tmp_path / "arrow").mkdir()
    (tmp_path / "arrow" / "data-00000-of-00001.arrow").touch()
    with pytest.raises(DataError, match="the form of save_to_disk"):
        hf.index(tmp_path / "arrow", positive=["FAKE"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither parquet files nor images"):
        hf.index(tmp_path / "empty", positive=["FAKE"])


# --- image files ---


def test_image_folders_are_classes(tmp_path):
    make_folder(tmp_path, real="REAL", generated="FAKE", splits={"train": 3, "validation": 2, "test": 1})
    found = Counter((split, label) for _, split, label in rows(hf.index(tmp_path, positive=["FAKE"])))
    assert found == {
        ("train", 0): 3,
        ("train", 1): 3,
        ("val", 0): 2,
        ("val", 1): 2,
        ("test", 0): 1,
        ("test", 1): 1,
    }
    only_test = hf.index(tmp_path, positive=["FAKE"], splits={"validation": "test"})
    assert set(only_test.table["split"].to_pylist()) == {"test"}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_metadata_names_images_and_classes(tmp_path, form):
    listed = [("a.jpg", "ai", "flux"), ("sub/b.jpg", "photo", "")]
    for name, _, _ in [*listed, ("stray.jpg", "", "")]:
        make_image(tmp_path / "train" / name, generated=False)
    if form == "csv":
        text = "file_name,label,by\n" + "".join(",".join(row) + "\n" for row in listed)
    else:
        text = "".join(
            json.dumps(dict(zip(("file_name", "label", "by"), row, strict=True))) + "\n" for row in listed
        )
    (tmp_path / "train" / f"metadata.{form}").write_text(text)
    listing = hf.index(tmp_path, positive=["ai"], generator="by")
    assert rows(listing) == [("train/a.jpg", "train", 1), ("train/sub/b.jpg", "train", 0)]
    assert listing.table["generator"].to_pylist() == ["flux", None]
    assert listing.notes["images left out that no metadata.csv names"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\n../../x.jpg,ai\n", r"row 1 .*file_name '\.\./\.\./x\.jpg' leads out of"),
        ("file_name,label\n/etc/x.jpg,ai\n", "leads out of"),
        ("file_nam,label\nx.jpg,ai\n", "has no file_name: did you mean file_nam"),
        ('file_name,label\n"x.jpg,ai\n', "cannot be read"),
    ],
)
def test_metadata_that_is_wrong_is_named(tmp_path, text, message):
    make_image(tmp_path / "train" / "x.jpg", generated=False)
    (tmp_path / "train" / "metadata.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        hf.index(tmp_path, positive=["ai"])


# --- from the hub ---


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_module, "_PAUSE", 0.01)
    copy = make_hf(tmp_path / "copy")
    files = {
        path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()
    }
    with serving(Hub(files={"org/set": {**files, ".gitattributes": b"x", "extra.zip": b"zip"}})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_repo_is_fetched_once_and_its_revision_noted(server, tmp_path):
    root = tmp_path / "root"
    listing = hf.index(root, positive=["FAKE"], repo="org/set")
    assert listing.notes[f"images of org/set at revision {server.commit}"] == 80
    plain = hf.index(tmp_path / "copy", positive=["FAKE"])
    assert [path.removeprefix("org/set/") for path, _, _ in rows(listing)] == [
        path for path, _, _ in rows(plain)
    ]
    assert not (root / "org" / "set" / "extra.zip").exists()
    server.requests.clear()
    assert rows(hf.index(root, positive=["FAKE"], repo="org/set")) == rows(listing)
    assert server.requests == []
    with pytest.raises(DataError, match=f"holds org/set at {server.commit} .*, not at v2"):
        hf.index(root, positive=["FAKE"], repo="org/set", revision="v2")
    index = build(
        partial(hf.index, positive=["FAKE"], repo="org/set"), root=root, seed=1, cache=None, name="hf"
    )
    assert read_bytes(*index.location(3))[:2] == b"\xff\xd8"


def test_interrupted_fetch_goes_on_at_its_commit(server, tmp_path):
    server.cut, server.cuts, server.ranges = 2000, 10_000, False
    with pytest.raises(DataError, match="type the same again"):
        hf.index(tmp_path / "root", positive=["FAKE"], repo="org/set")
    server.cuts = 0
    server.commit_before, server.requests = server.commit, []
    assert len(rows(hf.index(tmp_path / "root", positive=["FAKE"], repo="org/set"))) == 80
    assert not [path for path, _ in server.requests if path.startswith("/api/")]


def test_offline_names_two_commands_and_the_first_ones_folder_is_then_read(server, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    root = tmp_path / "root"
    with pytest.raises(DataError) as error:
        hf.index(root, positive=["FAKE"], repo="org/set", revision="main")
    assert f"hf download org/set --repo-type dataset --revision main --local-dir {root}/org/set" in str(
        error.value
    )
    assert f"tapetum check data=hf data.root={root}/org/set 'data.index.positive=[NAME]'" in str(error.value)
    assert not root.exists()
    shutil.copytree(tmp_path / "copy", root / "org" / "set")
    notes = root / "org" / "set" / ".cache" / "huggingface" / "download" / "README.md.metadata"
    notes.parent.mkdir(parents=True)
    notes.write_text(f"{'b' * 40}\netag\n1.0\n")
    for listing in (
        hf.index(root, positive=["FAKE"], repo="org/set"),
        hf.index(root / "org" / "set", positive=["FAKE"]),
    ):
        assert any(note.endswith(f"set at revision {'b' * 40}") for note in listing.notes)


def test_revision_of_the_hubs_own_cache_is_noted(tmp_path):
    root = make_hf(tmp_path / "snapshots" / ("c" * 40))
    assert hf.index(root, positive=["FAKE"]).notes[f"images of {'c' * 40} at revision {'c' * 40}"] == 80


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"repo": "../x"}, ConfigError, "must be an id on the hub"),
        ({"repo": "org/none"}, DataError, "there is no org/none on"),
        ({"revision": "main"}, ConfigError, "data.index.revision needs data.index.repo"),
    ],
)
def test_repo_that_cannot_be_is_named(server, tmp_path, arguments, kind, message):
    with pytest.raises(kind, match=message):
        hf.index(tmp_path / "root", positive=["FAKE"], **arguments)


def test_repository_of_scripts_says_where_its_parquet_is(server, tmp_path):
    server.files["org/script"] = {"script.py": b"x", "README.md": b"x"}
    with pytest.raises(DataError, match=r"type data\.index\.revision=refs/convert/parquet"):
        hf.index(Path(tmp_path / "root"), positive=["FAKE"], repo="org/script")
