"""Several data sets, the oracle, the table's lines, and the published figures beside them."""

import math
import statistics

import numpy as np
import pyarrow as pa
import pytest
from tapetum.errors import DataError
from tapetum.evaluation.detection import evaluate, oracle_accuracy
from tapetum.evaluation.generators import subsets
from tapetum.evaluation.published import own_figures, published
from tapetum.evaluation.table import evaluation_table
from tapetum.indexes.genimage import GENERATORS, canonical

from evaluation.prediction_tables import predictions, random_predictions


def joined():
    """Set b holds a generator that a holds too, under the name that a joined Index gives it."""
    first = random_predictions(80, names=("a.ADM", "GLIDE"))
    second = random_predictions(60, seed=1, names=("b.ADM",))
    tables = [
        table.append_column("data", pa.array([name] * len(table)))
        for name, table in (("a", first), ("b", second))
    ]
    return pa.concat_tables(tables), first, second


def flat(table, threshold=None):
    found = evaluate(table, threshold=threshold, oracle=True)
    known = {} if threshold is None else {"val/threshold": threshold}
    return known | {f"test/{name}": value for name, value in found.items()}


def test_each_data_set_has_the_figures_that_it_has_alone():
    table, first, second = joined()
    found = evaluate(table, threshold=0.2, oracle=True)
    for name, alone in (("a", first), ("b", second)):
        for figure, value in evaluate(alone, threshold=0.2, oracle=True).items():
            key = figure if figure.startswith("generator/") else f"data/{name}/{figure}"
            assert found[key] == pytest.approx(value), key


def test_joined_sets_share_no_real_images():
    table, first, _ = joined()
    by_name = {subset.name: subset for subset in subsets(table)}
    assert by_name["a.ADM"].real == int((first["label"].to_numpy() == 0).sum())
    assert {(one.data, one.generator) for one in by_name.values()} == {
        ("a", "ADM"),
        ("a", "GLIDE"),
        ("b", "ADM"),
    }


def test_rows_without_a_data_set_among_others_are_refused():
    table, _, _ = joined()
    names = pa.array([None, *table["data"].to_pylist()[1:]])
    with pytest.raises(DataError, match="1 of 140 predictions name no data set"):
        subsets(table.set_column(table.column_names.index("data"), "data", names))


def test_the_oracle_is_the_best_of_all_thresholds_by_brute_force():
    table = random_predictions(90)
    label, logit = table["label"].to_numpy(), table["logit"].to_numpy()
    cuts = [-math.inf, *np.unique(logit)]
    assert oracle_accuracy(logit, label == 1) == max(((logit > cut) == label).mean() for cut in cuts)
    assert math.isnan(oracle_accuracy(logit[label == 1], label[label == 1] == 1))
    assert "oracle_accuracy" not in evaluate(table)


def test_lines_come_set_by_set_and_all_of_them_last():
    table, _, _ = joined()
    lines = evaluation_table(table, flat(table, 0.2)).lines
    macro = ["mean", "min", "std", "all"]
    assert [(line.data, line.name) for line in lines] == [
        *[("a", name) for name in ("GLIDE", "ADM", *macro)],
        *[("b", name) for name in ("ADM", *macro)],
        *[("", name) for name in macro],
    ]
    assert lines[-1].generated == 70
    mean = next(line for line in lines if (line.data, line.name) == ("a", "mean"))
    own = [line.figures["accuracy_tuned"] for line in lines[:2]]
    assert mean.figures["accuracy_tuned"] == pytest.approx(statistics.fmean(own))
    assert "accuracy" in mean.intervals


@pytest.mark.parametrize("layout", ["genimage", "univfd"])
def test_published_tables_name_their_sources_and_agree_with_their_own_means(layout):
    table = published(layout)
    assert table is not None
    for row in table.rows:
        assert row.source
        assert all(0 <= value <= 100 for value in row.percent.values())
        if row.percent and "mean as printed" not in row.source:
            assert len(row.percent) == len(table.generators)
            assert statistics.fmean(row.percent.values()) == pytest.approx(row.mean, abs=0.06)


def test_published_columns_are_the_names_of_the_layout():
    assert set(published("genimage").generators) == set(GENERATORS)
    assert all(canonical(name) == name for name in published("genimage").generators)
    assert len(published("univfd").generators) == 19
    assert published("cifake") is None


def test_ones_own_mean_stands_beside_published_means_with_all_generators_only():
    table = published("genimage")
    for names in (GENERATORS, GENERATORS[:3]):
        rows = random_predictions(160, names=names)
        own = own_figures(evaluation_table(rows, flat(rows)), "", table)["accuracy"]
        assert set(own) - {"mean"} == set(names)
        assert ("mean" in own) == (len(names) == 8)


def test_one_class_is_undefined_in_the_table():
    rows = predictions([1, 1, 1], [1.0, 2.0, -1.0], ["ADM"] * 3)
    line = evaluation_table(rows, flat(rows)).lines[0]
    assert math.isnan(line.figures["auroc"])
    assert math.isnan(line.figures["oracle_accuracy"])
    assert "auroc" not in line.intervals
