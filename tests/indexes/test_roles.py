"""Who searches what, split by split."""

from pathlib import Path

import pytest
from tapetum.errors import DataError
from tapetum.indexes.roles import GALLERY, QUERY, resolved, roles, train_gallery
from tapetum.indexes.table import Index, to_table


def index_of(*rows):
    """Rows (split, role)."""
    table = to_table(
        {
            "path": [f"{number}.png" for number in range(len(rows))],
            "root": [0] * len(rows),
            "split": [split for split, _ in rows],
            "label": [0] * len(rows),
            "role": [role for _, role in rows],
        }
    )
    return Index(table, (Path("/data"),), "")


def test_a_split_without_a_gallery_searches_what_was_learnt_from():
    index = index_of(
        ("train", None), ("test", None), ("train", "gallery"), ("val", "query"), ("test", "query")
    )
    found = roles(index, "test")
    assert found.queries.tolist() == [1, 4]
    assert found.gallery.tolist() == [0, 2]
    assert not found.own
    assert roles(index, "val").queries.tolist() == [3]
    assert resolved(index).tolist() == [GALLERY, QUERY, GALLERY, QUERY, QUERY]


def test_train_images_that_are_queries_are_searched_by_nobody():
    index = index_of(("train", "query"), ("train", "gallery"), ("test", None))
    assert train_gallery(index).tolist() == [1]
    assert roles(index, "test").gallery.tolist() == [1]
    assert resolved(index).tolist() == [QUERY, GALLERY, QUERY]


def test_a_split_with_a_gallery_is_searched_for_itself():
    index = index_of(("train", None), ("test", "gallery"), ("test", "query"), ("test", "gallery"))
    found = roles(index, "test")
    assert (found.queries.tolist(), found.gallery.tolist(), found.own) == ([2], [1, 3], True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("test", "query")], "the gallery of test is empty"),
        ([("test", "gallery"), ("train", None)], "the queries of test are empty"),
        ([("train", "query"), ("test", None)], "the gallery of test is empty"),
        ([("test", "gallery"), ("test", "query"), ("test", None)], "the first is 2.png: give every image"),
    ],
)
def test_an_empty_or_half_given_role_is_an_error(rows, message):
    with pytest.raises(DataError, match=message):
        roles(index_of(*rows), "test")
