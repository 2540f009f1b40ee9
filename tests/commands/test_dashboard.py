"""`tapetum dashboard`: what it writes without an account, what it sends with one, and mistakes."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import pytest
import wandb
import yaml
from tapetum.config.compose import compose
from tapetum.config.overrides import prepare
from tapetum.config.schema import ANY_MODEL, METRICS
from tapetum.tasks import task_of
from wandb_workspaces.reports.v2 import internal as report_specs
from wandb_workspaces.workspaces import internal as workspace_specs

from commands.dashboard_names import names_in
from commands.experiments import in_process, run, tiny
from commands.test_captioning import SMALL
from commands.test_vlm import LORA, TINY
from commands.tracker_servers import WandbServer, _WandbHandler
from layouts import make_genimage
from modules.captioning_parts import write_pictures
from retrieval_runs import ARGUMENTS

TASKS = list(METRICS)


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(tmp_path / "outputs"))


def written(task: str, outputs: Path) -> dict:
    return json.loads((outputs / "dashboards" / f"{task}.json").read_text())


# -- what is written -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outputs(folder, tmp_path_factory) -> Path:
    """A tiny run of every task, and of both kinds of data that a vision-language model takes."""
    place = tmp_path_factory.mktemp("outputs")
    pictures = write_pictures(tmp_path_factory.mktemp("pictures") / "root")
    judged = make_genimage(tmp_path_factory.mktemp("genimage") / "root")
    asked = ("data=synthetic_vqa", "data.index.train=24", "data.index.test=8")
    where = f"paths.outputs={place}"
    for words in (
        tiny(folder, place, "train.report=true"),
        [*SMALL, f"data.root={pictures}", "trainer.max_epochs=1", where],
        [*ARGUMENTS, where],
        [*TINY, *LORA, "data=genimage", f"data.root={judged}", where],
        [*TINY, "model=instructblip_small", *asked, where],
    ):
        assert run("train", *words) == 0
    return place


def logged_in(outputs: Path, task: str) -> tuple[set[str], set[str]]:
    """Figures that the runs of a task handed to their trackers, and pictures and tables, from their files."""
    figures: set[str] = set()
    media: set[str] = set()
    for config in outputs.glob(f"{task}/*/*/config.yaml"):
        made = config.parent
        with (made / "metrics.csv").open() as file:
            figures |= set(next(csv.reader(file)))
        figures |= json.loads((made / "metrics.json").read_text()).keys()
        media |= {f"report/{file.stem}" for file in (made / "report").glob("*.png")}
        media |= {f"predictions/{file.stem}" for file in (made / "predictions").glob("*.parquet")}
        media.add(task_of(yaml.safe_load(config.read_text())).samples_are)
    return figures, media


@pytest.mark.parametrize("task", TASKS)
def test_a_workspace_shows_what_runs_of_its_task_logged(task, outputs, monkeypatch, capsys):
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(outputs))
    assert run("dashboard", task) == 0
    assert f"dashboard  {outputs / 'dashboards' / task}.json" in capsys.readouterr().out
    found = written(task, outputs)
    assert (found["kind"], found["project"], found["title"]) == ("workspace", "tapetum", f"tapetum {task}")
    names, (figures, media) = names_in(found), logged_in(outputs, task)
    own = {name for name in names.figures if not name.startswith("system/")}
    assert own <= figures, own - figures
    assert names.media <= media, names.media - media
    for pattern in names.patterns:
        if "system/" not in pattern:
            assert any(re.fullmatch(pattern, name) for name in figures), pattern
    parts = {name for name in figures if re.match(r"test/(generator|class)/[^/]+/(auroc|map_at_r)$", name)}
    assert parts <= own


@pytest.mark.parametrize("task", TASKS)
def test_without_runs_a_workspace_has_every_curve_of_the_schema_and_waits_for_parts(task, tmp_path):
    assert run("dashboard", task) == 0
    found = written(task, tmp_path / "outputs")
    names = names_in(found)
    curves = {name for name in names.figures if name.startswith(("train/", "val/"))}
    assert curves - {"val/embedding/spread"} <= METRICS[task].keys()
    monitor = compose(prepare([f"model={ANY_MODEL[task]}"], multirun=False)).config["train"]["monitor"]
    assert {monitor, f"best/{monitor}", "train/loss"} <= names.figures
    waiting = {pattern for pattern in names.patterns if pattern.startswith("^test/")}
    assert bool(waiting) == (task != "captioning")
    filters = found["spec"]["section"]["runSets"][0]["filters"]["filters"]
    assert [(one["key"], one["op"], one["value"]) for one in filters] == [
        ({"section": "config", "name": "task"}, "=", task)
    ]


def test_the_same_workspace_is_the_same_file_in_every_process(outputs, monkeypatch):
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(outputs))
    assert run("dashboard", "detection") == 0
    before = (outputs / "dashboards" / "detection.json").read_bytes()
    assert in_process("dashboard", "detection").returncode == 0
    assert (outputs / "dashboards" / "detection.json").read_bytes() == before


@pytest.mark.parametrize("task", TASKS)
def test_wandb_workspaces_itself_reads_back_what_is_written(task, tmp_path):
    assert run("dashboard", task) == 0
    spec = written(task, tmp_path / "outputs")["spec"]
    read = workspace_specs.WorkspaceViewspec.model_validate(spec)
    assert read.model_dump(mode="json", by_alias=True, exclude_none=True) == spec
    identities = re.findall(r'"__id__": "(\w+)"', json.dumps(spec))
    assert len(identities) == len(set(identities)) > 10


# -- a sweep -------------------------------------------------------------------------------------------------


def write_sweep(place: Path, jobs: dict[int, list[str]], **more: object) -> Path:
    """A sweep's directory whose jobs are composed and, all but the last, finished; nothing was trained."""
    sweep = place / "outputs" / "sweeps" / "rates" / "2026-01-02_03-04-05-abcdef"
    for number, overrides in jobs.items():
        job = sweep / str(number)
        job.mkdir(parents=True)
        config = compose(prepare(overrides, multirun=False)).config
        (job / "config.yaml").write_text(yaml.safe_dump(config))
        if number < len(jobs) - 1:
            figures = {"best/val/auroc": 0.5 + number / 10, "test/generator/flux/auroc": 0.5}
            (job / "metrics.json").write_text(json.dumps(figures))
    described = {"command": ["train.py"], "jobs": jobs, **more}
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(described))
    return sweep


SEARCHED = {
    number: [f"model={model}", f"optimizer.lr={lr}", "logger=wandb", "logger.wandb.project=faces"]
    for number, (model, lr) in enumerate([("npr", 0.1), ("npr_64", 0.001), ("npr_64", 0.1)])
}


def test_a_report_names_what_was_varied_and_the_best_job(tmp_path, capsys):
    sweep = write_sweep(tmp_path, SEARCHED, swept=["model", "optimizer.lr"])
    assert run("dashboard", str(sweep)) == 0
    found = json.loads((sweep / "dashboard.json").read_text())
    text = json.dumps(found)
    assert "3 jobs, model, optimizer.lr varied." in text
    assert "Best by val/auroc: job 1 (model=npr_64 optimizer.lr=0.001), 0.6." in text
    assert found["project"] == "faces"  # where its jobs are
    names = names_in(found)
    assert names.configs == {
        "model.net.size",
        "optimizer.lr",
    }  # a group by the key in which its options differ
    assert names.groups == {f"rates/{sweep.name}"}
    assert "test/generator/flux/auroc" in names.figures
    assert "not logged to W&B" not in capsys.readouterr().out
    columns = next(
        node["config"]["columns"]
        for block in found["spec"]["blocks"]
        if block["type"] == "panel-grid"
        for node in block["metadata"]["panelBankSectionConfig"]["panels"]
        if node["viewType"] == "Parallel Coordinates Plot"
    )
    logarithmic = {one["displayName"] for one in columns if one.get("log")}
    assert logarithmic == {"optimizer.lr"}
    read = report_specs.Spec.model_validate(found["spec"])
    again = read.model_dump_json(by_alias=True, exclude_none=True).replace(',"inlineComments":[]', "")
    assert json.loads(again) == found["spec"]


def test_jobs_that_wandb_has_not_seen_are_told_of(tmp_path, capsys):
    sweep = write_sweep(tmp_path, {0: ["model=npr_64", "seed=1"], 1: ["model=npr_64", "seed=2"]})
    assert run("dashboard", str(sweep)) == 0
    assert "these jobs were not logged to W&B" in capsys.readouterr().out


def test_jobs_of_several_tasks_have_no_report_in_common(tmp_path, capsys):
    sweep = write_sweep(tmp_path, {0: ["model=npr_64"], 1: ["model=small_embedder"]})
    assert run("dashboard", str(sweep)) == 1
    assert "have different tasks (detection, retrieval)" in capsys.readouterr().err


# -- an account ----------------------------------------------------------------------------------------------


class _Handler(_WandbHandler):
    """W&B as far as dashboards need it; what was saved stands in the server's `saved`."""

    def _query(self, question: dict) -> dict:
        text, values = question["query"], question.get("variables") or {}
        if "viewer" in text:
            me = {"id": "e", "entity": "me", "username": "me", "email": "", "flags": "{}"}
            return {"viewer": {**me, "teams": {"edges": []}} if self.server.knows else None}
        if "models(" in text:
            return {"models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": []}}
        if "upsertModel" in text:
            return {"result": None}
        if "upsertView" in text:
            self.server.saved.append(values)
            project = {"id": "p", "name": values["projectName"], "entityName": values["entityName"]}
            view = {"id": f"view{len(self.server.saved)}", "name": values["name"], "type": "runs"}
            view |= {"displayName": values["displayName"], "description": "", "project": project}
            view |= {"spec": values["spec"], "updatedAt": "2026-01-01T00:00:00"}
            return {"upsertView": {"view": view, "inserted": True}}
        return super()._query(question)


@pytest.fixture
def server(monkeypatch):
    """A server that this machine is logged in at."""
    made = WandbServer()
    made.RequestHandlerClass, made.saved, made.knows = _Handler, [], True
    monkeypatch.setenv("WANDB_BASE_URL", made.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    wandb.teardown()
    yield made
    wandb.teardown()
    made.die()


def test_with_an_account_the_workspace_that_is_written_is_the_one_that_is_saved(server, tmp_path, capsys):
    assert run("dashboard", "detection", "project=faces") == 0
    assert f"saved      {server.url}/me/faces?nw=" in capsys.readouterr().out
    (sent,) = server.saved
    assert (sent["entityName"], sent["projectName"]) == ("me", "faces")
    assert json.loads(sent["spec"]) == written("detection", tmp_path / "outputs")["spec"]


def test_saved_again_it_takes_the_place_of_the_first_and_only_there(server):
    for words in ([], [], ["entity=team"]):
        assert run("dashboard", "detection", *words) == 0
    first, second, elsewhere = server.saved
    assert "id" not in first
    assert (second["id"], second["name"]) == ("view1", first["name"])
    assert "id" not in elsewhere
    assert elsewhere["entityName"] == "team"


def test_a_sweeps_report_is_saved_where_its_jobs_are(server, tmp_path, capsys):
    sweep = write_sweep(tmp_path, SEARCHED)
    for _ in range(2):
        assert run("dashboard", str(sweep)) == 0
    assert "saved      " in capsys.readouterr().out
    first, second = server.saved
    assert (first["projectName"], first["displayName"]) == ("faces", f"Sweep rates/{sweep.name}")
    assert json.loads(first["spec"]) == json.loads((sweep / "dashboard.json").read_text())["spec"]
    assert (first["id"], second["id"]) == (None, "view1")


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_asks_nobody(how, server, monkeypatch, capsys):
    if how == "environment":
        monkeypatch.setenv("WANDB_MODE", "offline")
    assert run("dashboard", "vlm", *(["mode=offline"] if how == "argument" else [])) == 0
    assert "not saved to W&B" in capsys.readouterr().out
    assert server.seen == []


def test_a_login_that_fails_leaves_the_file_and_says_what_to_type(server, tmp_path, capsys):
    server.knows = False
    assert run("dashboard", "detection") == 1
    said = capsys.readouterr().err
    assert "W&B did not take the dashboard" in said
    assert "wandb login --relogin" in said
    assert server.saved == []
    assert written("detection", tmp_path / "outputs")["kind"] == "workspace"


def test_a_server_that_is_down_leaves_the_file_and_says_so(server, tmp_path, capsys):
    server.die()
    assert run("dashboard", "detection") == 1
    assert "W&B can't be reached" in capsys.readouterr().err
    assert written("detection", tmp_path / "outputs")["kind"] == "workspace"


# -- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a task or a sweep's directory is needed"),
        (["detection", "vlm"], "a task or a sweep's directory is needed"),
        (["detecton"], "detecton is neither a task nor the directory of a sweep: did you mean detection?"),
        (["."], "is not the directory of a sweep, which holds sweep.yaml"),
        (["vlm", "projekt=x"], "unknown setting projekt: did you mean project?"),
        (["vlm", "mode=disabled"], "mode=disabled is not a mode: online or offline"),
        (["vlm", "mode=online"], "mode=online needs an account, and this machine is not logged in"),
    ],
)
def test_a_mistake_is_told_with_what_would_be_right(words, said, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("dashboard", *words) in (1, 2)
    assert said in capsys.readouterr().err
    assert list(tmp_path.rglob("*.json")) == []


def test_a_sweep_of_which_no_job_has_begun_is_told_of(tmp_path, capsys):
    (tmp_path / "sweep.yaml").write_text("command: []\njobs: {0: [seed=1]}\n")
    assert run("dashboard", str(tmp_path)) == 1
    assert "has no jobs that have begun" in capsys.readouterr().err


def test_without_the_package_the_line_to_type_is_told(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert run("dashboard", "detection") == 2
    assert "pip install 'tapetum[dashboards]'" in capsys.readouterr().err
