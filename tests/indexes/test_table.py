import pickle
from pathlib import Path

import numpy as np
import pytest
from tapetum.indexes.table import TYPES, Index, join, to_table


@pytest.fixture
def index() -> Index:
    table = to_table(
        {
            "path": ["a.png", "b.tar::c.png", "d.png", "e.png"],
            "root": [0, 1, 0, 1],
            "split": ["train", "test", "train", "val"],
            "label": [1, 0, 0, 1],
            "generator": ["sd", None, None, "adm"],
        }
    )
    return Index(table, (Path("/x"), Path("/y")), "f" * 32)


def test_rows_are_the_row_numbers_of_a_split(index):
    assert index.rows("train").tolist() == [0, 2]
    assert index.rows("train").dtype == np.int64
    assert index.rows("val").tolist() == [3]
    assert Index(index.table.slice(0, 1), index.roots, "").rows("test").tolist() == []


def test_a_location_is_the_row_s_own_root_and_path(index):
    assert [index.location(row) for row in (0, 1)] == [(Path("/x"), "a.png"), (Path("/y"), "b.tar::c.png")]


def test_columns_are_integers_or_lists(index):
    assert index.column("label").tolist() == [1, 0, 0, 1]
    assert index.column("label").dtype == np.int64
    assert index.column("generator") == ["sd", None, None, "adm"]


def test_codes_number_the_sorted_names_and_nulls_are_minus_one(index):
    codes, names = index.codes("generator")
    assert names == index.generators() == ["adm", "sd"]
    assert codes.tolist() == [1, -1, -1, 0]
    assert index.codes("camera")[0].tolist() == [-1] * 4


def test_counts_name_classes_as_the_task_does(index):
    assert index.counts() == {
        "train": {"real": 1, "generated": 1},
        "val": {"generated": 1},
        "test": {"real": 1},
    }
    identities = Index(index.table.drop_columns(["generator"]), index.roots, "")
    assert identities.counts()["train"] == {"0": 1, "1": 1}
    images = Index(index.table.drop_columns(["generator", "label"]), index.roots, "")
    assert images.counts()["train"] == {"images": 2}


def test_classes_are_counted_by_their_names_where_they_have_one(index):
    columns = {name: index.table.column(name) for name in index.table.column_names if name != "generator"}
    named = Index(to_table({**columns, "class": ["cat", "ant", "ant", "cat"]}), index.roots, "")
    assert named.classes() == {0: "ant", 1: "cat"}
    assert named.counts()["train"] == {"ant": 1, "cat": 1}
    assert index.classes() == {}


def test_what_is_judged_is_the_test_split_or_all_of_a_data_set_without_one(index):
    assert index.judged().column("split") == index.column("split")
    untested = Index(index.table.filter([True, False, True, True]), index.roots, "")
    assert untested.judged().column("split") == ["test"] * 3
    joined = join({"a": index, "b": untested}).judged()
    assert joined.column("split") == [*index.column("split"), "test", "test", "test"]


def test_every_column_of_every_task_can_be_written_and_read():
    values = {
        "path": "a",
        "further_images": ["b", "c"],
        "root": 0,
        "split": "train",
        "box": [0.0, 0.0, 2.0, 2.5],
        "group": "g",
        "data": "d",
        "label": 3,
        "generator": "x",
        "class": "person",
        "captions": ["one", "two"],
        "role": "gallery",
        "camera": "c1",
        "sequence": "s",
        "modality": "infrared",
        "messages": [{"role": "user", "content": "what?"}],
    }
    assert values.keys() == TYPES.keys()
    table = to_table({name: [value, value] for name, value in values.items()})
    assert table.to_pylist() == [values, values]
    assert [table.schema.field(name).type for name in TYPES] == list(TYPES.values())


def test_an_unknown_column_is_refused():
    with pytest.raises(ValueError, match=r"no columns \['caption'\]"):
        to_table({"path": ["a"], "caption": ["x"]})


def test_joined_data_sets_keep_their_files_and_say_where_they_came_from(index):
    other = Index(
        to_table({"path": ["z"], "root": [0], "split": ["test"], "label": [1]}), (Path("/z"),), "e", {"n": 2}
    )
    both = join({"first": index, "second": other})
    assert [both.location(row)[0] for row in range(5)] == [Path(p) for p in ("/x", "/y", "/x", "/y", "/z")]
    assert both.column("data") == ["first"] * 4 + ["second"]
    assert both.column("generator") == ["sd", None, None, "adm", None]
    assert both.notes == {"second: n": 2}
    assert both.rows("test").tolist() == [1, 4]
    assert both.table.column_names == [name for name in TYPES if name in both.table.column_names]


def test_a_generator_that_several_data_sets_name_is_told_apart_by_its_set(index):
    rows = {"path": ["z", "y", "x"], "root": [0] * 3, "split": ["test"] * 3, "label": [1, 0, 0]}
    other = Index(to_table({**rows, "generator": ["sd", "sd", None]}), (Path("/z"),), "e")
    both = join({"first": index, "second": other})
    assert both.column("generator") == ["first.sd", None, None, "adm", "second.sd", "second.sd", None]
    assert both.generators() == ["adm", "first.sd", "second.sd"]
    assert index.generators() == ["adm", "sd"], "the parts stay as they are"


def test_identities_of_joined_sets_are_numbered_anew_and_told_apart_where_they_share_a_name():
    def identities(names):
        rows = {
            "path": [f"{n}" for n in range(len(names))],
            "root": [0] * len(names),
            "split": ["train"] * len(names),
        }
        return Index(to_table({**rows, "label": range(len(names)), "class": names}), (Path("/x"),), "f")

    both = join({"one": identities(["anna", "zoe"]), "two": identities(["anna", "bert"])})
    assert both.column("class") == ["one.anna", "zoe", "two.anna", "bert"]
    assert both.column("label").tolist() == [1, 3, 2, 0]
    assert both.classes() == {0: "bert", 1: "one.anna", 2: "two.anna", 3: "zoe"}


def test_an_index_travels_to_loader_workers(index):
    assert pickle.loads(pickle.dumps(index)) == index
