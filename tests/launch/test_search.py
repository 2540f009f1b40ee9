"""A search: its trials, how it goes on, what it refuses. Jobs are closed forms of their config."""

from __future__ import annotations

import itertools
import math
import shlex

import optuna
import pytest
from tapetum.config.compose import compose
from tapetum.errors import ConfigError, TapetumError
from tapetum.launch.sweep_directory import read_jobs
from tapetum.runs.directory import create_run, write_json
from tapetum.runs.lock import held

from launch.formula import SPACE, Formula, Killed, auroc, run, search

TWO = {"val/auroc": "max", "run/seconds": "min"}


def states(source):
    return [trial.state.name for trial in source.study.get_trials()]


def drawn(directory):
    return [job["overrides"] for job in read_jobs(directory)]


def command(line):
    """The overrides of a printed `again` line."""
    words = shlex.split(line.split("again", 1)[1])
    assert words[:2] == ["python", "train.py"]
    return words[2:]


def test_a_grid_tries_each_combination_once_and_finds_the_best(tmp_path):
    space = ("optimizer.lr=1e-4,1e-3", "data.batch_size=range(16,49,16)")
    source = search(tmp_path / "s", space=space, sampler="grid", trials=100)
    outcomes = run(source, tmp_path / "s")
    tried = [(one.job.config["optimizer"]["lr"], one.job.config["data"]["batch_size"]) for one in outcomes]
    assert sorted(tried) == list(itertools.product([1e-4, 1e-3], [16, 32, 48]))
    assert source.total == 6
    best = max(outcomes, key=lambda one: auroc(one.job.config))
    found, again = source.best()
    assert found == f"found   val/auroc {auroc(best.job.config):.4g} in s/{best.job.number}"
    assert compose(command(again)).config == best.job.config


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_search_that_was_killed_goes_on_as_it_would_have_gone(tmp_path, sampler):
    run(search(tmp_path / "whole", sampler=sampler), tmp_path / "whole")
    place = Formula(most=2)
    with pytest.raises(Killed):
        run(search(tmp_path / "part", sampler=sampler), tmp_path / "part", place)
    left = search(tmp_path / "part", sampler=sampler)
    assert states(left) == ["COMPLETE"] * 2 + ["RUNNING"]
    place = Formula()
    run(left, tmp_path / "part", place)
    assert place.started == [2, 3]
    assert drawn(tmp_path / "part") == drawn(tmp_path / "whole")
    assert len(set(drawn(tmp_path / "whole"))) == 4
    run(more := search(tmp_path / "part", sampler=sampler, trials=5), tmp_path / "part", place)
    assert place.started == [2, 3, 4]
    assert states(more) == ["COMPLETE"] * 5


def test_a_job_that_had_finished_when_its_sweep_was_killed_is_not_run_again(tmp_path):
    job = search(tmp_path / "s", trials=1).next()
    made = create_run(job.config, tmp_path / "s" / "0")
    write_json(made.metrics, {"best/val/auroc": 0.75})
    source, place = search(tmp_path / "s", trials=1), Formula()
    run(source, tmp_path / "s", place)
    assert place.started == []
    assert (states(source), source.study.best_value) == (["COMPLETE"], 0.75)


def test_a_trial_that_fails_does_not_end_the_search(tmp_path, capsys):
    ends = iter([1, -9, {"best/val/auroc": math.nan}, {}, {"best/val/auroc": 0.7}])
    source = search(tmp_path / "s", trials=5)
    run(source, tmp_path / "s", Formula(lambda config: next(ends)))
    assert states(source) == ["FAIL", "FAIL", "FAIL", "FAIL", "COMPLETE"]
    said = capsys.readouterr().out
    assert "trial 0 counts as failed: it ended with exit code 1" in said
    assert "trial 1 counts as failed: it was killed by SIGKILL (by the system, where memory ran out" in said
    assert "trial 2 counts as failed: best/val/auroc is NaN" in said
    assert "trial 3 counts as failed: best/val/auroc is not among its figures" in said
    assert source.best()[0] == "found   val/auroc 0.7 in s/4"


def test_a_search_without_a_finished_trial_has_no_best_one(tmp_path):
    source = search(tmp_path / "s", trials=1)
    run(source, tmp_path / "s", Formula(lambda config: 1))
    assert source.best() == ["no trial has finished, so that there is no best one"]


def test_jobs_run_side_by_side_and_a_trial_is_drawn_only_when_there_is_room(tmp_path):
    said: list[str] = []
    one, two = search(tmp_path / "one"), search(tmp_path / "two")
    alone, pair = Formula(jobs=1), Formula(jobs=2)
    run(one, tmp_path / "one", alone, said)
    run(two, tmp_path / "two", pair)
    assert (alone.most_open, pair.most_open) == (1, 2)
    assert states(two) == ["COMPLETE"] * 4
    begins = [trial.datetime_start for trial in one.study.get_trials()]
    ends = [trial.datetime_complete for trial in one.study.get_trials()]
    assert all(end <= begin for end, begin in zip(ends, begins[1:], strict=False))
    assert said[0].startswith("job 0 (1 of 4): optimizer.lr=")


def test_a_job_in_whose_directory_another_process_works_waits_and_says_so_once(tmp_path):
    class Busy(Formula):
        looks, other = 0, None

        def start(self, run, checkpoint, config):
            self.looks += 1
            if self.looks == 1:
                self.other = held(run)
                self.other.__enter__()
            if self.looks < 3:
                return None
            if self.looks == 3:
                self.other.__exit__(None, None, None)
            return super().start(run, checkpoint, config)

    said = []
    outcomes = run(search(tmp_path, trials=2), tmp_path, Busy(), said)
    assert [one.status for one in outcomes] == ["finished", "finished"]
    told = [line for line in said if "waits" in line]
    assert told == [f"job 0 waits: another process is at work in {tmp_path / '0'}"]


def test_of_two_objectives_the_front_is_what_no_other_trial_beats(tmp_path):
    def ends(config):
        return {"val/auroc": auroc(config), "run/seconds": 100 / config["data"]["batch_size"]}

    source = search(tmp_path / "s", sampler="nsga2", trials=16, objectives=TWO)
    outcomes = run(source, tmp_path / "s", Formula(ends))
    reached = {one.job.number: tuple(ends(one.job.config).values()) for one in outcomes}
    front = {
        number
        for number, (high, low) in reached.items()
        if not any(h >= high and s <= low and (h, s) != (high, low) for h, s in reached.values())
    }
    lines = source.best()
    assert lines[0] == f"{len(front)} of 16 trials are beaten by no other"
    assert {int(line.rsplit("/", 1)[1]) for line in lines if line.startswith("found")} == front
    number = min(front)
    assert lines[1] == (
        f"found   val/auroc {reached[number][0]:.4g}, run/seconds {reached[number][1]:.4g} in s/{number}"
    )


@pytest.mark.parametrize("storage", ["sqlite:///{}/all.db", "{}/all.journal"])
def test_sweeps_share_a_study_and_each_makes_its_own_trials(tmp_path, storage):
    where = {"storage": storage.format(tmp_path), "study": "both", "trials": 2}
    first, second = search(tmp_path / "a", **where), search(tmp_path / "b", **where)
    jobs = [first.next(), second.next()]
    assert [job.number for job in jobs] == [0, 1]
    assert jobs[0].overrides != jobs[1].overrides
    place = Formula()
    run(search(tmp_path / "a", **where), tmp_path / "a", place)  # after a kill: only its own
    assert place.started == [0, 2]
    run(search(tmp_path / "b", **where), tmp_path / "b", place)
    assert place.started == [0, 2, 1, 3]
    assert states(first) == ["COMPLETE"] * 4


@pytest.mark.parametrize("storage", ["sqlite:///{}/all.db", "{}/all.journal"])
def test_a_study_that_was_about_something_else_is_refused(tmp_path, storage):
    where = {"storage": storage.format(tmp_path), "study": "mine"}
    search(tmp_path / "a", **where)
    with pytest.raises(ConfigError) as caught:
        search(tmp_path / "b", space=("optimizer.lr=interval(1e-5,1)", "seed=1,2"), **where)
    (problem,) = caught.value.problems
    assert problem.startswith(f"the study mine in {where['storage']} was another search (")
    for part in (
        "optimizer.lr was tag(log,interval(1e-05,0.1)), now interval(1e-05,1.0)",
        "data.batch_size was range(8,72,8), now not in it",
        "seed was not in it, now choice(1,2)",
        "type sweep.study=NAME for one of its own, or ask for the same",
    ):
        assert part in problem
    with pytest.raises(ConfigError, match="best/val/auroc was max, now not in it; best/val/loss was"):
        search(tmp_path / "b", "train.monitor=val/loss", "train.mode=min", **where)
    assert not (tmp_path / "b").exists()
    search(tmp_path / "b", space=("seed=1,2",), **{**where, "study": "another"})


def test_a_study_made_elsewhere_must_go_by_the_same_directions(tmp_path):
    storage = f"sqlite:///{tmp_path}/all.db"
    optuna.create_study(storage=storage, study_name="mine", direction="minimize")
    with pytest.raises(ConfigError, match="it went by minimize"):
        search(tmp_path / "a", storage=storage, study="mine")


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("mysql://host/db", "type sweep.storage=FILE.journal or sweep.storage=sqlite:///FILE.db"),
        ("trials.txt", "is no storage"),
        ("sqlite:///{}/none/all.db", "which does not exist: type a file in a folder that is there"),
        ("sqlite:///{}/notes.db", "can't be read as a storage of studies ((sqlite3.DatabaseError) file is"),
        ("{}/notes.journal", "can't be read as a storage of studies"),
    ],
)  # fmt: skip
def test_what_is_no_storage_is_refused(tmp_path, storage, said):
    for name in ("notes.db", "notes.journal"):
        (tmp_path / name).write_text("Buy milk.\nWalk the dog.\n" * 100)
    with pytest.raises(TapetumError) as caught:
        search(tmp_path / "a", storage=storage.format(tmp_path))
    assert said in str(caught.value)


def test_problems_of_the_ends_are_told_before_anything_is_made(tmp_path):
    space = (*SPACE, "data.batch_size=int(interval(0,8))", "trainer.max_epochs=3,0", "augment=none")
    with pytest.raises(ConfigError) as caught:
        search(tmp_path / "s", space=space)
    assert caught.value.problems == (
        "data.batch_size=0 must be at least 1: type data.batch_size=1",
        "with trainer.max_epochs=0: trainer.max_epochs=0 must be at least 1: type trainer.max_epochs=1",
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"trials": 0}, "sweep.trials=0 must be at least 1: type sweep.trials=1"),
        ({"sampler": "grid"}, "can't count optimizer.lr: type optimizer.lr=a,b,c or range(…)"),
        ({"objectives": {"test/auroc": "max"}}, "test/auroc would let the test split choose: type val/auroc"),
        ({"objectives": {"auroc": "max"}}, "auroc is no figure of a run: it looks like val/METRIC"),
        ({"objectives": {"val/auroc": "up"}}, "val/auroc is up: type max or min"),
        ({"objectives": TWO, "sampler": "cmaes"}, "knows one objective"),
        ({"objectives": TWO, "pruner": "median"}, "goes by one objective"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(tmp_path, sweep, said):
    with pytest.raises(ConfigError) as caught:
        search(tmp_path / "s", **sweep)
    assert said in str(caught.value)


def test_trials_that_go_by_different_figures_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"trials go by different figures, val/auroc \(max\) and val/f1 \(max\)"
    ):
        search(tmp_path / "s", space=("train.monitor=val/auroc,val/f1",))


def test_pruning_by_a_training_figure_is_refused(tmp_path):
    words = ("train.monitor=train/loss", "train.mode=min")
    with pytest.raises(ConfigError, match=r"compares validations, and train\.monitor=train/loss is none"):
        search(tmp_path / "s", *words, pruner="median")


def test_the_command_to_copy_keeps_a_sweep_that_chooses_the_experiment(tmp_path):
    words = ("sweep=retrieval", "sweep.trials=1", "launcher=local_pool")
    space = ("optimizer.lr=interval(1e-4,1e-3)",)
    source = search(tmp_path / "s", *words, space=space, trials=1)
    (outcome,) = run(source, tmp_path / "s", Formula(lambda config: {"best/val/map_at_r": 0.5}))
    again = command(source.best()[1])
    assert again[0] == "sweep=retrieval"
    made = compose(again).config
    same = made.keys() - {"sweep", "launcher"}
    assert {key: made[key] for key in same} == {key: outcome.job.config[key] for key in same}
