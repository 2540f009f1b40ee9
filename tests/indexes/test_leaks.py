"""Queries that are in the gallery under another name, or that were learnt from."""

import pytest
from tapetum.errors import DataError
from tapetum.indexes.leaks import check_no_copies, check_unseen
from tapetum.indexes.table import Index, to_table


@pytest.fixture
def index_of(tmp_path):
    """Rows (path, split, content) → an Index of these files."""

    def make(*rows, folder="data", boxes=None):
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        for path, _, content in rows:
            (root / path).write_bytes(content)
        columns = {
            "path": [path for path, _, _ in rows],
            "root": [0] * len(rows),
            "split": [split for _, split, _ in rows],
            "label": [0] * len(rows),
        }
        return Index(to_table(columns | ({} if boxes is None else {"box": boxes})), (root,), "")

    return make


def test_a_query_with_the_bytes_of_a_gallery_image_is_named_with_it(index_of):
    index = index_of(("a", "train", b"1"), ("b", "train", b"2"), ("c", "test", b"2"), ("d", "test", b"3"))
    with pytest.raises(DataError, match=r"1 of 2 queries are byte for byte images of the gallery.*c is b"):
        check_no_copies(index, "test")


def test_copies_within_a_side_and_empty_files_are_no_leak(index_of):
    check_no_copies(
        index_of(("a", "train", b"1"), ("b", "train", b"1"), ("e", "train", b""), ("c", "test", b"2"),
                 ("d", "test", b"2"), ("f", "test", b"")),
        "test",
    )  # fmt: skip


def test_two_boxes_of_one_content_are_two_images(index_of):
    rows = ("a", "train", b"1"), ("b", "test", b"1")
    check_no_copies(index_of(*rows, boxes=[[0, 0, 2, 2], [2, 2, 4, 4]]), "test")
    with pytest.raises(DataError, match="b is a"):
        check_no_copies(index_of(*rows, boxes=[[0, 0, 2, 2], [0, 0, 2, 2]]), "test")


@pytest.mark.parametrize("learnt", ["train", "val"])
def test_queries_that_taught_or_chose_are_named(index_of, learnt):
    rows = ("a", "train", b"1"), ("c", "test", b"2"), ("d", "test", b"3")
    trained = index_of(("d", learnt, b"3"), ("a", "test", b"1"))
    with pytest.raises(DataError, match=r"trained on 1 of the 2 queries.*: d"):
        check_unseen(index_of(*rows), "test", trained)


def test_files_of_the_same_name_elsewhere_were_not_seen(index_of):
    rows = ("a", "train", b"1"), ("c", "test", b"2")
    check_unseen(index_of(*rows), "test", index_of(("c", "train", b"other"), folder="other"))


def test_a_copy_of_what_was_learnt_from_was_seen_wherever_it_lies(index_of):
    rows = ("a", "train", b"1"), ("new_name", "test", b"2")
    with pytest.raises(DataError, match=r"trained on 1 of the 1 queries.*: new_name"):
        check_unseen(index_of(*rows), "test", index_of(("c", "train", b"2"), folder="other"))
