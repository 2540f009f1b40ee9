"""Sweeps at W&B: what an offline one keeps for a later wandb sync, and the search that W&B's server leads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import wandb
import yaml
from tapetum.config.groups import option_names
from wandb.sdk.launch.sweeps.utils import (
    create_sweep_command,
    create_sweep_command_args,
    load_sweep_config,
)

from commands.dashboard_names import names_in
from commands.experiments import in_process, run, start, tiny
from commands.tracker_servers import of_type, wandb_records

SEARCH = Path(__file__).parents[2] / "examples" / "wandb_sweep.yaml"
JOBS = {0: "optimizer.lr=0.01", 1: "optimizer.lr=0.001"}


@pytest.fixture(autouse=True)
def no_account(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")


# -- a sweep of tapetum's, kept offline ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(folder, tmp_path_factory) -> Path:
    """Two jobs in processes of their own, as a user starts them."""
    outputs = tmp_path_factory.mktemp("outputs")
    words = tiny(
        *(
            folder,
            outputs,
            "name=rates",
            "optimizer.lr=0.01,0.001",
            "seed=3",
            "logger=wandb",
            "train.report=true",
        ),
        *("logger.wandb.mode=offline", "logger.wandb.tags=[mine]", "logger.wandb.notes=two rates"),
    )
    offline = {"NETRC": "/nonexistent", "WANDB_API_KEY": "", "WANDB_X_STATS_SAMPLING_INTERVAL": "0.2"}
    process = start("train", "-m", *words, **offline)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    (made,) = (outputs / "sweeps" / "rates").iterdir()
    return made


@pytest.fixture(scope="module")
def records(sweep) -> dict[int, list[dict]]:
    """job → everything in its one W&B run."""
    found = {}
    for number in JOBS:
        (directory,) = (sweep / str(number) / "wandb").glob("offline-run-*")
        found[number] = wandb_records(directory)
    return found


def config_of(records: list[dict]) -> dict:
    """The config that a run began with and what was added to it."""
    found: dict = {}
    for record in [of_type(records, "run")[0]["config"], *of_type(records, "config")]:
        found |= record["update"]
    return found


def logged_by(records: list[dict]) -> set[str]:
    """Every name in the history, media included."""
    return {name.split(".")[0] for row in of_type(records, "history") for name in row["item"]}


def test_each_job_is_one_finished_run_in_the_group_of_the_sweep_and_called_by_its_overrides(sweep, records):
    for number, name in JOBS.items():
        (began,) = of_type(records[number], "run")
        assert (began["display_name"], began["run_group"]) == (name, f"rates/{sweep.name}")
        assert began["tags"] == ["detection", "test_resnet.r160_in1k", "photos", "mine"]
        assert (began["notes"], began["project"], began["job_type"]) == ("two rates", "tapetum", "train")
        (ended,) = of_type(records[number], "exit")
        assert ended.get("exit_code", 0) == 0
    assert len({of_type(found, "run")[0]["run_id"] for found in records.values()}) == len(JOBS)


def test_each_run_has_the_resolved_config_of_its_job(sweep, records):
    for number in JOBS:
        wanted = yaml.safe_load((sweep / str(number) / "config.yaml").read_text())
        found = config_of(records[number])
        assert {key: found[key] for key in wanted} == wanted
    assert [config_of(records[number])["optimizer"]["lr"] for number in JOBS] == [0.01, 0.001]


def test_each_run_has_the_figures_of_its_job(sweep, records):
    for number in JOBS:
        wanted = json.loads((sweep / str(number) / "metrics.json").read_text())
        summary: dict = {}
        for record in of_type(records[number], "summary"):
            summary |= record.get("update", {})
        assert {name: summary[name] for name in wanted} == pytest.approx(wanted)
        curve = [row["item"] for row in of_type(records[number], "history") if "val/auroc" in row["item"]]
        assert curve[0]["val/auroc"] == pytest.approx(wanted["best/val/auroc"])


def test_each_run_has_the_commit_that_it_ran_and_whether_the_tree_was_changed(sweep, records):
    for number in JOBS:
        state = json.loads((sweep / str(number) / "environment.json").read_text())["git"]
        if state is None:
            pytest.skip("not in a git checkout")
        assert config_of(records[number])["git"] == state
        assert of_type(records[number], "run")[0]["git"]["commit"] == state["sha"]  # as W&B itself found it


def test_each_run_has_the_load_of_the_machine(records):
    for found in records.values():
        measured = {name for row in of_type(found, "stats") for name in row["item"]}
        assert {"cpu", "memory_percent", "proc.memory.rssMB"} <= measured


def test_the_report_of_the_sweep_shows_its_jobs_alone_and_what_they_logged(sweep, records, capsys):
    assert run("dashboard", str(sweep)) == 0
    said = capsys.readouterr().out
    assert f"dashboard  {sweep / 'dashboard.json'}" in said
    assert "not saved to W&B: there is no account here; after wandb login" in said
    written = json.loads((sweep / "dashboard.json").read_text())
    assert (written["kind"], written["title"]) == ("report", f"Sweep rates/{sweep.name}")
    names = names_in(written)
    assert names.groups == {f"rates/{sweep.name}"}
    assert names.configs == {"optimizer.lr"}
    assert "test/generator/ai_generated/auroc" in names.figures
    logged = logged_by(records[0]) | {"_runtime"}
    measured = {f"system/{name}" for row in of_type(records[0], "stats") for name in row["item"]}
    assert names.figures <= logged | measured, names.figures - logged - measured
    assert names.media <= logged, names.media - logged
    best = max(
        JOBS, key=lambda one: json.loads((sweep / str(one) / "metrics.json").read_text())["best/val/auroc"]
    )
    assert f"Best by val/auroc: job {best} ({JOBS[best]})" in json.dumps(written)
    before = (sweep / "dashboard.json").read_bytes()
    assert in_process("dashboard", str(sweep), "mode=offline").returncode == 0
    assert (sweep / "dashboard.json").read_bytes() == before


# -- a search that W&B's server leads ------------------------------------------------------------------------


def sampled(which: int) -> dict[str, dict[str, object]]:
    """One point of the search as W&B's server hands it to an agent."""
    found = {}
    for name, described in yaml.safe_load(SEARCH.read_text())["parameters"].items():
        ends = described.get("values") or [described["min"], described["max"]]
        found[name] = {"value": ends[which]}
    return found


def agents_command(args: dict) -> list[str]:
    """What W&B's agent starts for a point, made by the functions that it calls."""
    config = load_sweep_config(str(SEARCH))
    filled = create_sweep_command_args({"args": args}) | {"program": [config["program"]]}
    words: list[str] = []
    for chunk in create_sweep_command(config["command"]):
        macro = chunk.startswith("${") and chunk.endswith("}")
        words += filled[chunk[2:-1]] if macro else [chunk]
    return words


def test_the_search_has_what_wandb_asks_of_one():
    config = load_sweep_config(str(SEARCH))
    assert config["method"] in ("grid", "random", "bayes")
    assert config["metric"] == {"name": "val/auroc", "goal": "maximize"}
    assert config["early_terminate"]["type"] == "hyperband"
    for described in config["parameters"].values():
        assert described.keys() in ({"values"}, {"distribution", "min", "max"})
    assert (SEARCH.parents[1] / config["program"]).is_file()
    assert config["command"][:2] == ["python", config["program"]]


@pytest.mark.parametrize("which", [0, -1], ids=["smallest", "largest"])
def test_what_an_agent_starts_is_accepted(which, folder, tmp_path, capsys):
    words = agents_command(sampled(which))
    assert words[:2] == ["python", "train.py"]
    assert "npr_64" in option_names("model")
    lr = sampled(which)["optimizer.lr"]["value"]
    assert f"optimizer.lr={lr}" in words
    small = ("accelerator=cpu", "data=folder", f"data.root={folder}", f"paths.outputs={tmp_path}")
    assert run("check", *words[2:], *small, "data.num_workers=0", "--json") == 0
    assert "optimizer.lr" not in capsys.readouterr().err


def test_an_agents_run_is_the_one_that_the_server_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "asked4it")
    wandb.teardown()  # it looks at the environment once
    try:
        assert run("train", *tiny(folder, tmp_path, "logger=wandb", "logger.wandb.mode=offline")) == 0
    finally:
        wandb.teardown()
    (made,) = tmp_path.glob("detection/*/*")
    assert json.loads((made / "trackers.json").read_text())["wandb"]["id"] == "asked4it"
