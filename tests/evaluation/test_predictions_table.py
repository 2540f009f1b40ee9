import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tapetum.errors import DataError
from tapetum.evaluation.predictions import DETECTION, check_predictions, read_predictions

from evaluation.prediction_tables import predictions, random_predictions


def test_a_written_table_is_read_back_unchanged(tmp_path):
    table = random_predictions(20)
    pq.write_table(table, tmp_path / "test.parquet")
    read = read_predictions(tmp_path / "test.parquet")
    assert read.schema == DETECTION
    assert read.to_pydict() == table.to_pydict()


def test_spellings_of_strings_and_an_all_null_generator_are_accepted():
    table = predictions([0, 1], [-1.0, 1.0])
    table = table.set_column(1, "path", table["path"].cast(pa.large_string()))
    table = table.set_column(2, "split", table["split"].dictionary_encode())
    table = table.set_column(4, "generator", pa.nulls(2))
    assert check_predictions(table).schema == DETECTION


def test_an_absent_file_and_a_file_of_another_kind_say_what_to_type(tmp_path):
    with pytest.raises(DataError, match=r"no predictions at .*tapetum evaluate RUN"):
        read_predictions(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(DataError, match=r"text.parquet is not a readable parquet file"):
        read_predictions(tmp_path / "text.parquet")


def test_every_problem_of_the_columns_is_named_at_once():
    table = predictions([0, 1], [-1.0, 1.0]).drop_columns(["path"])
    table = table.set_column(table.column_names.index("logit"), "logit", table["logit"].cast(pa.float64()))
    with pytest.raises(DataError) as caught:
        check_predictions(table, "x.parquet")
    message = str(caught.value)
    assert "x.parquet" in message
    assert "'path' is missing" in message
    assert "'logit' is double, expected float" in message


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", pa.array([0, 2], pa.int64()), "label is 2 in places"),
        ("logit", pa.array([0.0, float("nan")], pa.float32()), r"1 logits are not finite.*test/1.png"),
        ("probability", pa.array([0.5, 1.5], pa.float32()), r"probability leaves \[0, 1\]"),
        ("index", pa.array([3, 3], pa.int64()), "1 rows repeat an index"),
        ("generator", pa.array(["ADM", ""]), "generator is an empty string"),
        ("path", pa.array(["a", None]), "'path' has 1 empty cells"),
    ],
)
def test_values_that_no_detector_writes_are_refused(column, value, message):
    table = predictions([0, 1], [-1.0, 1.0])
    table = table.set_column(table.column_names.index(column), column, value)
    with pytest.raises(DataError, match=message):
        check_predictions(table)


def test_an_empty_table_is_valid():
    assert len(check_predictions(predictions([], []))) == 0
