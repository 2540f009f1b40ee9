"""Several runs' evaluations beside each other."""

import copy
import csv
import json

import pytest
from tapetum.evaluation.detection import evaluate
from tapetum.evaluation.paired import Judged
from tapetum.evaluation.table import evaluation_table
from tapetum.reports.compare import RunSummary, comparison
from tapetum.reports.comparison_page import write_comparison
from tapetum.reports.side_by_side import paired_table, side_table, write_side_tables

from evaluation.prediction_tables import random_predictions
from reports.pages import printed, read

CONFIG = {
    "task": "detection",
    "name": "npr",
    "seed": 1,
    "data": {"index": {"_target_": "tapetum.indexes.genimage.index", "train_generators": ["ADM"]}},
    "train": {"monitor": "val/auroc", "mode": "max"},
}


@pytest.fixture(scope="module")
def beside():
    summaries, tables = [], []
    for number, generator in enumerate(("ADM", "BigGAN"), 1):
        rows = random_predictions(200, seed=number)
        figures = {f"test/{name}": value for name, value in evaluate(rows, threshold=0.3).items()}
        metrics = {"val/auroc": 0.9 - number / 10, "val/threshold": 0.3} | figures
        config = copy.deepcopy(CONFIG)
        config["data"]["index"]["train_generators"] = [generator]
        summaries.append(RunSummary(f"{number} run", config, [], metrics, judged=Judged(rows, 0.3)))
        tables.append((f"{number} run", evaluation_table(rows, metrics)))
    return comparison(summaries), tables


def test_lines_and_differences_are_printed(beside):
    found, tables = beside
    text = printed(side_table(tables))
    first = tables[0][1].lines[0]
    assert f"{100 * first.figures['accuracy']:.1f}" in text
    assert "macro mean" in text
    assert "McNemar" in printed(paired_table(found))


def test_files_hold_every_run_and_the_paired_differences(beside, tmp_path):
    found, tables = beside
    write_side_tables(tables, found, tmp_path)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert {row["run"] for row in rows} == {"1 run", "2 run"}
    paired = {one["figure"]: one for one in json.loads((tmp_path / "table.json").read_text())["paired"]}
    accuracies = [table.lines[-1].figures["accuracy"] for _, table in tables]
    assert abs(paired["accuracy"]["difference"]) == pytest.approx(abs(accuracies[0] - accuracies[1]))
    assert "macro mean" in (tmp_path / "table.md").read_text()
    assert r"\toprule" in (tmp_path / "table.tex").read_text()


def test_runs_trained_on_one_generator_each_get_a_matrix(beside, tmp_path):
    found, _ = beside
    page = read(write_comparison(found, tmp_path))
    assert "Across generators" in page.text
    assert (tmp_path / "matrix.png").is_file()
    rows = list(csv.reader((tmp_path / "matrix.csv").open()))
    assert [row[1] for row in rows[1:3]] == ["ADM", "BigGAN"]
    figure = found.groups[0].runs[0].metrics["test/generator/ADM/balanced_accuracy"]
    assert float(rows[1][rows[0].index("ADM")]) == pytest.approx(figure)


def test_training_data_that_differ_are_no_other_test_images(beside):
    found, _ = beside
    assert len(found.groups) == 2
    assert not [note for note in found.notes if "same data" in note]
    assert "[ADM]" in printed(paired_table(found)), "brackets are no markup"
