import ast
import csv
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.indexes import cifake, folder, manifest
from tapetum.indexes.build import build
from tapetum.indexes.table import TYPES
from tests.layouts import make_cifake, make_folder, make_image, make_manifest, make_retrieval_manifest

LAYOUTS = Path(folder.__file__).parent


def rows(listing):
    return listing.table.to_pylist()


@pytest.mark.parametrize("name", ["folder", "cifake", "manifest", "synthetic"])
def test_every_layout_declares_its_columns_as_a_literal(name, tmp_path):
    module = ast.parse((LAYOUTS / f"{name}.py").read_text())
    declared = [
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.AnnAssign)
        and ast.unparse(node.target) == "COLUMNS"
        and node.value is not None
    ]
    makers = {
        "folder": lambda: folder.index(make_folder(tmp_path)),
        "cifake": lambda: cifake.index(make_cifake(tmp_path)),
        "manifest": lambda: manifest.index(make_manifest(tmp_path)),
        "synthetic": lambda: __import__("tapetum.indexes.synthetic", fromlist=["index"]).index(
            tmp_path, train=8, test=8, size=16
        ),
    }
    columns = list(makers[name]().table.column_names)
    if name == "manifest":  # one list is for detection, another for retrieval
        found = manifest.index(make_retrieval_manifest(tmp_path / "retrieval")).table.column_names
        columns = [column for column in TYPES if column in {*columns, *found}]
    assert declared == [tuple(columns)]


def test_folder_reads_the_layout_of_the_product_photo_project(tmp_path):
    listing = folder.index(make_folder(tmp_path, splits={"train": 2, "val": 1, "test": 1}))
    assert rows(listing)[0] == {
        "path": "test/ai_generated/0000.jpg",
        "split": "test",
        "label": 1,
        "generator": "ai_generated",
    }
    # Oracle: the files themselves.
    found = {row["path"]: (row["split"], row["label"]) for row in rows(listing)}
    expected = {
        str(file.relative_to(tmp_path)): (file.parts[-3], int(file.parts[-2] == "ai_generated"))
        for file in tmp_path.rglob("*.jpg")
    }
    assert found == expected
    assert {row["generator"] for row in rows(listing) if row["label"] == 0} == {None}


def test_folder_reads_plain_classes_upper_case_endings_and_any_depth(tmp_path):
    make_image(tmp_path / "Real" / "x" / "y" / "A.JPEG", generated=False)
    make_image(tmp_path / "FAKE" / "b.PNG", generated=True)
    (tmp_path / "FAKE" / "notes.txt").write_text("")
    (tmp_path / "FAKE" / ".hidden.png").write_bytes(b"")
    listing = folder.index(tmp_path)
    assert rows(listing) == [
        {"path": "FAKE/b.PNG", "split": None, "label": 1, "generator": "fake"},
        {"path": "Real/x/y/A.JPEG", "split": None, "label": 0, "generator": None},
    ]
    assert listing.notes == {
        "files left out that are no images by their ending": 1,
        "hidden files and folders left out": 1,
    }


def test_folder_takes_generators_from_sub_folders_or_from_several_classes(tmp_path):
    make_image(tmp_path / "a" / "real" / "1.png", generated=False)
    make_image(tmp_path / "a" / "fake" / "adm" / "2.png", generated=True)
    listing = folder.index(tmp_path / "a", generator="subfolder")
    assert [row["generator"] for row in rows(listing)] == ["adm", None]
    make_image(tmp_path / "a" / "fake" / "3.png", generated=True)
    with pytest.raises(DataError, match=r"3\.png lies in no generator's folder"):
        folder.index(tmp_path / "a", generator="subfolder")

    make_image(tmp_path / "b" / "photo" / "1.png", generated=False)
    make_image(tmp_path / "b" / "sdxl" / "2.png", generated=True)
    make_image(tmp_path / "b" / "MJ" / "3.png", generated=True)
    listing = folder.index(tmp_path / "b", real=["photo"], generated=["mj", "sdxl"])
    assert [row["generator"] for row in rows(listing)] == ["mj", None, "sdxl"]


def test_folder_follows_links_that_lead_in_circles_once(tmp_path):
    make_image(tmp_path / "real" / "a.png", generated=False)
    make_image(tmp_path / "fake" / "b.png", generated=True)
    (tmp_path / "real" / "again").symlink_to(tmp_path / "real", target_is_directory=True)
    assert [row["path"] for row in rows(folder.index(tmp_path))] == ["fake/b.png", "real/a.png"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["train/real/a.png", "train/ai_gen/b.png"],
            r"train holds the unknown class folder 'ai_gen' \(found: ai_gen, real\)\. Known, in any case: "
            r"real = real, 0_real, nature; generated = generated, fake,.*'data.index.generated=\[ai_gen\]'",
        ),
        (
            ["train/real/a.png", "real/b.png"],
            r"holds split folders \(train\) and others beside them \(real\)",
        ),
        (
            ["val/real/a.png", "valid/real/b.png"],
            r"several folders for the split val \(val, valid\): keep one",
        ),
        (["a.png", "b.png"], r"holds no class folder \(found: no folder, 2 images\)"),
    ],
)
def test_folder_says_what_it_found_and_what_to_type(tmp_path, files, message):
    for file in files:
        make_image(tmp_path / file, generated=False)
    with pytest.raises(DataError, match=message):
        folder.index(tmp_path)


def test_folder_refuses_class_names_that_contradict_each_other(tmp_path):
    make_folder(tmp_path, splits={"train": 1})
    with pytest.raises(ConfigError, match="both name the folder 'REAL'"):
        folder.index(tmp_path, real=["real"], generated=["REAL"])
    with pytest.raises(ConfigError, match=r"data\.index\.real='real': must be a list"):
        folder.index(tmp_path, real="real")


def test_images_outside_class_folders_are_counted(tmp_path):
    make_folder(tmp_path, splits={"train": 1})
    make_image(tmp_path / "train" / "stray.png", generated=False)
    assert folder.index(tmp_path).notes == {"images left out that lie outside every class folder": 1}


def test_cifake_groups_files_by_their_bytes(tmp_path):
    listing = cifake.index(make_cifake(tmp_path, copies=2))
    groups: dict[str, set[bytes]] = {}
    for row in rows(listing):
        groups.setdefault(row["group"], set()).add((tmp_path / row["path"]).read_bytes())
    assert all(len(contents) == 1 for contents in groups.values())
    assert len(groups) == len({file.read_bytes() for file in tmp_path.rglob("*.jpg")})
    assert {(row["label"], row["generator"]) for row in rows(listing)} == {
        (0, None),
        (1, "stable_diffusion_v1_4"),
    }


def test_a_folder_of_ones_own_is_cleared_of_copies_if_asked(tmp_path):
    root = make_folder(tmp_path, splits={"train": 4, "val": 2, "test": 3})
    (root / "train/real/same.jpg").write_bytes((root / "test/real/0000.jpg").read_bytes())
    kept = build(folder.index, root=root, seed=0, cache=None, name="mine")
    assert len(kept.rows("train")) == 9
    cleared = build(partial(folder.index, copies="remove"), root=root, seed=0, cache=None, name="mine")
    assert "train/real/same.jpg" not in cleared.column("path")
    assert len(cleared.rows("train")) == 8
    assert cleared.notes == {"exact duplicates of other splits removed from train": 1}
    with pytest.raises(ConfigError, match=r"data\.index\.copies=drop: must be keep or remove"):
        folder.index(root, copies="drop")


def test_empty_files_are_copies_of_nothing(tmp_path):
    make_cifake(tmp_path)
    for split in ("train", "test"):
        (tmp_path / split / "REAL" / "empty.jpg").write_bytes(b"")
    assert [row["group"] for row in rows(cifake.index(tmp_path)) if "empty" in row["path"]] == [None, None]


@pytest.mark.parametrize("file", ["manifest.csv", "list.parquet"])
def test_manifest_reads_csv_and_parquet_alike(tmp_path, file):
    listing = manifest.index(make_manifest(tmp_path, file=file), file=file)
    assert rows(listing)[8 + 16] == {
        "path": "images/train, fake 0000.png",
        "split": "train",
        "group": "train0",
        "label": 1,
        "generator": "gan_a",
    }
    assert len(rows(listing)) == 80
    assert all((tmp_path / row["path"]).is_file() for row in rows(listing))


def write(folder: Path, text: str) -> Path:
    (folder / "manifest.csv").write_text(text)
    return folder


def test_manifest_takes_configured_labels_absolute_paths_and_quoted_line_breaks(tmp_path):
    write(tmp_path, f'path,label,comment\n"{tmp_path}/a.png",photo,"two\nlines"\n./b/../c.png,render,\n')
    listing = manifest.index(tmp_path, labels={"photo": 0, "render": 1})
    assert [(row["path"], row["label"]) for row in rows(listing)] == [("a.png", 0), ("c.png", 1)]
    assert listing.notes == {"columns of manifest.csv not used: comment": 1}


def test_manifest_without_labels_has_no_label_column(tmp_path):
    assert manifest.index(write(tmp_path, "path\na.png\n")).table.column_names == ["path"]


def test_manifest_takes_integer_labels_of_parquet(tmp_path):
    pq.write_table(pa.table({"path": ["a", "b"], "label": [0, 1]}), tmp_path / "m.parquet")
    assert [
        row["label"] for row in rows(manifest.index(tmp_path, file="m.parquet", labels={0: 0, 1: 1}))
    ] == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label\na.png,real\nb.png,fakee\n",
            r"row 2 \(line 3\) of .*manifest\.csv: label 'fakee' is not known: did you mean fake\? Known "
            r"labels: real, generated, fake, 0, 1\. Type 'data\.index\.labels=\{fakee: 0\}'",
        ),
        ("path,label\na.png,\n", r"row 1 \(line 2\) .* label '' is not known"),
        ("path,split\na.png,dev\n", r"split 'dev' is not known.*Write train, val or test"),
        ("path,label\n,real\n", "row 1 .*has no path"),
        ("path,label\na,b.png,real\n", "has 3 cells, the header has 2: quote cells that hold commas"),
        ("path,label\n../a.png,real\n", r"\.\./a\.png leads out of data\.root"),
        ("path,label\n/elsewhere/a.png,real\n", "does not lie below data.root"),
        ("file,label\na.png,real\n", "has no column path; it has file, label"),
        ("", "has no column path"),
        ('path,label\n"a.png,real\n', "is not csv in UTF-8"),
    ],
)
def test_manifest_names_the_row_and_the_value(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        manifest.index(write(tmp_path, text))


def test_manifest_that_is_absent_or_no_parquet_or_of_an_unknown_kind(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.csv is not a file: type data\.index\.file="):
        manifest.index(tmp_path)
    (tmp_path / "m.parquet").write_text("no")
    with pytest.raises(DataError, match="is not a parquet file"):
        manifest.index(tmp_path, file="m.parquet")
    (tmp_path / "m.xlsx").write_text("no")
    with pytest.raises(ConfigError, match=r"must end in \.csv, \.parquet or \.json"):
        manifest.index(tmp_path, file="m.xlsx")
    with pytest.raises(ConfigError, match=r"must map values to 0 \(real\) or 1"):
        manifest.index(write(tmp_path, "path\n"), labels={"real": 2})


def test_manifest_written_by_the_csv_module_survives_any_name(tmp_path):
    names = ['a,"b".png', "ü ö.png", "line\nbreak.png"]
    with (tmp_path / "manifest.csv").open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([["path"], *([name] for name in names)])
    assert [row["path"] for row in rows(manifest.index(tmp_path))] == names
