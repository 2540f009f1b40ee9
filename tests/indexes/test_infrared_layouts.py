"""Layouts of infrared images by class: infrared_folder, solar_modules, flir_adas, the retrieval manifest."""

import ast
import json
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tapetum.errors import ConfigError, DataError
from tapetum.indexes import (
    flir_adas,
    identity_folder,
    infrared_folder,
    llcm,
    manifest,
    regdb,
    solar_modules,
    synthetic_infrared,
    sysu_mm01,
)
from tapetum.indexes.build import build
from tapetum.indexes.roles import roles
from tapetum.indexes.walk import MissingFolder
from tests.layouts import (
    make_flir_adas,
    make_identity_folder,
    make_infrared,
    make_infrared_folder,
    make_llcm,
    make_manifest,
    make_regdb,
    make_retrieval_manifest,
    make_solar_modules,
    make_sysu_mm01,
)


def rows(listing):
    return listing.table.to_pylist()


def made(layout, place, **options):
    return build(layout, **{"root": place, "seed": 0, "cache": None, "name": "mine"} | options)


def paths(index, numbers):
    return [index.location(int(row))[1] for row in numbers]


MAKERS = {
    "infrared_folder": lambda root: infrared_folder.index(make_infrared_folder(root)),
    "solar_modules": lambda root: solar_modules.index(make_solar_modules(root)),
    "flir_adas": lambda root: flir_adas.index(make_flir_adas(root)),
    "identity_folder": lambda root: identity_folder.index(make_identity_folder(root)),
    "sysu_mm01": lambda root: sysu_mm01.index(make_sysu_mm01(root)),
    "regdb": lambda root: regdb.index(make_regdb(root)),
    "llcm": lambda root: llcm.index(make_llcm(root)),
    "synthetic_infrared": lambda root: synthetic_infrared.index(root, train=16, test=16, size=24),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_retrieval_layout_declares_its_columns_and_serves_a_search(name, tmp_path):
    module = ast.parse((Path(infrared_folder.__file__).parent / f"{name}.py").read_text())
    (declared,) = (
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.AnnAssign)
        and ast.unparse(node.target) == "COLUMNS"
        and node.value is not None
    )
    listing = MAKERS[name](tmp_path)
    columns = [column for column in listing.table.column_names if column != "split" or column in declared]
    assert list(declared) == columns
    assert set(listing.table.column("modality").to_pylist()) <= {"infrared", "visible"}
    # Labels are positions among the sorted names, as an oracle of two lines has it.
    named = sorted(set(listing.table.column("class").to_pylist()))
    assert all(named[row["label"]] == row["class"] for row in rows(listing))

    index = made(lambda _: listing, tmp_path)
    found = roles(index, "test")
    assert not {*found.queries.tolist()} & {*found.gallery.tolist()}


def test_infrared_folder_takes_splits_any_ending_and_any_depth(tmp_path):
    make_infrared_folder(tmp_path, splits={"train": 3, "val": 1, "test": 2}, suffix=".tiff", bits=16)
    make_infrared(tmp_path / "train/tank/deep/er/A.JPG", kind=2, seed=9)
    listing = infrared_folder.index(tmp_path)
    # Oracle: the files themselves.
    expected = {
        str(file.relative_to(tmp_path)): file.relative_to(tmp_path).parts[:2]
        for file in tmp_path.rglob("*.*")
    }
    assert {row["path"]: (row["split"], row["class"]) for row in rows(listing)} == expected
    assert {(row["split"], row["role"]) for row in rows(listing)} == {
        ("train", None),
        ("val", "query"),
        ("test", "query"),
    }
    assert {row["modality"] for row in rows(listing)} == {"infrared"}


def test_plain_class_folders_are_split_by_a_hash_of_the_bytes(tmp_path):
    make_infrared_folder(tmp_path / "a", splits={"": 80})
    index = made(infrared_folder.index, tmp_path / "a")
    shares = {split: len(index.rows(split)) / len(index) for split in ("train", "val", "test")}
    assert abs(shares["test"] - 0.2) < 0.08, "240 images, three standard deviations"
    assert abs(shares["val"] - 0.08) < 0.06, "a tenth of what is no test: the two hashes are independent"
    roles_of = {index.column("role")[row] for row in index.rows("test")}
    assert roles_of == {"query"}

    # The same bytes under other names are in the same splits.
    def contents(index):
        return {
            split: {(index.roots[0] / path).read_bytes() for path in paths(index, index.rows(split))}
            for split in ("train", "val", "test")
        }

    for file in (tmp_path / "a").rglob("*.png"):
        other = tmp_path / "b" / file.parent.name / f"x{file.name}"
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(file.read_bytes())
    assert contents(made(infrared_folder.index, tmp_path / "b")) == contents(index)
    assert "test" not in made(partial(infrared_folder.index, test_fraction=0), tmp_path / "a").counts()


def test_a_split_with_a_root_of_its_own_is_not_split_again_and_shares_the_numbers_of_the_classes(tmp_path):
    make_infrared_folder(tmp_path / "learn", splits={"": 6})
    make_infrared_folder(tmp_path / "judge", splits={"": 5}, classes=("person", "tank"), seed=1)
    index = made(infrared_folder.index, None, roots={"train": tmp_path / "learn", "test": tmp_path / "judge"})
    assert index.counts()["test"] == {"person": 5, "tank": 5}
    assert index.classes() == {0: "car", 1: "person", 2: "tank"}
    only_test = made(infrared_folder.index, tmp_path / "learn", roots={"test": tmp_path / "judge"})
    assert sum(only_test.counts()["train"].values()) + sum(only_test.counts()["val"].values()) == 18


def test_copies_are_kept_once_and_contradictions_not_at_all(tmp_path):
    make_infrared_folder(tmp_path, splits={"train": 4, "test": 3})
    copied = (tmp_path / "test/car/0000.png").read_bytes()
    (tmp_path / "train/car/copy.png").write_bytes(copied)
    (tmp_path / "train/tank/wrong.png").write_bytes((tmp_path / "train/car/0001.png").read_bytes())
    index = made(infrared_folder.index, tmp_path)
    assert sorted(path for path in index.column("path") if "car" in path) == [
        "test/car/0000.png",
        "test/car/0001.png",
        "test/car/0002.png",
        "train/car/0000.png",
        "train/car/0002.png",
        "train/car/0003.png",
    ]
    assert index.notes["exact duplicates removed, one of each kept"] == 1
    assert index.notes["images removed that are byte for byte the same but of different classes"] == 2


def test_a_class_of_one_image_and_one_that_the_gallery_lacks_are_told_and_kept(tmp_path):
    make_infrared_folder(tmp_path, splits={"train": 4, "test": 3})
    make_infrared(tmp_path / "train/ship/a.png", kind=3)
    make_infrared(tmp_path / "test/drone/a.png", kind=4, seed=1)
    make_infrared(tmp_path / "test/drone/b.png", kind=4, seed=2)
    index = made(infrared_folder.index, tmp_path, val_fraction=0)
    assert index.notes == {
        "classes or identities of one image, which matches no other: ship": 1,
        "test queries whose class or identity no gallery image has: drone": 2,
    }
    assert index.counts()["test"]["drone"] == 2


@pytest.mark.parametrize(
    ("files", "arguments", "error", "message"),
    [
        ([], {}, DataError, r"holds no class folder \(0 images\)"),
        (["a.png"], {}, DataError, r"holds no class folder \(1 images\): put the images of each class"),
        (
            ["train/a/1.png", "b/1.png"],
            {},
            DataError,
            r"split folders \(train\) and others beside them \(b\)",
        ),
        (["train/Car/1.png", "test/car/1.png"], {}, DataError, "class folders Car and car: rename one"),
        (["a/1.png"], {"classes": ["b"]}, ConfigError, r"data\.index\.classes: .* has no b.* It has a"),
        (["cars/1.png"], {"classes": ["car"]}, ConfigError, "did you mean cars"),
        (["a/1.png"], {"classes": "a"}, ConfigError, r"type 'data\.index\.classes=\[a\]'"),
        (
            ["a/1.png"],
            {"test_fraction": 1.0},
            ConfigError,
            r"data\.index\.test_fraction=1\.0: must be at least",
        ),
        (
            ["a/1.png"],
            {"near_duplicates": 1.2},
            ConfigError,
            r"near_duplicates=1\.2: must be null .* or a cosine",
        ),
    ],
)
def test_infrared_folder_says_what_is_wrong(tmp_path, files, arguments, error, message):
    for number, file in enumerate(files):
        make_infrared(tmp_path / file, kind=0, seed=number)
    with pytest.raises(error, match=message):
        infrared_folder.index(tmp_path, **arguments)
    with pytest.raises(MissingFolder):
        infrared_folder.index(tmp_path / "absent")


def test_empty_class_folders_and_classes_not_chosen_are_counted(tmp_path):
    make_infrared_folder(tmp_path, splits={"": 2})
    (tmp_path / "empty").mkdir()
    listing = infrared_folder.index(tmp_path, classes=["CAR", "empty", "person"])
    assert set(listing.table.column("class").to_pylist()) == {"car", "person"}
    assert listing.notes == {
        "class folders left out that were not chosen": 1,
        "class folders without images: empty": 1,
    }


# --- solar modules ---


def test_solar_modules_are_split_by_bytes_without_copies_and_contradictions(tmp_path):
    make_solar_modules(tmp_path, copies=3, conflicts=2)
    index = made(solar_modules.index, tmp_path)
    assert index.notes["exact duplicates removed, one of each kept"] == 3
    assert index.notes["images removed that are byte for byte the same but of different classes"] == 4
    assert len(index) == 120 - 2
    contents = [root / path for root, path in map(index.location, range(len(index)))]
    assert len({file.read_bytes() for file in contents}) == len(index)
    assert index.classes() == {0: "Cell", 1: "Hot-Spot", 2: "No-Anomaly"}
    # Oracle: the metadata, and the hash that decides who is held out.
    named = {
        entry["image_filepath"]: entry["anomaly_class"]
        for entry in json.loads((tmp_path / "module_metadata.json").read_text()).values()
    }
    assert all(
        named[path] == name for path, name in zip(index.column("path"), index.column("class"), strict=True)
    )
    for row, file in enumerate(contents):
        group = blake2b(file.read_bytes(), digest_size=12).hexdigest()
        drawn = int.from_bytes(blake2b(f"test/{group}".encode(), digest_size=8).digest(), "big")
        assert (index.column("split")[row] == "test") == (drawn < 0.2 * 2**64)


def test_solar_modules_of_some_classes(tmp_path):
    make_solar_modules(tmp_path)
    listing = solar_modules.index(tmp_path, classes=["cell", "hot spot"])
    assert set(listing.table.column("class").to_pylist()) == {"Cell", "Hot-Spot"}
    assert listing.notes == {"images left out of classes that were not chosen": 60}
    with pytest.raises(ConfigError, match=r"data\.index\.classes: .* has no Cels: did you mean Cell\?"):
        solar_modules.index(tmp_path, classes=["Cels"])


def change(root: Path, entries) -> None:
    file = root / "module_metadata.json"
    content = json.loads(file.read_text())
    file.write_text(entries(content) if callable(entries) else entries)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ('{"0": {"image_filepath": "ima', r"module_metadata\.json is not json in UTF-8"),
        ("[]", "is not an object of images"),
        (
            '{"0": {"image_filepath": "images/0.jpg"}}',
            r"the entry '0' is .*, not an object with image_filepath",
        ),
        ('{"0": 3}', "the entry '0' is 3"),
        (
            lambda content: json.dumps(
                content | {"x": {"image_filepath": "images/x.jpg", "anomaly_class": "C"}}
            ),
            r"names 1 images that are not below .*: images/x\.jpg",
        ),
        (
            lambda content: json.dumps(
                {key: value for key, value in content.items() if key not in ("3", "4")}
            ),
            r"has no entry for 2 images below .*: images/3\.jpg, images/4\.jpg",
        ),
        (
            lambda content: json.dumps(content | {"x": content["0"]}),
            r"names images/0\.jpg more than once",
        ),
    ],
)
def test_metadata_that_is_damaged_or_does_not_fit_its_images_is_named(tmp_path, entries, message):
    make_solar_modules(tmp_path, classes={"Cell": 3, "Diode": 3})
    change(tmp_path, entries)
    with pytest.raises(DataError, match=message):
        solar_modules.index(tmp_path)


def test_a_folder_without_metadata_is_named(tmp_path):
    with pytest.raises(DataError, match=r"holds no module_metadata\.json: type data\.root="):
        solar_modules.index(tmp_path)
    with pytest.raises(MissingFolder):
        solar_modules.index(tmp_path / "absent")


# --- FLIR ADAS ---


@pytest.mark.parametrize("whole", [False, True])
def test_flir_boxes_become_crops_of_16_bit_frames(tmp_path, whole):
    index = made(flir_adas.index, make_flir_adas(tmp_path, whole=whole))
    assert index.counts() == {
        split: {"car": count, "person": count} for split, count in {"train": 12, "val": 4, "test": 4}.items()
    }
    first = index.table.slice(0, 1).to_pylist()[0]
    assert first["path"] == "train/thermal_16_bit/FLIR_00001.tiff"
    assert (first["class"], first["box"]) == ("person", [11.0, 20.0, 41.0, 80.0])
    assert first["group"] == first["path"]
    with Image.open(tmp_path / first["path"]) as frame:
        levels = np.asarray(frame)
    assert levels.dtype == np.uint16
    assert levels.max() > 255


def test_flir_boxes_that_are_small_or_crowds_or_twice_are_counted(tmp_path):
    make_flir_adas(tmp_path, frames={"train": 4, "val": 2})
    file = tmp_path / "train/Annotations/FLIR_00001.json"
    content = json.loads(file.read_text())
    content["annotation"] += [
        {"category_id": 18, "bbox": [0, 0, 10, 90]},
        {"category_id": 18, "bbox": [0, 0, 60, 90], "iscrowd": 1},
        {"category_id": 3, "bbox": [90, 40, 60, 40]},
        {"category_id": 91, "bbox": [-5, 100, 40, 60]},
    ]
    file.write_text(json.dumps(content))
    listing = flir_adas.index(tmp_path)
    assert listing.notes == {
        "boxes left out that mark a crowd": 1,
        "boxes left out that are there twice": 1,
        "boxes cut at the border of their frame": 1,
        "boxes left out that are smaller than 24 pixels": 1,
    }
    assert [row["box"] for row in rows(listing) if row["class"] == "other_vehicle"] == [[0, 100, 35, 128]]
    assert set(flir_adas.index(tmp_path, classes=["car"]).table.column("class").to_pylist()) == {"car"}
    with pytest.raises(ConfigError, match=r"has no lorry"):
        flir_adas.index(tmp_path, classes=["lorry"])
    with pytest.raises(ConfigError, match=r"min_size=0: must be at least 1"):
        flir_adas.index(tmp_path, min_size=0)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("FLIR_00001.json", '{"annotation": [', r"FLIR_00001\.json is not json"),
        ("FLIR_00001.json", "[1]", "is not an object"),
        ("FLIR_00001.json", "{}", "has no list `annotation`"),
        ("FLIR_00001.json", '{"annotation": [{"category_id": 1, "bbox": [1, 2]}]}', "has no bbox of x, y"),
        ("FLIR_00001.json", '{"annotation": [{"category_id": 1, "bbox": 5}]}', "has no bbox of x, y"),
        (
            "FLIR_00001.json",
            '{"annotation": [{"category_id": 7, "bbox": [1, 2, 3, 4]}]}',
            "category_id 7 is none",
        ),
        ("FLIR_77777.json", '{"annotation": []}', "is about the frame FLIR_77777, which is not in"),
    ],
)
def test_damaged_flir_annotations_are_named(tmp_path, file, text, message):
    make_flir_adas(tmp_path, frames={"train": 2})
    (tmp_path / "train/Annotations" / file).write_text(text)
    with pytest.raises(DataError, match=message):
        flir_adas.index(tmp_path)


def test_flir_folders_that_are_lacking_are_named(tmp_path):
    with pytest.raises(DataError, match="holds none of the folders train, val and video"):
        flir_adas.index(tmp_path)
    (tmp_path / "train/thermal_8_bit").mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds no folder thermal_16_bit or Data .* it has thermal_8_bit"):
        flir_adas.index(tmp_path)
    (tmp_path / "train/Data").mkdir()
    with pytest.raises(DataError, match=r"neither Annotations/\*\.json nor thermal_annotations\.json"):
        flir_adas.index(tmp_path)


# --- manifests for retrieval ---


@pytest.mark.parametrize("file", ["manifest.csv", "list.parquet"])
def test_a_manifest_with_identities_is_a_list_for_retrieval(tmp_path, file):
    listing = manifest.index(make_retrieval_manifest(tmp_path, file=file), file=file)
    assert rows(listing)[24] == {
        "path": "images/test_gallery_anna_0.png",
        "split": "test",
        "box": [2.0, 4.0, 30.0, 28.0],
        "label": 0,
        "class": "anna",
        "role": "gallery",
        "camera": "c0",
        "sequence": "s0",
        "modality": "infrared",
    }
    index = made(partial(manifest.index, file=file), tmp_path, val_fraction=0)
    found = roles(index, "test")
    assert (len(found.gallery), len(found.queries)) == (6, 9)
    assert index.counts()["train"] == {"anna": 8, "bert": 8, "cleo": 8}


def test_a_manifest_with_labels_stays_one_for_detection(tmp_path):
    make_manifest(tmp_path, splits={"train": 2})
    before = manifest.index(tmp_path).table
    text = (tmp_path / "manifest.csv").read_text().splitlines()
    more = [f"{line},{'class,role' if not number else 'cat,query'}" for number, line in enumerate(text)]
    (tmp_path / "manifest.csv").write_text("\n".join(more))
    listing = manifest.index(tmp_path)
    assert listing.table.equals(before)
    assert listing.notes == {"columns of manifest.csv not used: class, role": 2}
    with pytest.raises(ConfigError, match=r"near_duplicates=0\.99: .* is no list for retrieval"):
        manifest.index(tmp_path, near_duplicates=0.99)


def test_boxes_of_a_manifest_are_read_in_every_spelling(tmp_path):
    (tmp_path / "m.json").write_text(
        json.dumps(
            [{"path": "a", "class": "x", "box": [1, 2, 3, 4]}, {"path": "b", "class": "y", "box": None}]
        )
    )
    assert [row["box"] for row in rows(manifest.index(tmp_path, file="m.json"))] == [[1, 2, 3, 4], None]
    spelt = ['"1,2,3.5,4"', "1 2 3.5 4", '"[1; 2; 3.5; 4]"', ""]
    lines = [f"{number}.png,x,{box}" for number, box in enumerate(spelt)]
    (tmp_path / "m.csv").write_text("\n".join(["path,class,box", *lines]))
    found = [row["box"] for row in rows(manifest.index(tmp_path, file="m.csv"))]
    assert found == [[1, 2, 3.5, 4]] * 3 + [None]
    pq.write_table(
        pa.table({"path": ["a"], "identity": ["x"], "box": [[0.0, 0.0, 2.0, 1.0]]}), tmp_path / "m.parquet"
    )
    assert rows(manifest.index(tmp_path, file="m.parquet"))[0]["box"] == [0, 0, 2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\na,x\nb,\n", r"row 2 \(line 3\) of .* has no class"),
        ("path,class,role\na,x,galery\n", r"role 'galery' is not known: did you mean gallery\?"),
        ("path,class,modality\na,x,thermal\n", r"modality 'thermal' is not known.*Write infrared or visible"),
        ("path,class,box\na,x,1 2 3\n", r"box '1 2 3' is no rectangle"),
        ("path,class,box\na,x,5 0 5 9\n", "is no rectangle"),
        ("path,class,box\na,x,0 0 nan 9\n", "is no rectangle"),
        ("path,class,identity\na,x,y\n", "several columns for class: keep one"),
        ("path,class,split\na,x,dev\n", "split 'dev' is not known"),
    ],
)
def test_a_retrieval_manifest_names_the_row_and_the_value(tmp_path, text, message):
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        manifest.index(tmp_path)


def test_a_file_in_gallery_and_query_is_refused(tmp_path):
    make_infrared(tmp_path / "a.png", kind=0)
    (tmp_path / "manifest.csv").write_text(
        "path,class,split,role\na.png,x,test,gallery\na.png,x,test,query\n"
    )
    with pytest.raises(DataError, match=r"1 files are in mine more than once: .*a\.png"):
        made(manifest.index, tmp_path)


def test_an_empty_role_is_said_when_the_split_is_searched(tmp_path):
    for number in range(2):
        make_infrared(tmp_path / f"{number}.png", kind=number, seed=number)
    (tmp_path / "manifest.csv").write_text(
        "path,class,split,role\n0.png,x,test,gallery\n1.png,y,test,gallery\n"
    )
    with pytest.raises(DataError, match="the queries of test are empty"):
        roles(made(manifest.index, tmp_path), "test")
