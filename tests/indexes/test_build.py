import logging
import os
import tarfile
import time
from functools import partial
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.indexes import cifake, folder, manifest, synthetic
from tapetum.indexes.build import build, build_joined
from tapetum.indexes.table import Listing, to_table
from tests.layouts import make_cifake, make_folder, make_image, make_manifest


def made(layout, place, **options):
    return build(layout, **{"root": place, "seed": 0, "cache": None, "name": "mine"} | options)


def paths(index, split):
    return [index.location(row)[1] for row in index.rows(split)]


def test_splits_on_the_disk_stay_and_nothing_is_carved(tmp_path):
    index = made(folder.index, make_folder(tmp_path))
    assert index.counts() == {
        split: {"real": count, "generated": count}
        for split, count in {"train": 24, "val": 8, "test": 8}.items()
    }
    assert index.notes == {}
    assert all((root / path).is_file() for root, path in map(index.location, range(len(index))))


def test_validation_is_carved_where_there_is_none_and_zero_means_none(tmp_path):
    make_folder(tmp_path, splits={"train": 40, "test": 4})
    index = made(folder.index, tmp_path, val_fraction=0.2)
    assert index.notes == {"validation images taken from train": len(index.rows("val"))}
    assert 0 < len(index.rows("val")) < 40
    assert len(index.rows("test")) == 8
    assert made(folder.index, tmp_path, val_fraction=0).counts().keys() == {"train", "test"}


def test_plain_class_folders_are_train_and_validation(tmp_path):
    index = made(folder.index, make_folder(tmp_path, splits={"": 40}))
    assert index.counts().keys() == {"train", "val"}


def test_a_split_may_have_its_own_root(tmp_path):
    make_folder(tmp_path / "base", splits={"train": 3, "val": 2, "test": 2})
    make_folder(tmp_path / "plain", splits={"": 5})
    make_folder(tmp_path / "split", splits={"train": 1, "test": 4})
    index = made(
        folder.index, tmp_path / "base", roots={"train": tmp_path / "plain", "val": tmp_path / "split"}
    )
    assert paths(index, "train") == paths(made(folder.index, tmp_path / "plain", val_fraction=0), "train")
    assert len(paths(index, "val")) == 10, "no val/ inside, so all of it is val"
    assert len(paths(index, "test")) == 4
    assert index.notes == {"images of root left out for a split that has a root of its own": 10}

    index = made(
        folder.index, None, roots={"test": tmp_path / "split", "train": tmp_path / "plain"}, val_fraction=0
    )
    assert all(path.startswith("test/") for path in paths(index, "test"))
    assert index.notes == {"images of roots.test left out that its own folders call another split": 2}


def test_root_is_not_looked_at_where_train_and_test_have_their_own(tmp_path):
    make_folder(tmp_path / "a", splits={"": 30})
    make_folder(tmp_path / "b", splits={"": 2})
    index = made(folder.index, tmp_path / "absent", roots={"train": tmp_path / "a", "test": tmp_path / "b"})
    assert len(index.roots) == 2


@pytest.mark.parametrize(("one", "other"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("link", "a")])
def test_splits_with_overlapping_roots_are_refused(tmp_path, one, other):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)
    with pytest.raises(DataError, match=r"data\.roots\.train=.* and data\.roots\.test=.* overlap"):
        made(folder.index, None, roots={"train": tmp_path / one, "test": tmp_path / other})


def test_a_split_root_inside_root_shares_no_file_with_another_split(tmp_path):
    make_folder(tmp_path, splits={"train": 3, "test": 2})
    index = made(folder.index, tmp_path, roots={"train": tmp_path / "train"}, val_fraction=0)
    assert (len(index.rows("train")), len(index.rows("test"))) == (6, 4)
    with pytest.raises(DataError, match=r"4 files are in mine more than once: .*test/ai_generated/0000\.jpg"):
        made(folder.index, tmp_path, roots={"train": tmp_path / "test"}, val_fraction=0)


def test_a_number_limits_every_split_and_a_mapping_the_splits_it_names(tmp_path):
    make_folder(tmp_path)
    counts = made(folder.index, tmp_path, limit=4).counts()
    assert counts == {split: {"real": 2, "generated": 2} for split in ("train", "val", "test")}
    index = made(folder.index, tmp_path, limit={"train": 6, "val": None})
    assert [len(index.rows(split)) for split in ("train", "val", "test")] == [6, 16, 16]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, r"data\.limit=0: must be a whole number of images"),
        ({"limit": {"train": 2.5}}, r"data\.limit\.train=2\.5: must be a whole number"),
        (
            {"limit": {"trian": 2}},
            r"unknown split data\.limit\.trian: did you mean train\? splits: train, val, test",
        ),
        ({"roots": {"testing": "x"}}, r"unknown split data\.roots\.testing: did you mean test\?"),
        ({"val_fraction": 1.0}, r"data\.val_fraction=1\.0: must be at least 0"),
        ({"root": None}, r"data\.root is not set: type data\.root=<folder of mine>"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        made(folder.index, tmp_path, **options)


def test_a_missing_folder_names_the_override(tmp_path):
    missing = tmp_path / "cifake"
    with pytest.raises(DataError) as error:
        made(cifake.index, missing, name="cifake")
    assert str(error.value) == (
        f"data.root={missing} is not a folder: type data.root=<folder of cifake>, or set TAPETUM_DATA to the "
        f"folder that holds cifake/"
    )
    make_folder(tmp_path / "a", splits={"": 2})
    with pytest.raises(
        DataError, match=r"^data\.roots\.test=.*gone is not a folder: type data\.roots\.test=<folder"
    ):
        made(folder.index, None, roots={"train": tmp_path / "a", "test": tmp_path / "gone"})
    with pytest.raises(DataError, match=r"^data\.root=.* is not a folder"):
        made(manifest.index, missing)


def test_an_empty_folder_and_one_class_are_refused(tmp_path):
    (tmp_path / "empty" / "real").mkdir(parents=True)
    (tmp_path / "empty" / "real" / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"holds no images for mine .*no images by their ending: 1"):
        made(folder.index, tmp_path / "empty")
    make_image(tmp_path / "one" / "train" / "real" / "a.png", generated=False)
    with pytest.raises(DataError, match=r"the train split of mine has one class only \(real: 1\)"):
        made(folder.index, tmp_path / "one", val_fraction=0)
    make_folder(tmp_path / "two", splits={"train": 5})
    with pytest.raises(DataError, match=r"one class only .*; data\.limit=1 may be too small"):
        made(folder.index, tmp_path / "two", val_fraction=0, limit=1)


def test_a_test_set_of_one_class_may_be_evaluated(tmp_path):
    make_image(tmp_path / "test" / "fake" / "a.png", generated=True)
    assert made(folder.index, tmp_path, splits=["test"]).counts() == {"test": {"generated": 1}}


@pytest.mark.parametrize("options", [{"splits": ["test"]}, {"limit": {"test": 3}}])
def test_a_split_that_is_asked_for_must_not_be_empty(tmp_path, options):
    make_folder(tmp_path, splits={"train": 20})
    with pytest.raises(
        DataError, match=r"the test split of mine is empty \(train: \d+, val: \d+\): type data\.roots\."
    ):
        made(folder.index, tmp_path, **options)


def test_a_required_column_must_be_there_and_full(tmp_path):
    make_folder(tmp_path, splits={"train": 2})
    with pytest.raises(
        DataError, match=r"no column captions, which the model needs; it has path, root, split, label"
    ):
        made(folder.index, tmp_path, required=["captions"])

    def unlabelled(root: Path) -> Listing:
        files = [f"train/real/000{number}.jpg" for number in (0, 1)]
        return Listing(to_table({"path": files, "label": [0, None]}), watched=(root,))

    with pytest.raises(DataError, match=r"1 images of mine have no label, the first is train/real/0001\.jpg"):
        made(unlabelled, tmp_path, val_fraction=0)


def test_a_label_that_is_neither_real_nor_generated_is_named(tmp_path):
    def third_class(root: Path) -> Listing:
        columns = {"path": ["a", "b", "c"], "label": [0, 2, 3], "generator": [None] * 3}
        return Listing(to_table(columns), watched=(root,))

    with pytest.raises(DataError, match=r"2 labels of mine are neither 0 .* the first is 2 of b"):
        made(third_class, tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    make_folder(tmp_path / "data", splits={"train": 2})
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(
        DataError, match=r"mine can't be listed .*paths\.cache \(TAPETUM_CACHE\) can be written"
    ):
        made(folder.index, tmp_path / "data", cache=tmp_path / "cache")


def test_a_list_with_files_that_are_absent_or_named_twice_is_refused(tmp_path):
    make_manifest(tmp_path, splits={"train": 10})
    for number in range(7):
        (tmp_path / "images" / f"train, real {number:04d}.png").unlink()
    with pytest.raises(
        DataError, match=r"7 of the 20 files of mine are not there: .*real 0004\.png and 2 more \("
    ):
        made(manifest.index, tmp_path)
    (tmp_path / "manifest.csv").write_text("path,label\na.png,real\n./a.png,fake\n")
    with pytest.raises(DataError, match=r"1 files are in mine more than once: .*a\.png"):
        made(manifest.index, tmp_path)


def test_a_list_that_names_a_split_in_some_rows_only_is_refused(tmp_path):
    (tmp_path / "manifest.csv").write_text("path,split\na.png,train\nb.png,\n")
    with pytest.raises(DataError, match=r"row 2 \(b\.png\) has no split, but other rows have one"):
        made(manifest.index, tmp_path, required=[])


def test_groups_of_a_list_may_not_straddle_its_splits(tmp_path):
    (tmp_path / "manifest.csv").write_text("path,split,group\na.png,train,x\nb.png,test,x\n")
    with pytest.raises(DataError, match="'x' in test and train"):
        made(manifest.index, tmp_path, required=[])


def test_several_boxes_and_several_conversations_of_one_image_are_rows_of_their_own(tmp_path):
    make_image(tmp_path / "a.png", generated=False)

    def boxes(root: Path, box: float) -> Listing:
        rows = {"path": ["a.png"] * 2, "box": [[0.0, 0, 4, 4], [box, 0, 8, 4]]}
        return Listing(to_table(rows), watched=(root,))

    def conversations(root: Path) -> Listing:
        turns = [[{"role": "user", "content": str(number)}] for number in range(2)]
        return Listing(to_table({"path": ["a.png"] * 2, "messages": turns}), watched=(root,))

    assert len(made(partial(boxes, box=4.0), tmp_path, required=[])) == 2
    assert len(made(conversations, tmp_path, required=[])) == 2

    def twice(root: Path) -> Listing:
        return Listing(to_table({"path": ["a.png"] * 2, "box": [[0.0, 0, 4, 4]] * 2}), watched=(root,))

    with pytest.raises(DataError, match=r"1 files are in mine more than once: .*a\.png box"):
        made(twice, tmp_path, required=[])


def test_empty_files_are_kept_and_counted(tmp_path):
    make_folder(tmp_path, splits={"train": 4})
    (tmp_path / "train" / "real" / "0000.jpg").write_bytes(b"")
    index = made(folder.index, tmp_path, val_fraction=0)
    assert len(index) == 8
    assert index.notes == {"files of zero bytes (kept; reading them is an error)": 1}


def test_copies_across_cifake_splits_are_removed_even_where_splits_have_their_own_roots(tmp_path):
    make_cifake(tmp_path, copies=3)
    whole = made(cifake.index, tmp_path, val_fraction=0)
    parts = made(cifake.index, None, roots={s: tmp_path / s for s in ("train", "test")}, val_fraction=0)
    for index in (whole, parts):
        assert index.counts() == {"train": {"real": 24, "generated": 24}, "test": {"real": 8, "generated": 8}}
        assert index.notes == {"exact duplicates of other splits removed from train": 3}
        assert not any("copy" in path for path in paths(index, "train"))


def test_real_cifake_shares_no_bytes_between_splits(shared_data, tmp_path):
    with tarfile.open(shared_data / "cifake.tar") as archive:
        wanted = [member for member in archive.getmembers() if member.name.endswith(" (7).jpg")]
        archive.extractall(tmp_path, members=wanted, filter="data")
    index = made(cifake.index, tmp_path / "cifake")
    contents = {
        split: {(root / path).read_bytes() for root, path in map(index.location, index.rows(split).tolist())}
        for split in ("train", "val", "test")
    }
    assert not contents["train"] & contents["test"]
    assert not contents["train"] & contents["val"]
    assert not contents["val"] & contents["test"]
    assert all(contents.values())
    files = {split: list((tmp_path / "cifake" / split).rglob("*.jpg")) for split in ("train", "test")}
    evaluated = {md5(file.read_bytes()).digest() for file in files["test"]}
    copies = sum(md5(file.read_bytes()).digest() in evaluated for file in files["train"])
    assert index.notes["exact duplicates of other splits removed from train"] == copies > 0


# What is kept on the disk


@pytest.fixture
def counted(monkeypatch):
    """The folder layout, and how often it was asked to list."""
    calls = []

    def index(root: Path, *, generated=folder.GENERATED) -> Listing:
        calls.append(root)
        return folder.index(root, generated=generated)

    return index, calls


@pytest.fixture
def data(tmp_path):
    """A folder whose times lie safely before any listing."""
    root = make_folder(tmp_path / "data", splits={"train": 12, "test": 4})
    for path in [root, *root.rglob("*")]:
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return root


def test_an_unchanged_folder_is_listed_once(tmp_path, data, counted):
    layout, calls = counted
    first = made(layout, data, cache=tmp_path / "cache")
    second = made(layout, data, cache=tmp_path / "cache", splits=["train", "test"])
    assert len(calls) == 1
    assert second == first
    assert second.table.schema == first.table.schema
    assert [path.suffix for path in (tmp_path / "cache" / "indexes").glob("*/*")].count(".parquet") == 1


@pytest.mark.parametrize("depth", ["train/real/new.jpg", "train/real/deeper/new.jpg"])
def test_an_added_file_is_found(tmp_path, data, counted, depth):
    layout, _ = counted
    before = made(layout, data, cache=tmp_path / "cache")
    make_image(data / depth, generated=False)
    after = made(layout, data, cache=tmp_path / "cache")
    assert len(after) == len(before) + 1
    assert after.fingerprint != before.fingerprint


def test_a_removed_file_and_a_removed_folder_are_found(tmp_path, data, counted):
    layout, _ = counted
    before = made(layout, data, cache=tmp_path / "cache")
    (data / "train" / "real" / "0000.jpg").unlink()
    assert len(made(layout, data, cache=tmp_path / "cache")) == len(before) - 1
    data.rename(tmp_path / "away")
    with pytest.raises(DataError, match="is not a folder"):
        made(layout, data, cache=tmp_path / "cache")


def test_files_edited_in_place_are_found_by_rescan_only(tmp_path, data, counted):
    layout, _ = counted
    file = data / "train" / "real" / "0000.jpg"
    before = made(layout, data, cache=tmp_path / "cache")
    content = file.read_bytes()
    file.write_bytes(content[::-1])
    assert made(layout, data, cache=tmp_path / "cache").edition == before.edition
    same_size = made(layout, data, cache=tmp_path / "cache", rescan=True)
    assert same_size.edition != before.edition
    assert same_size.fingerprint == before.fingerprint
    file.write_bytes(content + b"more")
    longer = made(layout, data, cache=tmp_path / "cache", rescan=True)
    assert longer.fingerprint != before.fingerprint
    assert made(layout, data, cache=tmp_path / "cache") == longer


def test_a_manifest_edited_in_place_is_found(tmp_path):
    root = make_manifest(tmp_path / "data", splits={"train": 10})
    before = made(manifest.index, root, cache=tmp_path / "cache")
    list_file = root / "manifest.csv"
    list_file.write_text("".join(list_file.read_text().splitlines(keepends=True)[:-1]))
    assert len(made(manifest.index, root, cache=tmp_path / "cache")) == len(before) - 1


@pytest.mark.parametrize(
    "options",
    [{"limit": 4}, {"val_fraction": 0.3}, {"roots": {"test": "other"}}, {"generated": ["ai_generated"]}],
)
def test_other_arguments_are_another_index(tmp_path, data, counted, options):
    layout, calls = counted
    make_folder(tmp_path / "other", splits={"": 2}, seed=5)
    arguments = {key: value for key, value in options.items() if key == "generated"}
    options = {key: value for key, value in options.items() if key != "generated"}
    if "roots" in options:
        options["roots"] = {"test": tmp_path / "other"}
    made(layout, data, cache=tmp_path / "cache")
    once = len(calls)
    made(partial(layout, **arguments), data, cache=tmp_path / "cache", **options)
    assert len(calls) > once


def test_the_seed_matters_only_to_a_limit(tmp_path, data, counted):
    layout, calls = counted
    for seed in (1, 2):
        made(layout, data, cache=tmp_path / "cache", seed=seed)
    assert len(calls) == 1
    limited = [made(layout, data, cache=tmp_path / "cache", seed=seed, limit=6) for seed in (1, 2)]
    assert limited[0].fingerprint != limited[1].fingerprint


def test_a_damaged_kept_index_is_made_anew_with_a_warning(tmp_path, data, counted, caplog):
    layout, calls = counted
    before = made(layout, data, cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").rglob("index.parquet")
    kept.write_bytes(kept.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert made(layout, data, cache=tmp_path / "cache") == before
    assert "is damaged" in caplog.text
    assert len(calls) == 2


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path, data):
    copy = make_folder(tmp_path / "copy", splits={"train": 12, "test": 4})
    one, two = made(folder.index, data), made(folder.index, copy)
    assert one.fingerprint == two.fingerprint
    assert one.edition != two.edition
    assert made(folder.index, data, val_fraction=0).fingerprint != one.fingerprint
    assert made(partial(folder.index, generated=["ai_generated"]), data).fingerprint == one.fingerprint


def test_a_set_that_renders_itself_is_kept_from_its_first_start(tmp_path):
    calls = []

    def layout(root: Path) -> Listing:
        calls.append(root)
        return synthetic.index(root, train=16, test=8, size=16)

    first = made(layout, tmp_path / "data", cache=tmp_path / "cache", val_fraction=0)
    listed = len(calls)
    assert made(layout, tmp_path / "data", cache=tmp_path / "cache", val_fraction=0) == first
    assert len(calls) == listed


def test_a_layout_argument_that_is_no_plain_value_is_refused(tmp_path, data):
    with pytest.raises(TypeError, match="must be plain data"):
        made(partial(folder.index, real=[object()]), data, cache=tmp_path / "cache")


def test_a_hundred_thousand_rows_start_again_in_a_moment(tmp_path, record_property):
    """The times are reported, not judged; the memory is."""

    def listed(root: Path) -> Listing:
        names = [f"train/{row // 1000:03d}.tar::ILSVRC2012_{row:08d}.JPEG" for row in range(100_000)]
        made_by = ["stable_diffusion_v_1_4" if row % 2 else None for row in range(100_000)]
        columns = {"path": names, "label": np.arange(100_000) % 2, "generator": made_by}
        return Listing(to_table(columns), watched=(root,))

    (tmp_path / "data" / "train").mkdir(parents=True)
    for shard in range(100):
        (tmp_path / "data" / f"train/{shard:03d}.tar").write_bytes(b"x")
    times = []
    for _ in range(2):
        began = time.perf_counter()
        index = made(listed, tmp_path / "data", cache=tmp_path / "cache")
        times.append(time.perf_counter() - began)
    record_property("seconds to list and to start again", times)
    size = index.table.nbytes / len(index)
    print(f"100,000 rows: listed in {times[0]:.2f} s, again in {times[1]:.3f} s, {size:.0f} bytes a row")
    assert size < 200


def test_joined_data_sets_may_each_have_one_class_but_not_all_the_same(tmp_path):
    for number, name in enumerate(("a", "b")):
        for image in range(4):
            make_image(tmp_path / name / ("real", "fake")[number] / f"{image}.png", generated=bool(number))
    with pytest.raises(DataError, match=r"train split of mine has one class only \(real: 4\)"):
        made(folder.index, tmp_path / "a", val_fraction=0)
    parts = {name: made(folder.index, tmp_path / name, val_fraction=0, part=True, name=name) for name in "ab"}
    assert build_joined(parts).counts() == {"train": {"real": 4, "generated": 4}}
    with pytest.raises(DataError, match=r"train split of a has one class only \(real: 4\)"):
        build_joined({"a": parts["a"]})


def test_joined_data_sets_that_share_a_file_are_refused(tmp_path):
    make_folder(tmp_path, splits={"train": 3, "test": 2})
    one = made(folder.index, tmp_path, val_fraction=0, part=True)
    other = made(folder.index, tmp_path / "test", val_fraction=0, part=True)
    with pytest.raises(
        DataError, match=r"4 files are in one and other more than once: .*test/ai_generated/0000\.jpg"
    ):
        build_joined({"one": one, "other": other})
