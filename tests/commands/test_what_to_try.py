import json
import shlex

import yaml
from tapetum.commands.finish import report_run, what_to_try
from tapetum.config.check import check_config
from tapetum.config.compose import compose
from tapetum.config.overrides import prepare
from tapetum.reports.sections import typed
from tapetum.runs.directory import RunDirectory

from commands.experiments import run as verb
from commands.experiments import train
from layouts import make_folder
from reports.pages import read


def test_a_finished_run_says_what_to_try_and_its_command_composes(tmp_path, monkeypatch, capsys):
    data = make_folder(tmp_path / "photos", splits={"train": 24, "val": 0, "test": 8})
    run = RunDirectory(train(data, tmp_path / "out", "data.val_fraction=0.3", "data.limit={train:20}"))
    run.command.write_text(
        "train.py model=small_resnet 'data.limit={train:20}' data=folder data.root=photos\n"
    )

    notes = json.loads((run.path / "notes.json").read_text())
    counted = notes["counts"]["train"]
    assert sum(counted.values()) <= 20
    assert notes["carved"] is True

    advice = {one.rule: one for one in what_to_try(run)}
    assert {"little_data", "little_validation"} <= set(advice)
    assert advice["little_data"].seen == f"{sum(counted.values())} training images"
    assert f"{len(advice)} things to try next" in run.log.read_text()
    ending = capsys.readouterr().out.splitlines()[-4:]  # behind the table, where it is seen
    assert [line.split()[0] for line in ending] == ["best", str(len(advice)), "run", "report"]

    page = read(report_run(run))
    assert "Little data Seen:" in page.text
    _, *words = shlex.split("".join(typed(run.command.read_text(), advice["little_data"].overrides)))
    monkeypatch.chdir(tmp_path)
    composed = compose(prepare(words[1:], multirun=False))
    check_config(composed)
    assert composed.config["data"]["limit"] is None


def test_an_evaluation_gives_no_advice_and_older_notes_do_no_harm(tmp_path):
    data = make_folder(tmp_path / "photos", splits={"train": 24, "val": 4, "test": 8})
    run = RunDirectory(train(data, tmp_path / "out"))
    assert verb("evaluate", str(run.path)) == 0
    (evaluation,) = (run.path / "evaluations").iterdir()
    assert "What to try next" not in read(evaluation / "report" / "index.html").text

    (run.path / "notes.json").write_text(json.dumps({"notes": [], "limits": []}))
    run.metrics.unlink()
    assert what_to_try(run) == []


def test_what_a_search_found_is_what_values_are_scaled_from(tmp_path):
    data = make_folder(tmp_path / "photos", splits={"train": 24, "val": 4, "test": 8})
    run = RunDirectory(train(data, tmp_path / "out"))
    config = yaml.safe_load(run.config.read_text())
    finder = {"_target_": "lightning.pytorch.callbacks.LearningRateFinder"}
    run.config.write_text(
        yaml.safe_dump(config | {"callbacks": {**config["callbacks"], "lr_finder": finder}})
    )
    (run.path / "found.json").write_text(json.dumps({"optimizer.lr": 0.02}))
    run.history.write_text("epoch,step,train/loss\n0,3,0.5\n1,6,0.9\n2,9,0.9\n")
    spikes = {one.rule: one for one in what_to_try(run)}["spikes"]
    assert spikes.overrides == ("optimizer.lr=0.006", "callbacks.lr_finder=null")
