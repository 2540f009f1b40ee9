"""Tables in three formats: read back by others, whole or not at all, never over a stranger's file."""

import csv
import json
import os
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.inference.output import SCHEMA, check_output, remove_table, writing

FORMATS = ["csv", "json", "parquet"]
NAMES = ["a.jpg", "comma, b.jpg", 'quo"te.jpg', "new\nline\r.jpg", "ü \u2028.jpg", "=1+1.jpg", "\x07\\.jpg"]


def part(names, seed=0):
    values = np.random.default_rng(seed).normal(0, 9, len(names)).astype(np.float32)
    columns = {"path": names, "logit": values, "probability": np.abs(values) / 100}
    return pa.table(
        {**columns, "verdict": ["real"] * len(names), "band": ["high"] * len(names)}, schema=SCHEMA
    )


def read(path):
    """By the standard library, or pyarrow's own reader; floats as float32."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
    else:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    return [row | {name: float(np.float32(row[name])) for name in ("logit", "probability")} for row in rows]


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def write_all(path, *parts, then=None):
    with writing(path) as write:
        for one in parts:
            write(one)
        if then is not None:
            raise then


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_back_what_was_written(tmp_path, kind):
    out = tmp_path / f"out.{kind}"
    parts = [part(NAMES), part([], 1), part([f"{n}.jpg" for n in range(20_000)], 2), part(["z.jpg"], 3)]
    write_all(out, *parts)
    assert read(out) == pa.concat_tables(parts).to_pylist()
    assert names_in(tmp_path) == [out.name]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_table_without_rows_can_be_read(tmp_path, kind):
    write_all(tmp_path / f"out.{kind}")
    assert read(tmp_path / f"out.{kind}") == []
    assert check_output(tmp_path / f"out.{kind}")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path, kind, error):
    out = tmp_path / f"out.{kind}"
    write_all(out, part(NAMES))
    before = out.read_bytes()
    with pytest.raises(error):
        write_all(out, part(["other.jpg"] * 20_000), then=error)
    assert out.read_bytes() == before
    assert names_in(tmp_path) == [out.name]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, kind):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = part([f"{n:09}.jpg" for n in range(60_000)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a write beyond is refused, as on a full disk
    try:
        with pytest.raises(DataError, match=rf"out.{kind} cannot be written: File too large"):
            write_all(tmp_path / f"out.{kind}", rows, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_a_table_of_ours_is_replaced_and_a_strangers_file_is_not(tmp_path, kind):
    out = tmp_path / f"out.{kind}"
    assert check_output(out) == out
    out.write_bytes(b"")
    assert check_output(out) == out
    write_all(out, part(NAMES))
    assert check_output(out) == out
    strange = {"csv": b"path,label\na.jpg,1\n", "json": b'{"a": 1}', "parquet": b"PAR1"}[kind]
    out.write_bytes(strange)
    with pytest.raises(DataError, match="exists and is no table of predictions: choose another name"):
        check_output(out)
    remove_table(out, SCHEMA)
    assert out.read_bytes() == strange


@pytest.mark.parametrize("name", ["out.xls", "out", "out.CSVS", "out.csv.gz", ".csv"])
def test_an_ending_without_a_format_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"it must be .csv, .json, .parquet, such as"):
        check_output(tmp_path / name)


def test_a_folder_is_no_output(tmp_path):
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(DataError, match=r"out.csv is a folder: name a file in it, such as .*predictions.csv"):
        check_output(tmp_path / "out.csv")


def test_a_place_where_nothing_can_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file is not a folder"):
        check_output(tmp_path / "file" / "out.csv")
    with pytest.raises(DataError, match=r"out.csv cannot be written: "):
        write_all(tmp_path / ("n" * 300) / "out.csv")
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(DataError, match="no permission to write into"):
            check_output(tmp_path / "closed" / "out.csv")
