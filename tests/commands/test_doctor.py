"""`tapetum doctor`: true of this machine, and still standing where everything else has fallen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tapetum.commands import doctor, machine
from tapetum.commands.check import explain
from tapetum.config.compose import compose
from tapetum.config.groups import option_names
from tapetum.config.overrides import prepare

from commands.experiments import TINY, in_process, run


class Server:
    """A server on this machine that answers everything with 404, and counts."""

    def __init__(self):
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_error(404)

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def server():
    found = Server()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """The account of whoever runs the tests is none of their business."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture(scope="module")
def healthy(server, folder, tmp_path_factory):
    """(exit code, what --json printed, outputs, cache) of a machine on which nothing is wrong."""
    place = tmp_path_factory.mktemp("healthy")
    paths = [f"paths.outputs={place / 'outputs'}", f"paths.cache={place / 'cache'}"]
    done = in_process(
        "doctor", "--json", *TINY, *paths, "data=folder", f"data.root={folder}",
        HF_ENDPOINT=server.address, WANDB_BASE_URL=server.address, HF_HUB_OFFLINE="0", HF_HOME=str(place),
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), place / "outputs", place / "cache"


def named(found, section, name):
    (one,) = [one for one in found["findings"] if (one["section"], one["name"]) == (section, name)]
    return one


# -- a machine that is well --------------------------------------------------------------------------------


def test_a_fit_machine_has_no_problem_and_exit_code_0(healthy):
    code, found, _, _ = healthy
    assert [one for one in found["findings"] if one["status"] == "problem"] == []
    assert (code, found["problems"]) == (0, 0)
    assert found["warnings"] == sum(one["status"] == "warning" for one in found["findings"])
    sections = [one["section"] for one in found["findings"]]
    assert list(dict.fromkeys(sections)) == [one for one in doctor.SECTIONS if one != "network"]


def test_every_warning_and_problem_says_what_to_do(healthy):
    assert all(one["do"] for one in healthy[1]["findings"] if one["status"] in ("warning", "problem"))


def test_versions_are_those_that_are_imported(healthy):
    import lightning
    import torch

    found = healthy[1]
    assert named(found, "versions", "torch")["said"] == torch.__version__.split("+")[0]
    assert named(found, "versions", "lightning")["said"] == lightning.__version__
    assert named(found, "versions", "python")["said"].startswith(sys.version.split()[0])


def test_the_processor_has_been_tried_in_each_precision(healthy):
    said = named(healthy[1], "machine", "cpu")["said"]
    assert "one thread: float32 " in said
    assert "bfloat16 is " in said
    assert ("with AMX" in said) == ("AMX" in machine.matrix_units())


def test_memory_is_what_check_says(healthy, folder):
    overrides = prepare([*TINY, "data=folder", f"data.root={folder}"], multirun=False)
    assert healthy[1]["memory"] == explain(compose(overrides))["memory"]
    assert "to train on 8 images" in named(healthy[1], "config", "memory")["said"]


def test_every_data_set_is_told(healthy, folder):
    found = healthy[1]
    told = {one["name"]: one for one in found["findings"] if one["section"] == "data"}
    assert set(told) == set(option_names("data"))
    assert (told["folder"]["status"], told["folder"]["said"]) == ("ok", str(folder))
    assert told["synthetic"]["said"].endswith("(rendered when first used)")
    assert told["cifake"]["status"] == "absent"
    assert told["cifake"]["do"] == "data=cifake data.root=DIR"


def test_nothing_is_written_and_no_server_is_asked(healthy, server):
    _, found, outputs, cache = healthy
    assert not outputs.exists()
    assert not cache.exists()
    assert server.asked == []
    assert named(found, "folders", "outputs")["said"].endswith("(made when first used)")


# -- what is wrong -----------------------------------------------------------------------------------------


def test_what_is_wrong_is_told_with_what_to_type_and_exit_code_1(tmp_path):
    (tmp_path / "file").touch()
    done = in_process(
        "doctor", *TINY, "model=timm_backbone", "model.net.pretrained=true", "data=cifake",
        f"data.root={tmp_path / 'absent'}", "data.batch_size=1048576", "data.num_workers=4096",
        "logger=wandb", f"paths.outputs={tmp_path / 'file' / 'outputs'}",
        HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), WANDB_MODE="online",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    for said, do in {
        "data.num_workers=4096 is more": "data.num_workers=",
        "can't be written: Not a directory": "paths.outputs=DIR, or export TAPETUM_OUTPUTS=DIR",
        "absent is no folder": "data=cifake data.root=DIR, or export TAPETUM_DATA=DIR",
        "to train on 1048576 images": "data.batch_size=",
        "is not in the hub's cache": "hf download timm/test_resnet.r160_in1k",
        "not logged in": "wandb login, or export WANDB_MODE=offline",
    }.items():
        (at,) = [number for number, line in enumerate(lines) if said in line]
        assert lines[at].split()[0] in ("warning", "problem"), lines[at]
        assert lines[at + 1].strip().startswith("→ "), lines[at + 1]
        assert do in lines[at + 1]
    assert lines[-1] == "4 problems, 2 warnings"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('raise ImportError("libcudart.so: cannot open shared object file")', "libcudart.so: cannot open"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "importing it ends the process: SIGSEGV"),
    ],
    ids=["import error", "crash"],
)
def test_a_broken_torch_is_a_finding(tmp_path, source, reason):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(source)
    done = in_process("doctor", "--json", PYTHONPATH=str(tmp_path), WANDB_MODE="offline")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert reason in named(found, "versions", "torch")["said"]
    assert named(found, "versions", "torch")["do"].startswith("pip install 'torch>=")
    lightning = named(found, "versions", "lightning")
    assert (lightning["status"], lightning["do"]) == ("problem", "mend torch first")
    assert named(found, "versions", "hydra-core")["status"] == "ok"
    assert named(found, "folders", "cache")["status"] == "ok"
    assert "synthetic" in {one["name"] for one in found["findings"] if one["section"] == "data"}


def test_an_import_that_hangs_comes_to_an_end(tmp_path, monkeypatch):
    (tmp_path / "hangs.py").write_text("import time; time.sleep(600)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "TIMEOUT", 10.0)
    found = doctor._run("imports", {"names": ["json", "hangs"]})
    assert (found.died_at, found.why) == ("hangs", "no answer within 10 s")
    assert found.facts == {"json": None}


def test_a_wrong_config_is_told_and_the_rest_is_examined_all_the_same(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError")
    done = in_process("doctor", "data=fodler", "model=npr", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stderr
    assert "unknown value data=fodler: did you mean folder?" in done.stdout
    assert "→ tapetum check data=fodler model=npr" in done.stdout
    assert "  ok      cache " in done.stdout


def test_an_option_that_nobody_knows_is_refused(capsys):
    assert run("doctor", "--jsn") == 2
    assert "unknown option --jsn: did you mean --json? tapetum doctor takes --json, --online" in (
        capsys.readouterr().err
    )


def test_importing_the_verb_imports_nothing_but_python():
    code = (
        "import sys, tapetum.commands.doctor;"
        "sys.exit(','.join(m for m in ('torch', 'hydra', 'omegaconf', 'yaml', 'lightning', 'numpy', 'rich',"
        "'packaging') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "\n", done.stderr


# -- part by part ------------------------------------------------------------------------------------------


def distribution(folder, name, version):
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_version_out_of_range_names_the_range_and_the_line_to_type(tmp_path, monkeypatch):
    distribution(tmp_path, "lightning", "1.0.0")
    monkeypatch.syspath_prepend(tmp_path)
    found = {one.name: one for one in machine.version_findings({}, [])}
    assert found["lightning"].status == "problem"
    assert found["lightning"].said.startswith("1.0.0 is outside <3,>=2.6.")
    assert found["lightning"].do.startswith("pip install 'lightning>=2.6.")
    assert found["torch"].status == "ok"


def test_a_missing_extra_matters_only_where_it_is_chosen(tmp_path, monkeypatch):
    distribution(tmp_path, "torch", "2.15.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # nothing else is installed there
    found = {one.name: one for one in machine.version_findings({}, ["mlflow"])}
    assert found["torch"].status == "ok"
    assert (found["timm"].status, found["timm"].said) == ("problem", "not installed")
    assert found["timm"].do.startswith("pip install 'timm>=")
    assert (found["tensorboard"].status, found["mlflow"].status) == ("absent", "problem")
    assert found["mlflow"].do == found["tensorboard"].do.replace("tensorboard", "mlflow")
    assert found["mlflow"].do == "pip install 'tapetum[mlflow]'"


def test_an_installed_package_knows_its_requirements_without_the_checkout(monkeypatch, tmp_path):
    checkout = machine.requirements()
    assert any(one.startswith("torch>=") for one in checkout.core)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "site" / "tapetum" / "commands" / "machine.py"))
    installed = machine.requirements()
    names = set(map(doctor._bare, installed.core))
    assert {"torch", "lightning", "hydra-core"} <= names
    assert not names & {"tensorboard", "mlflow", "pytest"}
    assert {"tensorboard", "mlflow", "dev"} <= set(installed.extras)
    assert "3.11" in installed.python


def test_roots_of_single_splits_are_looked_at(tmp_path):
    data = {"root": "unused", "roots": {"train": str(tmp_path), "test": str(tmp_path)}}
    assert [one.status for one in machine.data_findings({}, "folder", data, "cache")] == ["ok"]
    data["roots"]["test"] = str(tmp_path / "absent")
    (found,) = machine.data_findings({}, "folder", data, "cache")
    assert (found.status, found.do) == ("problem", "data.roots.test=DIR")


def test_an_account_is_recognised_and_its_key_never_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)

    def told(chosen=()):
        return next(one for one in machine.tracker_findings(chosen, "") if one.name == "wandb")

    assert (told().status, told(["wandb"]).status) == ("absent", "warning")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password not-to-be-shown\n")
    assert told(["wandb"]).status == "ok"
    assert "logged in to api.wandb.ai" in told().said
    (tmp_path / "netrc").write_text("this is no netrc")
    assert told(["wandb"]).status == "warning"
    monkeypatch.setenv("WANDB_API_KEY", "not-to-be-shown")
    assert told(["wandb"]).status == "ok"
    assert "not-to-be-shown" not in told().said
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert told(["wandb"]).status == "ok"


def test_online_asks_and_says_who_does_not_answer(server, monkeypatch):
    silent = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # takes connections and never answers
    monkeypatch.setattr(machine, "_SECONDS", 0.3)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.server_port}")
    monkeypatch.setenv("WANDB_BASE_URL", server.address)
    try:
        found = {one.name: one for one in machine.online_findings(["hub"], "http://127.0.0.1:9")}
    finally:
        silent.server_close()
    assert found["wandb"].status == "ok"  # a 404 is an answer
    assert (found["hub"].status, found["mlflow"].status) == ("problem", "warning")
    assert "timed out" in found["hub"].said
    assert all(one.do for one in found.values() if one.status != "ok")
    assert "mlflow" not in {one.name for one in machine.online_findings([], "sqlite:///runs.db")}


def test_cores_and_memory_are_those_that_may_be_used():
    assert 1 <= machine.usable_cores() <= (os.cpu_count() or 1)
    free, total = machine.memory()
    assert 0 < free <= total
