import copy
import csv
import math
import statistics

import pytest
from tapetum.errors import DataError
from tapetum.evaluation.paired import Judged, paired
from tapetum.reports.compare import RunSummary, comparison
from tapetum.reports.comparison_page import write_comparison
from tapetum.reports.comparison_table import comparison_lines, comparison_table

from evaluation.prediction_tables import predictions, random_predictions
from reports.pages import printed, read, row

CONFIG = {
    "task": "detection",
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
    page = read(write_comparison(comparison(SWEEP), tmp_path))
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
        "parameters.png",
    }


def test_hostile_names_stay_text(tmp_path):
    evil = "<script>alert(1)</script>"
    page = write_comparison(comparison([run(evil, 0.9, optimizer__lr=evil), run("b", 0.8)]), tmp_path)
    assert "<script" not in page.read_text(encoding="utf-8")
    assert read(page).problems == []


def test_runs_without_figures_have_a_page(tmp_path):
    page = read(write_comparison(comparison([RunSummary("a", CONFIG, [], {})]), tmp_path))
    assert page.problems == []
    assert "None of the runs has figures yet." in page.text
    assert not list(tmp_path.glob("*.png"))


def test_the_csv_has_a_line_a_run_best_first(tmp_path):
    write_comparison(comparison(SWEEP), tmp_path)
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [line["run"] for line in rows] == ["3", "1", "2", "0", "4"]
    assert (rows[0]["seed"], rows[0]["optimizer.lr"], float(rows[0]["val/auroc"])) == ("1", "0.01", 0.97)
    assert float(rows[0]["test/auroc low"]) == pytest.approx(0.94)
    assert float(rows[0]["test/auroc high"]) == pytest.approx(0.96)


def test_the_terminal_table_lists_runs_then_seeds():
    text = printed(comparison_table(comparison(SWEEP)), width=160)
    assert text.index("0.9700") < text.index("0.9400") < text.index("0.8000")
    lines = text.splitlines()
    mean = lines.index(row(text, "n=3"))
    assert "0.9167" in lines[mean]
    assert "± 0.0208" in lines[mean + 1]
    assert "* val/auroc chose the checkpoints" in text


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_terminal_table_fits_and_folds_no_figure(width):
    text = printed(comparison_table(comparison(SWEEP), width), width)
    assert max(map(len, text.splitlines())) <= width
    assert "0.9400" in row(text, "lr=0.001")


# --- differences on the same images ---


def judged(name, seed=1, images=3, **changes):
    """A run whose test predictions are random ones; equal `images` are equal paths and labels."""
    one = run(name, 0.9 - 0.01 * images, seed=seed, **changes)
    return RunSummary(
        name,
        one.config,
        one.history,
        one.metrics,
        one.intervals,
        Judged(random_predictions(200, images), 0.5),
    )


def test_every_group_is_held_against_the_best_on_the_same_images():
    best, other, again = (
        judged("a", images=1),
        judged("b", images=2, optimizer__lr=0.1),
        run("c", 0.5, model={}),
    )
    found = comparison([other, again, best])
    assert found.reference == found.groups[0].label
    (one,) = found.against
    assert one.label == next(group.label for group in found.groups if other in group.runs)
    assert one.paired == paired([other.judged], [best.judged])
    assert one.paired.images == 200


def test_seeds_are_averaged_before_they_are_held_against_others():
    first = [judged(f"a{seed}", seed=seed, images=seed) for seed in (1, 2, 3)]
    second = [judged(f"b{seed}", seed=seed, images=seed + 3, optimizer__lr=0.1) for seed in (1, 2)]
    (one,) = comparison([*first, *second]).against
    assert one.paired == paired([run.judged for run in second], [run.judged for run in first])


def test_the_verdict_says_who_is_better_or_that_the_images_cannot_tell():
    labels = [0, 1] * 100
    sure = [4.0 * label - 2 for label in labels]
    noise = [math.sin(37.0 * place) for place in range(200)]

    def verdict(first, second):
        runs = [
            RunSummary(
                name,
                run(name, 0.9, optimizer__lr=rate).config,
                [],
                {"val/auroc": 1 - rate, "test/auroc": 0.5},
                {},
                Judged(predictions(labels, logits)),
            )
            for name, rate, logits in (("a", 0.1, first), ("b", 0.2, second))
        ]
        return comparison(runs).verdict

    assert verdict(sure, noise).startswith("On 200 test images, lr=0.1 is above lr=0.2 in auroc: +0.")
    assert verdict(noise, sure).startswith("On 200 test images, lr=0.1 is below lr=0.2 in auroc: −0.")
    told = verdict(noise, noise)
    assert told.startswith("The 200 test images can't tell lr=0.1 from lr=0.2")


def test_the_verdict_names_what_else_differs_between_the_two():
    first = judged("a", images=1)
    found = comparison([first, judged("b", images=2, optimizer__lr=0.1, data__batch_size=7)])
    labels = {group.label for group in found.groups}
    left_out = "data.batch_size" if any(label.startswith("lr=") for label in labels) else "optimizer.lr"
    assert found.verdict.endswith(f" They also differ in {left_out}.")
    alone = comparison([first, judged("b", images=2, optimizer__lr=0.1)]).verdict
    assert alone
    assert "also differ" not in alone


def test_other_data_of_equal_paths_is_not_paired():
    found = comparison([judged("a", data__root="/x/photos"), judged("b", data__root="/y/scans")])
    assert found.against[0].paired.reason == "they were judged on different data"
    assert any("do not have the same data (data.root)" in note for note in found.notes)
    moved = comparison(
        [judged("a", data__root="/x/photos"), judged("b", data__root="/y/photos", optimizer__lr=1)]
    )
    assert moved.against[0].paired.images == 200


def test_other_test_images_are_said():
    short = RunSummary(
        "b",
        run("b", 0.9, optimizer__lr=1).config,
        [],
        {"test/auroc": 0.9},
        {},
        Judged(random_predictions(100)),
    )
    found = comparison([judged("a"), short])
    assert any("not judged on the same test images" in note for note in found.notes)
    assert found.against[0].paired.images == 100
    assert not any(
        "same test images" in note for note in comparison([judged("a"), judged("b", seed=2)]).notes
    )


def test_the_page_shows_differences_and_their_picture(tmp_path):
    found = comparison([judged("a", images=1), judged("b", images=2, optimizer__lr=0.1)])
    page = read(write_comparison(found, tmp_path))
    assert page.problems == []
    difference = found.against[0].paired.differences["auroc"]
    assert f"{difference.low:+.4f} to {difference.high:+.4f}".replace("-", "−") in page.text
    assert (tmp_path / "differences.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_says_why_two_cannot_be_held_against_each_other(tmp_path):
    found = comparison([judged("a", data__root="photos"), judged("b", data__root="scans")])
    page = read(write_comparison(found, tmp_path))
    assert page.problems == []
    assert "No two can be held against each other: they were judged on different data." in page.text


# --- what can't be compared, or only with a warning ---


def test_runs_of_different_tasks_are_refused():
    other = RunSummary("b", run("b", 0.9).config | {"task": "captioning"}, [], {"val/cider": 1.0})
    with pytest.raises(
        DataError, match=r"different tasks .*detection: a; captioning: b.*name runs of one task"
    ):
        comparison([run("a", 0.9), other])


def test_one_config_and_one_seed_is_no_sample_of_seeds():
    found = comparison([run("a", 0.9), run("b", 0.8), run("c", 0.8, seed=2)])
    assert any("a, b have one config and one seed (1)" in note for note in found.notes)
    assert comparison(SWEEP).notes == []


def test_a_figure_that_no_run_has_is_said():
    runs = [run(name, 0.9, train={"monitor": "val/mine", "mode": "max"}) for name in "ab"]
    assert "No run has a figure called val/mine, so the order says nothing." in comparison(runs).notes


def test_how_a_run_ended_stands_in_the_notes_and_in_its_line(tmp_path):
    ended = "did not finish: it crashed in epoch 1 of 3: ZeroDivisionError (train.log)"
    crashed = RunSummary("5", run("5", 0.5, optimizer__lr=9).config, [], {}, unfinished=ended)
    found = comparison([*SWEEP, crashed])
    assert found.notes == [f"5 {ended}."]
    assert read(write_comparison(found, tmp_path)).text.count(ended) == 2
    assert f"5 {ended}." in comparison_lines(found)


def test_the_network_is_named_first_where_it_differs():
    found = comparison([run("a", 0.9), run("b", 0.8, optimizer__lr=1, model__net={"_target_": "my.Net"})])
    assert [group.label for group in found.groups] == ["net=NPR", "net=Net"]
    found = comparison([*SWEEP, run("b", 0.8, optimizer__lr=1, model__net={"_target_": "my.Net"})])
    assert {group.label for group in found.groups} == {
        "net=NPR, lr=0.001", "net=NPR, lr=0.01", "net=Net, lr=1",
    }  # fmt: skip


def test_the_worst_of_one_generator_is_no_column():
    def with_generators(*names):
        one = run("a", 0.9)
        extra = {f"test/generator/{name}/accuracy": 0.5 for name in names}
        extra["test/generator_min/balanced_accuracy"] = 0.5
        return comparison([RunSummary("a", one.config, [], {**one.metrics, **extra})]).metrics

    assert "test/generator_min/balanced_accuracy" not in with_generators("ADM")
    assert "test/generator_min/balanced_accuracy" in with_generators("ADM", "GLIDE")
