import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tapetum.errors import DataError
from tapetum.evaluation.retrieval_predictions import (
    check_retrieval_predictions,
    embeddings,
    read_retrieval_predictions,
)

from evaluation.embedding_tables import embedding_table

VECTORS = np.eye(3, 4)


def table(**columns):
    return embedding_table(VECTORS, [0, 1, 1], **columns)


def replaced(name, values):
    found = table()
    return found.set_column(found.column_names.index(name), name, values)


def test_a_written_table_is_read_back_unchanged(tmp_path):
    written = table(camera=["a", None, "b"], box=[None, [0, 1, 2, 3], None])
    pq.write_table(written, tmp_path / "test.parquet")

    read = read_retrieval_predictions(tmp_path / "test.parquet")

    assert read.column_names == written.column_names
    assert read.to_pydict() == written.to_pydict()
    assert embeddings(read).tolist() == VECTORS.tolist()


def test_embeddings_of_a_slice_are_those_of_its_rows():
    assert embeddings(table().slice(1, 2)).tolist() == VECTORS[1:].tolist()
    assert embeddings(pa.concat_tables([table().slice(2), table().slice(0, 1)])).tolist() == [
        VECTORS[2].tolist(),
        VECTORS[0].tolist(),
    ]


def test_spellings_of_strings_and_empty_columns_are_accepted_and_others_left_out():
    spelt = replaced("role", pa.array(["query"] * 3).dictionary_encode()).append_column("x", pa.nulls(3))
    spelt = spelt.set_column(spelt.column_names.index("camera"), "camera", pa.nulls(3))

    checked = check_retrieval_predictions(spelt)

    assert checked.schema.field("role").type == pa.string()
    assert "x" not in checked.column_names


def test_an_absent_file_and_a_file_of_another_kind_say_what_to_type(tmp_path):
    with pytest.raises(DataError, match=r"no predictions at .*tapetum evaluate RUN"):
        read_retrieval_predictions(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(DataError, match=r"text.parquet is not a readable parquet file"):
        read_retrieval_predictions(tmp_path / "text.parquet")


def test_every_problem_of_the_columns_is_named_at_once():
    with pytest.raises(DataError) as caught:
        check_retrieval_predictions(table().drop_columns(["path", "embedding"]), "x.parquet")
    message = str(caught.value)
    assert "x.parquet is not a table of embeddings" in message
    assert "'path' is missing" in message
    assert "'embedding' is missing" in message


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("role", pa.array(["query", "probe", "query"]), "role is 'probe' in places"),
        ("role", pa.array(["query", None, "query"]), "'role' has 1 empty cells"),
        ("index", pa.array([1, 1, 2]), "1 rows repeat an index"),
        ("label", pa.array([0, -1, 2]), "1 labels are negative"),
        (
            "embedding",
            pa.array([[1.0, 0], [math.nan, 0], [0, 1]], pa.list_(pa.float32(), 2)),
            "1 embeddings are not finite, the first is of query/1.png",
        ),
        (
            "embedding",
            pa.array([[1.0, 0], [0, 1], [0, 7]], pa.list_(pa.float32(), 2)),
            r"1 embeddings are not L2-normalised, the first is of query/2.png \(length 7\)",
        ),
        (
            "embedding",
            pa.array([[1.0, 0], None, [0, 1]], pa.list_(pa.float32(), 2)),
            "'embedding' has .* empty cells",
        ),
        (
            "embedding",
            pa.array([[1.0, 0], [1, 0], [0, 1]], pa.list_(pa.float64(), 2)),
            r"expected fixed_size_list<float32>\[D\]",
        ),
    ],
)
def test_values_that_no_embedder_writes_are_refused(column, value, message):
    with pytest.raises(DataError, match=message):
        check_retrieval_predictions(replaced(column, value))
