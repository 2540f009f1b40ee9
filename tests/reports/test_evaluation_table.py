"""The evaluation's table in all its forms, and the cross-generator matrix."""

import csv
import json
import math

import pytest
from tapetum.evaluation.detection import evaluate
from tapetum.evaluation.published import own_figures, published
from tapetum.evaluation.table import evaluation_table
from tapetum.reports.evaluation_table import line_name, terminal_table, write_tables
from tapetum.reports.matrix import heat_map, matrix, write_matrix
from tapetum.reports.published import beside, published_tables

from evaluation.prediction_tables import predictions, random_predictions
from reports.pages import printed


def table_of(rows, threshold=0.3):
    found = evaluate(rows, threshold=threshold, oracle=True)
    return evaluation_table(
        rows, {"val/threshold": threshold} | {f"test/{name}": value for name, value in found.items()}
    )


def test_files_hold_the_same_figures(tmp_path):
    found = table_of(random_predictions(120, names=("a_1", "b|c")))
    write_tables(found, tmp_path, title="run & more")
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    lines = json.loads((tmp_path / "table.json").read_text())["lines"]
    assert [row["line"] for row in rows] == [line["line"] for line in lines]
    for row, line in zip(rows, lines, strict=True):
        assert {name: float(row[name]) for name in line["figures"]} == line["figures"]
    accuracy = f"{100 * found.lines[0].figures['accuracy']:.1f} ["
    markdown, latex = (tmp_path / "table.md").read_text(), (tmp_path / "table.tex").read_text()
    assert f"| a_1 | {accuracy}" in markdown
    assert r"b\|c" in markdown
    assert rf"a\_1 & {accuracy}" in latex
    assert r"run \& more" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len({line.count(" & ") for line in body}) == 1


def test_undefined_is_a_dash_an_empty_cell_and_null(tmp_path):
    found = table_of(predictions([1, 1, 1], [1.0, 2.0, -1.0], ["ADM"] * 3))
    write_tables(found, tmp_path, title="run")
    assert json.loads((tmp_path / "table.json").read_text())["lines"][0]["figures"]["auroc"] is None
    assert next(csv.DictReader((tmp_path / "table.csv").open()))["auroc"] == ""
    assert "–" in printed(terminal_table(found, "run"))


def test_the_oracle_says_that_it_has_looked():
    text = printed(terminal_table(table_of(random_predictions(120)), "run"))
    assert "it has looked at the test set" in " ".join(text.split())


def test_published_rows_stand_beside_ones_own_and_say_what_they_are(tmp_path):
    table = published("genimage")
    found = table_of(random_predictions(160, names=("ADM", "glide")))
    own = own_figures(found, "", table)
    head, rows = beside("mine", table, own)
    mine = next(row for row in rows if row.own)
    assert mine.cells[head.index("ADM") - 2] == f"{100 * own['accuracy']['ADM']:.1f}"
    assert mine.cells[-1] == "–"
    shown = "".join(printed(block) for block in published_tables("mine", table, own, 120))
    assert "published figures" in shown
    assert "→ mine" in shown
    write_tables(found, tmp_path, title="run", published=[("mine", table, own)])
    assert "GenImage README, Table 3" in (tmp_path / "table.md").read_text()


GENIMAGE = published("genimage").generators


def test_a_narrow_terminal_keeps_every_name_and_figure():
    found = table_of(random_predictions(320, names=GENIMAGE))
    text = printed(terminal_table(found, "run [x]"), width=80)
    assert "run [x]" in text
    assert max(map(len, text.splitlines())) <= 80
    for line in found.lines:
        cells = next(one for one in text.splitlines() if one.startswith(line_name(line)))
        figures = [f"{100 * line.figures[name]:.1f}" for name in ("accuracy", "auroc", "ap")]
        assert all(figure in cells for figure in figures), cells
    assert "…" not in text


def test_a_narrow_terminal_goes_on_with_the_published_columns_below():
    table = published("genimage")
    own = own_figures(table_of(random_predictions(320, names=GENIMAGE)), "", table)
    blocks = [printed(block, width=80) for block in published_tables("mine", table, own, 80)]
    assert len(blocks) == 2
    text = "".join(blocks)
    assert max(map(len, text.splitlines())) <= 80
    mine = [cell for line in text.splitlines() if "→ mine" in line for cell in line.split()[2:]]
    assert mine == [f"{100 * own['accuracy'][name]:.1f}" for name in (*table.generators, "mean")]


def test_published_lines_without_a_figure_in_the_columns_shown_are_left_out():
    table = published("univfd")
    own = own_figures(table_of(random_predictions(80, names=("guided", "san"))), "", table)
    text = "".join(printed(block) for block in published_tables("mine", table, own, 120))
    assert "Effort" in text
    assert "C2P-CLIP" not in text  # published as a mean only
    assert "real_accuracy" not in text


def config(*generators):
    return {"data": {"index": {"train_generators": list(generators)}}}


def figures(**values):
    return {f"test/generator/{name}/balanced_accuracy": value for name, value in values.items()}


def test_the_matrix_has_a_row_a_choice_and_averages_seeds(tmp_path):
    runs = [
        (config("b"), figures(a=0.6, b=0.9)),
        (config("a"), figures(a=0.8, b=0.5)),
        (config("a"), figures(a=1.0, b=math.nan)),
    ]
    found = matrix(runs)
    assert (found.trained, found.tested, found.runs) == (("a", "b"), ("a", "b"), (2, 1))
    assert found.values[0][0] == pytest.approx(0.9)
    assert math.isnan(found.values[0][1])
    assert (found.own, found.others) == ([pytest.approx(0.9), 0.9], [0.6])
    assert heat_map(found).startswith(b"\x89PNG")
    write_matrix(runs, tmp_path / "matrix.csv")
    rows = list(csv.reader((tmp_path / "matrix.csv").open()))
    assert rows[0] == ["figure", "trained on", "runs", "a", "b"]
    assert rows[1][3:] == ["0.9", ""]


def test_runs_without_a_choice_make_no_matrix():
    assert matrix([({"data": {"index": {}}}, figures(a=1.0)), (config("a"), figures(a=1.0))]) is None


def test_an_evaluation_stands_in_the_row_of_what_its_run_was_trained_on():
    runs = [({"data": {"index": {}}, "trained": config(name)}, figures(x=0.7)) for name in ("a", "b")]
    assert matrix(runs).trained == ("a", "b")
