import copy
import csv
import math
import statistics

import pytest
from tapetum.errors import DataError
from tapetum.reports.compare import RunSummary, compare, comparison, comparison_table

from reports.pages import printed, read, row

CONFIG = {
    "name": "npr-synthetic",
    "seed": 1,
    "paths": {"outputs": "outputs"},
    "model": {"net": {"_target_": "tapetum.detectors.npr.NPR", "size": 256}},
    "data": {"index": {"seed": 1, "difficulty": 0.1}},
    "optimizer": {"lr": 0.001},
    "train": {"monitor": "val/auroc", "mode": "max"},
}


def run(name, auroc, seed=1, **changes):
    config = copy.deepcopy(CONFIG)
    config["seed"] = config["data"]["index"]["seed"] = seed
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    config["name"] = f"run {name}"
    history = [{"epoch": e, "step": e, "val/auroc": auroc - 0.1 + 0.05 * e} for e in range(3)]
    metrics = (
        {}
        if auroc is None
        else {"val/auroc": auroc, "test/auroc": auroc - 0.02, "test/accuracy": auroc - 0.1}
    )
    return RunSummary(name, config, history, metrics, {"test/auroc": (auroc - 0.03, auroc - 0.01)})


SWEEP = [
    run("0", 0.90, seed=1),
    run("1", 0.94, seed=2),
    run("2", 0.91, seed=3),
    run("3", 0.97, seed=1, optimizer__lr=0.01),
    run("4", 0.80, seed=2, optimizer__lr=0.01),
]


def test_runs_that_differ_in_the_seed_only_are_one_group():
    found = comparison(SWEEP)
    assert {group.label: [run.name for run in group.runs] for group in found.groups} == {
        "lr=0.001": ["1", "2", "0"],
        "lr=0.01": ["3", "4"],
    }
    assert found.differing == ["optimizer.lr"]


def test_a_seed_of_its_own_is_a_choice():
    found = comparison([run("a", 0.9, data__index__seed=7), run("b", 0.9, data__index__seed=8)])
    assert found.differing == ["data.index.seed"]
    assert len(found.groups) == 2


def test_names_and_places_are_no_choices():
    found = comparison(
        [run("a", 0.9, resume="x", paths__outputs="u"), run("b", 0.9, resume="y", paths__outputs="v")]
    )
    assert found.differing == []
    assert len(found.groups) == 1


def test_a_key_that_one_run_lacks_differs():
    found = comparison([run("a", 0.9), run("b", 0.9, model__net={"_target_": "my.Net"})])
    assert found.differing == ["model.net._target_", "model.net.size"]
    assert found.values["model.net.size"] == {"a": "256", "b": "–"}
    assert sorted(group.label for group in found.groups) == ["net=NPR", "net=Net"]


def test_mean_and_deviation_over_seeds_are_the_samples():
    group = next(group for group in comparison(SWEEP).groups if group.label == "lr=0.001")
    spread = group.spread("val/auroc")
    assert spread.mean == pytest.approx(statistics.fmean([0.90, 0.94, 0.91]))
    assert spread.deviation == pytest.approx(statistics.stdev([0.90, 0.94, 0.91]))
    assert spread.runs == 3


def test_one_run_has_no_deviation_and_undefined_stays_undefined():
    single = comparison([run("a", 0.9)]).groups[0]
    assert single.spread("val/auroc").deviation is None
    assert single.spread("val/f1") is None
    assert math.isnan(
        comparison([run("a", 0.9, seed=1), run("b", math.nan, seed=2)]).groups[0].spread("val/auroc").mean
    )


@pytest.mark.parametrize(
    ("mode", "order"), [("max", ["3", "1", "2", "0", "4"]), ("min", ["4", "0", "2", "1", "3"])]
)
def test_runs_are_sorted_by_the_monitored_figure(mode, order):
    runs = [
        RunSummary(r.name, r.config | {"train": {"monitor": "val/auroc", "mode": mode}}, [], r.metrics)
        for r in SWEEP
    ]
    assert [run.name for run in comparison(runs).runs] == order


def test_groups_are_sorted_by_their_mean_and_unfinished_runs_come_last():
    crashed = RunSummary("5", run("5", 0.5, seed=9).config, [], {})
    found = comparison([*SWEEP, crashed])
    assert [group.label for group in found.groups] == ["lr=0.001", "lr=0.01"]
    assert found.runs[-1].name == "5"
    assert found.notes == ["Without figures, since they did not finish: 5."]
    assert found.groups[0].spread("val/auroc").runs == 3


def test_runs_chosen_by_different_figures_are_told_apart():
    found = comparison(
        [run("a", 0.9), run("b", 0.9, seed=2), run("c", 0.9, train={"monitor": "val/loss", "mode": "min"})]
    )
    assert found.monitor == "val/auroc"
    assert "val/auroc (max), val/loss (min)" in found.notes[0]


def test_nothing_and_two_of_one_name_are_errors():
    with pytest.raises(DataError, match="at least one"):
        comparison([])
    with pytest.raises(DataError, match="several runs are called a"):
        comparison([run("a", 0.9), run("a", 0.8)])


def test_the_page_holds_groups_curves_and_intervals(tmp_path):
    page = read(compare(SWEEP, tmp_path))
    assert page.problems == []
    mean, deviation = statistics.fmean([0.90, 0.94, 0.91]), statistics.stdev([0.90, 0.94, 0.91])
    assert f"lr=0.001 3 {mean:.4f} ± {deviation:.4f}" in page.text
    assert "0.9400–0.9600" in page.text
    assert all(
        v.startswith("data:image/png;base64,") for name, v in page.attributes if name in ("src", "href")
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.html",
        "runs.csv",
        "curves.png",
        "figures.png",
    }


def test_hostile_names_stay_text(tmp_path):
    evil = "<script>alert(1)</script>"
    page = compare([run(evil, 0.9, optimizer__lr=evil), run("b", 0.8)], tmp_path)
    assert "<script" not in page.read_text(encoding="utf-8")
    assert read(page).problems == []


def test_runs_without_figures_have_a_page(tmp_path):
    page = read(compare([RunSummary("a", CONFIG, [], {})], tmp_path))
    assert page.problems == []
    assert "None of the runs has figures yet." in page.text
    assert not list(tmp_path.glob("*.png"))


def test_the_csv_has_a_line_a_run_best_first(tmp_path):
    compare(SWEEP, tmp_path)
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [line["run"] for line in rows] == ["3", "1", "2", "0", "4"]
    assert (rows[0]["seed"], rows[0]["optimizer.lr"], float(rows[0]["val/auroc"])) == ("1", "0.01", 0.97)
    assert float(rows[0]["test/auroc low"]) == pytest.approx(0.94)
    assert float(rows[0]["test/auroc high"]) == pytest.approx(0.96)


def test_the_terminal_table_lists_runs_then_seeds():
    text = printed(comparison_table(SWEEP), width=160)
    assert text.index("0.9700") < text.index("0.9400") < text.index("0.8000")
    assert "0.9167 ± 0.0208" in row(text, "3 seeds")
    assert "* val/auroc chose the checkpoints" in text
