"""Layouts of people who are met again: identity_folder, SYSU-MM01, RegDB, LLCM."""

import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.indexes import identity_folder, llcm, regdb, sysu_mm01
from tapetum.indexes.build import build
from tapetum.indexes.roles import roles
from tapetum.indexes.walk import MissingFolder
from tests.layouts import make_identity_folder, make_infrared, make_llcm, make_regdb, make_sysu_mm01


def made(layout, place, **options):
    return build(layout, **{"root": place, "seed": 0, "cache": None, "name": "mine"} | options)


def rows(listing, **wanted):
    return [
        row for row in listing.table.to_pylist() if all(row[name] == value for name, value in wanted.items())
    ]


# --- identity_folder ---


def test_gallery_probe_and_unknown_probes_have_their_parts(tmp_path):
    make_identity_folder(tmp_path)
    pattern = "(?P<identity>[^_]+)_(?P<camera>c[0-9]+)_(?P<sequence>[0-9]+)"
    index = made(partial(identity_folder.index, pattern=pattern), tmp_path, val_fraction=0)
    found = roles(index, "test")
    path = index.column("path")
    assert {path[row].split("/")[0] for row in found.gallery} == {"gallery"}
    assert {path[row].split("/")[0] for row in found.queries} == {"probe", "unknown_probe"}
    first = index.table.to_pylist()[0]
    assert (first["class"], first["camera"], first["sequence"]) == ("k0", "c0", "0")
    assert index.notes == {"test queries whose class or identity no gallery image has: u0, u1": 8}


def test_validation_is_carved_by_identity_and_searches_a_gallery_of_its_own(tmp_path):
    make_identity_folder(tmp_path, train=30)
    index = made(identity_folder.index, tmp_path, val_fraction=0.3)
    names = index.column("class")
    learnt, chosen = ({names[row] for row in index.rows(split)} for split in ("train", "val"))
    assert learnt.isdisjoint(chosen)
    assert len(learnt | chosen) == 30
    found = roles(index, "val")
    assert found.own
    assert {names[row] for row in found.gallery} == chosen, "every identity has an image in the gallery"


def test_a_probe_that_the_gallery_lacks_is_told_and_stays(tmp_path):
    make_identity_folder(tmp_path, train=0, unknown=0)
    for number in range(3):
        make_infrared(tmp_path / f"probe/zoe_{number}.png", kind=9, seed=number)
    listing = identity_folder.index(tmp_path)
    assert listing.notes == {"probes whose identity the gallery lacks: zoe": 3}
    assert len(rows(listing, **{"class": "zoe"})) == 3


def test_identities_of_train_may_be_met_again_and_other_folders_are_told(tmp_path):
    make_identity_folder(tmp_path, train=1)
    make_infrared(tmp_path / "train/k1_x.png", kind=1, seed=99)
    make_infrared(tmp_path / "more/k1_x.png", kind=1, seed=98)
    index = made(identity_folder.index, tmp_path, val_fraction=0)
    assert index.notes["identities of train that the gallery has, too: k1"] == 1
    assert index.notes["folders left out beside gallery and probe: more"] == 1


def test_folders_and_pattern_are_the_users(tmp_path):
    make_infrared(tmp_path / "g/anna/1.png", kind=0, seed=1)
    make_infrared(tmp_path / "p/anna/2.png", kind=0, seed=2)
    listing = identity_folder.index(
        tmp_path, gallery="g", probe="p", train=None, unknown_probe=None, pattern="(?P<identity>[^/]+)/.*"
    )
    assert [(row["path"], row["class"], row["role"]) for row in rows(listing)] == [
        ("g/anna/1.png", "anna", "gallery"),
        ("p/anna/2.png", "anna", "query"),
    ]


@pytest.mark.parametrize(
    ("files", "arguments", "error", "message"),
    [
        (
            ["gallery/a_1.png", "probe/b.png"],
            {},
            DataError,
            r"probe/b\.png does not match data\.index\.pattern",
        ),
        (
            ["gallery/a_1.png"],
            {},
            DataError,
            r"so the probe is empty: type data\.index\.probe=.*are: gallery",
        ),
        (["probe/a_1.png", "gallery/x.txt"], {}, DataError, "so the gallery is empty"),
        (
            ["gallery/a_1.png", "probe/a_2.png", "unknown_probe/a_3.png"],
            {},
            DataError,
            "1 identities of unknown_probe are in gallery, so they are not unknown: a. Move",
        ),
        ([], {"probe": "gallery"}, ConfigError, "data.index.gallery=gallery and data.index.probe=gallery"),
        ([], {"train": "gallery/old"}, ConfigError, "can't be both; give them separate folders"),
        ([], {"pattern": "(?P<identity>"}, ConfigError, "is no regular expression"),
        ([], {"pattern": "(?P<who>.*)"}, ConfigError, r"must have a group \(\?P<identity>…\).*it has who"),
        ([], {"modality": "thermal"}, ConfigError, "data.index.modality=thermal: it is infrared or visible"),
        ([], {"near_duplicates": 0}, ConfigError, "near_duplicates=0: must be null"),
    ],
)
def test_identity_folder_says_what_is_wrong(tmp_path, files, arguments, error, message):
    for number, file in enumerate(files):
        make_infrared(tmp_path / file.replace(".txt", ".png"), kind=0, seed=number)
        (tmp_path / file.replace(".txt", ".png")).rename(tmp_path / file)
    with pytest.raises(error, match=message):
        identity_folder.index(tmp_path, **arguments)
    with pytest.raises(MissingFolder):
        identity_folder.index(tmp_path / "absent")


# --- SYSU-MM01 ---


def agw_gallery(root: Path, cameras: list[str], trial: int) -> set[str]:
    """The single-shot gallery as published: one image per identity and camera, after random.seed(trial)."""
    random.seed(trial)
    identities = sorted(f"{int(x):04d}" for x in (root / "exp/test_id.txt").read_text().strip().split(","))
    chosen = set()
    for identity in identities:
        for camera in cameras:
            folder = root / camera / identity
            if folder.is_dir():
                chosen.add(
                    random.choice(sorted(f"{camera}/{identity}/{file.name}" for file in folder.iterdir()))
                )
    return chosen


@pytest.mark.parametrize("trial", [0, 3])
@pytest.mark.parametrize(("mode", "cameras"), [("all", [1, 2, 4, 5]), ("indoor", [1, 2])])
def test_sysu_draws_the_published_single_shot_gallery(tmp_path, mode, cameras, trial):
    make_sysu_mm01(tmp_path, images=5)
    listing = sysu_mm01.index(tmp_path, mode=mode, trial=trial)
    gallery = {row["path"] for row in rows(listing, split="test", role="gallery")}
    assert gallery == agw_gallery(tmp_path, [f"cam{number}" for number in cameras], trial)
    queries = {row["path"] for row in rows(listing, split="test", role="query")}
    tested = (tmp_path / "exp/test_id.txt").read_text().strip().split(",")
    assert queries == {
        f"cam{camera}/{int(person):04d}/{file.name}"
        for person in tested
        for camera in (3, 6)
        for file in (tmp_path / f"cam{camera}/{int(person):04d}").glob("*.jpg")
    }
    there = sum(
        1
        for person in tested
        for camera in (1, 2, 4, 5)
        for _ in (tmp_path / f"cam{camera}/{int(person):04d}").glob("*.jpg")
    )
    assert listing.notes == {
        "visible images of test left out by the single-shot gallery": there - len(gallery)
    }


def test_sysu_splits_are_those_of_its_lists_with_roles_on_every_row(tmp_path):
    make_sysu_mm01(tmp_path)
    index = made(sysu_mm01.index, tmp_path)
    people = {split: len(set(index.counts()[split])) for split in ("train", "val", "test")}
    assert people == {"train": 8, "val": 3, "test": 4}
    for row in index.table.to_pylist():
        infrared = row["path"].startswith(("cam3", "cam6"))
        assert (row["role"], row["modality"]) == (
            ("query", "infrared") if infrared else ("gallery", "visible")
        )
        assert row["camera"] == row["path"].split("/")[0]
        assert row["class"] == row["group"] == row["path"].split("/")[1]
    assert roles(index, "val").own
    both = sysu_mm01.index(tmp_path, train_on_val=True)
    assert len({row["class"] for row in rows(both, split="train")}) == 11
    assert not rows(both, split="val")


def test_sysu_lists_that_are_absent_damaged_or_overlap_are_named(tmp_path):
    with pytest.raises(DataError, match=r"exp/train_id\.txt is not there: type data\.root="):
        sysu_mm01.index(tmp_path)
    make_sysu_mm01(tmp_path / "a")
    (tmp_path / "a/exp/val_id.txt").write_text("1,2,x")
    with pytest.raises(DataError, match=r"val_id\.txt is not a list of numbers with commas"):
        sysu_mm01.index(tmp_path / "a")
    (tmp_path / "a/exp/val_id.txt").write_text("\n")
    with pytest.raises(DataError, match=r"val_id\.txt names no identity"):
        sysu_mm01.index(tmp_path / "a")
    (tmp_path / "a/exp/val_id.txt").write_text("1,77")
    with pytest.raises(DataError, match=r"names the identity 1 in train_id\.txt and in val_id\.txt: nobody"):
        sysu_mm01.index(tmp_path / "a")
    (tmp_path / "a/exp/val_id.txt").write_text("77")
    assert sysu_mm01.index(tmp_path / "a").notes["identities of exp/val_id.txt without images"] == 1
    with pytest.raises(ConfigError, match=r"mode=outdoor: did you mean indoor\?"):
        sysu_mm01.index(tmp_path / "a", mode="outdoor")
    with pytest.raises(ConfigError, match=r"trial=-1: must be a whole number from 0"):
        sysu_mm01.index(tmp_path / "a", trial=-1)


# --- RegDB ---


@pytest.mark.parametrize("direction", ["thermal_to_visible", "visible_to_thermal"])
def test_regdb_reads_the_lists_of_its_trial_in_both_directions(tmp_path, direction):
    make_regdb(tmp_path)
    for trial in (1, 2):
        listing = regdb.index(tmp_path, direction=direction, trial=trial)
        asking = direction.split("_")[0]
        for row in listing.table.to_pylist():
            spectrum = row["camera"]
            lines = (tmp_path / f"idx/{row['split']}_{spectrum}_{trial}.txt").read_text().splitlines()
            assert f"{row['path']} {row['class'].split('-')[1]}" in lines
            assert row["role"] == ("query" if spectrum == asking else "gallery")
            assert row["modality"] == {"thermal": "infrared", "visible": "visible"}[spectrum]
        assert len(rows(listing)) == 2 * 2 * 4 * 3
    index = made(partial(regdb.index, direction=direction), tmp_path, val_fraction=0)
    assert len(index.classes()) == 8, "label 0 of train and label 0 of test are two people"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Visible/1/a.bmp\n",
            r"line 1 of .*train_visible_1\.txt is 'Visible/1/a\.bmp', not a path and a number",
        ),
        ("Visible/1/a.bmp x\n", "not a path and a number"),
        ("\n", "names no image"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
    ],
)
def test_regdb_lists_that_are_damaged_are_named(tmp_path, text, message):
    make_regdb(tmp_path)
    file = tmp_path / "idx/train_visible_1.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        regdb.index(tmp_path)


def test_regdb_images_that_are_absent_and_arguments_are_named(tmp_path):
    make_regdb(tmp_path)
    (tmp_path / "Thermal/2/t_00001_2.bmp").unlink()
    with pytest.raises(DataError, match=r"1 of the 48 files of mine are not there: Thermal/2/t_00001_2\.bmp"):
        made(regdb.index, tmp_path)
    with pytest.raises(ConfigError, match=r"trial=11: must be a whole number from 1 to 10"):
        regdb.index(tmp_path, trial=11)
    with pytest.raises(ConfigError, match=r"direction=thermal_to_visble: did you mean thermal_to_visible\?"):
        regdb.index(tmp_path, direction="thermal_to_visble")
    with pytest.raises(DataError, match=r"idx/train_visible_5\.txt is not there"):
        regdb.index(tmp_path, trial=5)


# --- LLCM ---


def test_llcm_takes_train_from_lists_and_test_from_folders(tmp_path):
    make_llcm(tmp_path, images=4)
    listing = llcm.index(tmp_path)
    train = rows(listing, split="train")
    assert Counter(row["modality"] for row in train) == {"visible": 6 * 3 * 4, "infrared": 6 * 2 * 4}
    assert {(row["modality"], row["role"]) for row in rows(listing)} == {
        ("infrared", "query"),
        ("visible", "gallery"),
    }
    for row in rows(listing):
        assert f"_c{int(row['camera'][3:]):02d}_" in row["path"]
    # The published evaluation: one visible image per identity and camera, random.seed(trial).
    random.seed(0)
    expected = set()
    for identity in ("0007", "0008", "0009"):
        for camera in (1, 2, 3):
            files = sorted((tmp_path / f"test_vis/cam{camera}/{identity}").iterdir())
            expected.add(random.choice([str(file.relative_to(tmp_path)) for file in files]))
    assert {row["path"] for row in rows(listing, split="test", role="gallery")} == expected
    assert listing.notes == {"images of test left out by the single-shot gallery": 9 * 3}
    assert len(rows(listing, split="test", role="query")) == 3 * 2 * 4

    other = llcm.index(tmp_path, direction="visible_to_infrared")
    assert {row["modality"] for row in rows(other, role="query")} == {"visible"}
    assert len(rows(other, split="test", role="gallery")) == 3 * 2


def test_llcm_is_carved_by_identity(tmp_path):
    index = made(llcm.index, make_llcm(tmp_path, train=12), val_fraction=0.4)
    names = index.column("class")
    parts = [{names[row] for row in index.rows(split)} for split in ("train", "val", "test")]
    assert [len(part) for part in parts][2] == 3
    assert sum(map(len, parts)) == len(set().union(*parts)) == 15
