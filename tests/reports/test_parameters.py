"""What a sweep varied: its parameters, their pictures and importance, jobs given up, and very many runs."""

import copy
import csv
import json
import math
import shlex
import statistics
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from tapetum.commands.report import report_directories
from tapetum.reports.compare import Pruned, RunSummary, comparison
from tapetum.reports.comparison_page import write_comparison
from tapetum.reports.comparison_table import comparison_lines, comparison_table
from tapetum.reports.importance import importance
from tapetum.reports.labels import run_names
from tapetum.reports.parameter_plots import limits, panels, parallel_coordinates
from tapetum.reports.parameters import MOST_OPTIONS, varied

from reports.pages import printed, read

CONFIG = {
    "task": "detection",
    "name": "npr-synthetic",
    "seed": 1,
    "model": {"net": {"_target_": "tapetum.detectors.npr.NPR", "size": 64}},
    "data": {"batch_size": 8},
    "optimizer": {"lr": 0.001},
    "trainer": {"max_epochs": 3},
    "train": {"monitor": "val/auroc", "mode": "max"},
}
KEYS = {"lr": ("optimizer", "lr"), "batch_size": ("data", "batch_size")}
PRUNED = Pruned(epoch=1, step=20, value=0.7, reason="worse than the median")


def job(number, figure, swept=("optimizer.lr",), seed=1, pruned=None, mode="max", **values):
    """A job of a sweep; `lr`, `batch_size` and `model` become its overrides."""
    config = copy.deepcopy(CONFIG) | {"seed": seed, "train": {"monitor": "val/auroc", "mode": mode}}
    overrides = [f"seed={seed}"]
    for name, value in values.items():
        if name in KEYS:
            room, key = KEYS[name]
            config[room][key] = value
        overrides.append(f"{'.'.join(KEYS.get(name, [name]))}={value}")
    metrics = {} if figure is None or pruned else {"val/auroc": figure, "test/auroc": figure - 0.01}
    history = [{"epoch": e, "step": e, "val/auroc": (figure or 0) - 0.1 + 0.05 * e} for e in range(3)]
    return RunSummary(str(number), config, history, metrics, pruned=pruned, overrides=overrides, swept=swept)


def found_by(runs):
    return {one.key: one for one in varied(comparison(runs)).parameters}


GRID = [
    job(number, 0.8 + 0.05 * math.log10(lr / 1e-5) + 0.001 * seed, ("seed", "optimizer.lr"), seed, lr=lr)
    for number, (lr, seed) in enumerate((lr, seed) for lr in (1e-5, 1e-4, 1e-3) for seed in (1, 2, 3))
]


# --- what a parameter is ---


def test_seeds_are_no_parameter():
    assert list(found_by(GRID)) == ["optimizer.lr"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1e-3, 3e-3, 1e-2], "linear"),
        ([1e-3, 1e-2, 3.1e-2], "log"),
        ([0.0, 1e-3, 1.0], "linear"),
        ([-1.0, 1.0, 100.0], "linear"),
        ([True, False], "categorical"),
        ([None, 0.1, 0.01], "categorical"),
        (["adam", "sgd"], "categorical"),
    ],
)
def test_numbers_are_linear_or_logarithmic_by_their_span_and_all_else_is_categorical(values, scale):
    runs = [job(place, 0.9, lr=value) for place, value in enumerate(values)]
    assert found_by(runs)["optimizer.lr"].scale == scale


def test_a_groups_option_is_told_by_the_override_and_a_swept_key_of_one_value_is_none():
    swept = ("model", "optimizer.lr")
    runs = [job(place, 0.9, swept, model=name, lr=0.1) for place, name in enumerate(("npr", "npr_64", "npr"))]
    (only,) = varied(comparison(runs)).parameters
    assert (only.key, only.options) == ("model", ("npr", "npr_64"))
    assert only.values == {"0": 0.0, "1": 1.0, "2": 0.0}


def test_options_stand_in_order_of_size_and_the_rare_ones_of_many_together():
    runs = [job(place, 0.9, lr=value) for place, value in enumerate(["10", "9", "null", "9"])]
    assert found_by(runs)["optimizer.lr"].options == ("9", "10", "null")
    many = [job(place, 0.9, lr=f"option {place}") for place in range(30)]
    options = found_by(many)["optimizer.lr"].options
    assert len(options) == MOST_OPTIONS
    assert options[-1] == "others"


def test_of_runs_of_no_sweep_the_configs_tell_and_what_comes_with_a_target_is_no_parameter_of_its_own():
    def plain(name, target, lr, extra):
        run = job(name, 0.9, (), lr=lr)
        run.config["model"] = {"net": {"_target_": target, **extra}, "twin": extra}
        return RunSummary(name, run.config, [], run.metrics)

    runs = [
        plain(name, target, lr, extra)
        for name, target, lr, extra in (
            ("a", "my.A", 0.1, {"size": 1}),
            ("b", "my.A", 0.2, {"size": 1}),
            ("c", "my.B", 0.1, {"depth": 2}),
        )
    ]
    found = found_by(runs)
    assert list(found) == ["model.net._target_", "optimizer.lr"]
    assert found["model.net._target_"].options == ("A", "B")


def test_two_keys_that_are_different_in_every_run_are_two_parameters():
    runs = [job(place, 0.9, (), lr=0.1 * place, batch_size=2**place) for place in range(1, 5)]
    runs = [RunSummary(run.name, run.config, [], run.metrics) for run in runs]
    assert set(found_by(runs)) == {"optimizer.lr", "data.batch_size"}


def test_runs_that_differ_in_the_seed_only_have_no_parameters(tmp_path):
    runs = [job(seed, 0.9, ("seed",), seed) for seed in (1, 2)]
    assert varied(comparison(runs)) is None
    assert "Parameters" not in read(write_comparison(comparison(runs), tmp_path)).text


# --- jobs that were given up ---


def test_a_pruned_job_is_in_no_group_and_in_no_mean(tmp_path):
    runs = [*GRID, job(9, 0.99, ("optimizer.lr",), 4, PRUNED, lr=1e-3)]
    found = comparison(runs)
    assert [run.name for run in found.pruned] == ["9"]
    assert "9" not in {run.name for run in found.runs}
    best = found.groups[0].spread("val/auroc")
    assert best.mean == pytest.approx(statistics.fmean(run.metrics["val/auroc"] for run in GRID[6:]))
    assert varied(found).pruned == {"9": 0.7}
    assert "9" not in varied(found).finished
    page = read(write_comparison(found, tmp_path))
    assert page.problems == []
    assert "1 of 10 were given up by the search (pruned): 9." in page.text
    assert "9 lr=0.001 4 0.7000 pruned after epoch 1: worse than the median" in page.text
    with (tmp_path / "runs.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert (last["run"], last["last val/auroc"], last["val/auroc"]) == ("9", "0.7", "")


def test_a_sweep_of_pruned_jobs_only_has_a_page(tmp_path):
    found = comparison([job(place, 0.9, pruned=PRUNED, lr=0.1 * place) for place in (1, 2)])
    page = read(write_comparison(found, tmp_path))
    assert page.problems == []
    assert "None of the runs has figures yet." in page.text
    assert printed(comparison_table(found, 80), 80)


def test_runs_that_did_not_finish_stand_in_a_table_of_their_own(tmp_path):
    found = comparison([*GRID, job(9, None, ("optimizer.lr",), 4, lr=1e-3)])
    assert found.groups[0].count == "3 of 4"
    page = read(write_comparison(found, tmp_path)).text
    assert "Not finished 1 of 10 runs" in page
    assert "9 lr=0.001 4 did not finish" in page


# --- importance ---


def searched(runs, decides, mode="max"):
    """Three parameters, of which one moves the figure: {key: (scale, values)}, figures."""
    draw = np.random.default_rng(3)
    values = {
        "a": ("linear", {str(run): float(draw.uniform(0, 1)) for run in range(runs)}),
        "b": ("log", {str(run): float(10 ** draw.uniform(-5, -2)) for run in range(runs)}),
        "c": ("categorical", {str(run): float(draw.integers(3)) for run in range(runs)}),
    }
    scale, own = values[decides]
    way = 1 if mode == "max" else -1
    figures = {run: way * (math.log10(at) if scale == "log" else at) for run, at in own.items()}
    return values, figures


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("decides", ["a", "b", "c"])
def test_the_parameter_that_decides_has_the_largest_share_as_by_fanova(decides, mode):
    sklearn = pytest.importorskip("sklearn.ensemble")
    values, figures = searched(40, decides, mode)
    found = importance(values, figures, mode)
    assert next(iter(found.shares)) == decides
    assert sum(found.shares.values()) == pytest.approx(1)
    order = list(figures)
    inputs = np.array([[values[key][1][run] for key in values] for run in order])
    forest = sklearn.RandomForestRegressor(random_state=0).fit(inputs, [figures[run] for run in order])
    assert list(values)[int(np.argmax(forest.feature_importances_))] == decides
    assert importance(values, figures, mode) == found  # nothing is drawn


def test_importance_needs_neither_scikit_learn_nor_scipy_and_says_nothing():
    code = (
        "import sys; sys.modules |= {'sklearn': None, 'scipy': None}; sys.path.insert(0, 'tests')\n"
        "from tapetum.reports.importance import importance\n"
        "runs = [str(run) for run in range(9)]\n"
        "values = {'a': ('linear', {run: float(run) for run in runs}),"
        " 'b': ('categorical', {run: float(int(run) % 2) for run in runs})}\n"
        "print(next(iter(importance(values, {run: float(run) for run in runs}, 'max').shares)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("a\n", "")


@pytest.mark.parametrize(
    ("runs", "keys", "reason"),
    [(7, "abc", "It takes 8 finished runs, and there are 7."), (9, "a", "With one parameter")],
)
def test_too_little_to_tell_shares_is_said(runs, keys, reason):
    values, figures = searched(runs, "a")
    found = importance({key: values[key] for key in keys}, figures, "max")
    assert not found.shares
    assert found.reason.startswith(reason)


def test_a_parameter_that_not_every_run_has_is_left_out():
    values, figures = searched(20, "a")
    del values["b"][1]["3"]
    found = importance(values, figures, "max")
    assert set(found.shares) == {"a", "c"}
    assert found.left_out == ("b",)


def test_without_optuna_the_page_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    swept = ("optimizer.lr", "data.batch_size")
    runs = [job(place, 0.9 + place / 100, swept, lr=0.1 * place, batch_size=place % 2) for place in range(9)]
    page = read(write_comparison(comparison(runs), tmp_path))
    assert "pip install 'tapetum[search]'" in page.text


# --- pictures ---


def test_bad_runs_far_out_do_not_press_the_others_together():
    good = [0.90, 0.91, 0.92, 0.93, 0.94]
    assert limits(good, "max") == (0.90, 0.94)
    assert limits([*good, 0.1], "max") == (0.90, 0.94)
    assert limits([*good, 5.0], "max") == (0.90, 5.0)  # far better is no reason to hide it
    assert limits([*good, 5.0], "min") == (0.90, 0.94)
    low, high = limits([0.5, 0.5], "max")
    assert low < 0.5 < high


def test_the_best_run_is_red_and_a_pruned_one_grey(tmp_path):
    swept = ("optimizer.lr", "data.batch_size")
    runs = [job(place, 0.8 + 0.01 * place, swept, lr=10.0**-place, batch_size=2**place) for place in range(4)]
    pruned = job(9, 0.8, swept, pruned=PRUNED, lr=0.05, batch_size=3)
    for name, draw in (("lines", parallel_coordinates), ("panels", panels)):
        shown = {}
        for label, members in (("with", [*runs, pruned]), ("without", runs)):
            file = tmp_path / f"{name}-{label}.png"
            file.write_bytes(draw(varied(comparison(members))))
            pixels = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3)
            shown[label] = {tuple(pixel) for pixel in np.unique(pixels, axis=0).tolist()}
        assert (0xEE, 0x66, 0x77) in shown["with"] & shown["without"]
        assert shown["with"] != shown["without"]


def test_the_page_shows_the_pictures_the_shares_and_what_to_type(tmp_path):
    swept = ("optimizer.lr", "data.batch_size")
    runs = [
        job(place, 0.7 + 0.01 * place, swept, lr=10.0**-place, batch_size=2 ** (place % 3))
        for place in range(9)
    ]
    page = read(write_comparison(comparison(runs), tmp_path))
    assert page.problems == []
    assert {"parallel.png", "parameters.png"} <= {file.name for file in tmp_path.iterdir()}
    assert "python train.py seed=1 optimizer.lr=1e-08 data.batch_size=4" in page.text
    for key, share in varied(comparison(runs)).importance.shares.items():
        assert f"{key} {100 * share:.0f} %" in page.text


def test_one_parameter_needs_no_parallel_axes(tmp_path):
    write_comparison(comparison(GRID), tmp_path)
    assert (tmp_path / "parameters.png").is_file()
    assert not (tmp_path / "parallel.png").exists()


# --- very many runs ---


@pytest.fixture(scope="module")
def many():
    draw = np.random.default_rng(0)
    swept = ("optimizer.lr", "data.batch_size")
    return [
        job(
            place, float(draw.uniform(0.5, 0.99)), swept, pruned=PRUNED if place % 5 == 0 else None,
            lr=float(10 ** draw.uniform(-5, -2)), batch_size=int(2 ** draw.integers(2, 6)),
        )
        for place in range(200)
    ]  # fmt: skip


def test_two_hundred_jobs_have_a_page_of_the_best_twenty(many, tmp_path):
    found = comparison(many)
    page = read(write_comparison(found, tmp_path))
    assert page.problems == []
    assert "20 of 160, the best; all of them stand in runs.csv beside this file." in page.text
    assert "the best 10 of 160 runs" in page.text
    assert "Not finished 40 of 200 runs, 40 of them given up by the search" in page.text
    assert max(table.count("tr") for table in _tables(page.tags)) <= 21
    assert f"{found.runs[19].metrics['val/auroc']:.4f}" in page.text
    with (tmp_path / "runs.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 200


def _tables(tags):
    """The tags behind each <table>."""
    text = " ".join(tags).split("table ")[1:]
    return [part.split() for part in text]


def test_the_terminal_shows_twenty_rows_in_eighty_columns_and_the_command_last(many):
    found = comparison(many)
    text = printed(comparison_table(found, 80), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert sum("lr=" in line for line in text.splitlines()) == 20
    assert "160 runs by val/auroc, the best 20; runs.csv has all" in text
    lines = comparison_lines(found)
    assert len(lines) < 5
    best = max((run for run in many if run.metrics), key=lambda run: run.metrics["val/auroc"])
    head, *words = shlex.split(lines[-1])
    assert head == "best"
    assert words == ["python", "train.py", *best.overrides]


def test_of_many_runs_over_seeds_the_terminal_shows_the_means():
    runs = [
        job(f"{lr}-{seed}", 0.9 - 0.01 * lr + 0.001 * seed, ("optimizer.lr", "seed"), seed, lr=lr)
        for lr in range(1, 26)
        for seed in (1, 2, 3)
    ]
    found = comparison(runs)
    text = printed(comparison_table(found, 80), 80)
    title = "75 runs in 25 groups by val/auroc, the best 20 groups; runs.csv has all"
    assert " ".join(text.split()).startswith(title)
    assert sum("n=3" in line for line in text.splitlines()) == 20
    assert text.index("0.8920") < text.index("0.8820")
    assert "± 0.0010" in text


# --- from the files of a sweep ---


def test_a_sweeps_directory_tells_overrides_swept_keys_and_what_was_pruned(tmp_path, capsys):
    jobs = {}
    for number, (lr, value) in enumerate([(1e-3, 0.9), (1e-2, 0.95), (1e-1, None)]):
        directory = tmp_path / str(number)
        directory.mkdir()
        config = copy.deepcopy(CONFIG) | {"optimizer": {"lr": lr}}
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
        jobs[number] = [f"optimizer.lr={lr}", "data.classes=[a,b]", "sweep.trials=3", "launcher.jobs=2"]
        if value is None:
            (directory / "pruned.json").write_text(
                json.dumps({"epoch": 1, "step": 5, "value": 0.4, "reason": "below the median"})
            )
        else:
            (directory / "metrics.json").write_text(json.dumps({"val/auroc": value}))
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"swept": ["optimizer.lr"], "jobs": jobs}))
    page = report_directories([tmp_path / str(number) for number in range(3)], tmp_path / "report")
    said = capsys.readouterr().out
    assert said.rstrip().endswith("best    python train.py optimizer.lr=0.01 'data.classes=[a,b]'")
    assert "1 of 3 were given up by the search (pruned): 2." in said
    text = read(page).text
    assert "what was varied, against val/auroc (higher is better) of 2 finished runs; 1 pruned" in text
    assert "pruned after epoch 1: below the median" in text


def test_runs_are_called_by_the_shortest_end_of_their_path_that_no_other_has(tmp_path):
    places = ["a/x/0", "a/x/1", "a/y/0", "b/y/2", "b/x/0"]
    assert run_names([tmp_path / place for place in places]) == ["a/x/0", "1", "y/0", "2", "b/x/0"]
    assert run_names([]) == []
