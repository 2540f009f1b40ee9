"""Every shipped search, from its YAML to its best trial, on tiny data."""

from __future__ import annotations

import csv
import shlex

import pytest
import yaml
from tapetum.config.compose import compose
from tapetum.config.groups import option_names

from commands.experiments import TINY, jobs_in_this_process, run
from layouts import make_folder

COMMON = ("accelerator=cpu", "trainer.max_epochs=1", "data.num_workers=0")
SMALL_CAPTIONER = (
    "model.net.width=32", "model.net.depth=1", "model.net.decoder_depth=1", "model.net.heads=2",
    "model.generate_every_n_epochs=0", "data.index.train=32", "data.index.test=8",
)  # fmt: skip
WORDS = {
    "optuna": ("optimizer.lr=tag(log,interval(1e-4,1e-2))", "model.net.hidden=8,16"),
    "captioning_grid": (
        *("experiment=synthetic_captions", "optimizer.lr=1e-4", "data.batch_size=4,8"),
        *SMALL_CAPTIONER,
    ),
    "pixel_llm": ("model=pixel_llm_small", "data=synthetic_captions", *SMALL_CAPTIONER),
    "detection": ("data.index.train=48", "data.index.test=16", "data.batch_size=8"),
    "retrieval": (
        *("data.index.train=64", "data.index.test=64", "data.val_fraction=0.2", "data.batch_size=16"),
        "scheduler.warmup_steps=1",
    ),
    "vlm": (
        *("model.net.backbone=tiny:instructblip", "model.net.pretrained=false", "model.net.dtype=float32"),
        *("data=synthetic_vqa", "data.index.train=24", "data.index.test=8", "trainer.precision=32-true"),
        *("trainer.check_val_every_n_epoch=1", "trainer.val_check_interval=null", "scheduler.warmup_steps=1"),
        *("callbacks.checkpoint.every_n_epochs=1", "callbacks.checkpoint.every_n_steps=null"),
    ),
}


def test_every_shipped_search_is_run():
    assert set(WORDS) == set(option_names("sweep"))


@pytest.mark.parametrize("name", WORDS)
def test_a_shipped_search_makes_its_trials_and_prints_the_best(tmp_path, name, capfd, monkeypatch):
    jobs_in_this_process(monkeypatch)
    words = [f"sweep={name}", *COMMON, *WORDS[name], f"paths.outputs={tmp_path}"]
    if name == "optuna":
        photos = make_folder(tmp_path / "photos", splits={"train": 8, "val": 4, "test": 4})
        words = [*words[:1], *TINY, *words[4:], "data=folder", f"data.root={photos}"]
    words += ["sweep.trials=2"] if name != "captioning_grid" else []
    assert run("train", "-m", *words) == 0
    said = capfd.readouterr().out
    (file,) = tmp_path.glob("sweeps/*/*/sweep.yaml")
    swept = yaml.safe_load(file.read_text())["swept"]
    with (file.parent / "jobs.csv").open(newline="") as table:
        jobs = list(csv.DictReader(table))
    assert [job["status"] for job in jobs] == ["finished", "finished"]
    ran = [compose(shlex.split(job["overrides"])).config for job in jobs]
    differing = [key for key in swept if len({str(at(config, key)) for config in ran}) == 2]
    assert differing
    if name != "captioning_grid":
        (again,) = [line for line in said.splitlines() if line.startswith("again")]
        best = compose(shlex.split(again)[3:]).config
        assert any({**best, "sweep": None} == {**config, "sweep": None} for config in ran)


def at(config, key):
    for part in key.split("."):
        config = config[part]
    return config
