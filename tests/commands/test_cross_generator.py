"""`experiment=cross_generator`: a job a generator, and what is said where data or weights are absent."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tapetum.config.check import check_config
from tapetum.config.compose import compose
from tapetum.config.groups import option_names
from tapetum.config.overrides import prepare
from tapetum.errors import ConfigError
from tapetum.indexes import genimage

from commands.experiments import TINY, jobs_in_this_process, run
from layouts import make_genimage

CONF = Path(__file__).parents[2] / "conf"
RENDERED = (
    "synthetic",
    "synthetic_generators",
    "synthetic_infrared",
    "synthetic_captions",
    "synthetic_vqa",
)
CAPTIONED = ("image_text_folder", "flickr30k", "flickr8k", "coco_captions", "caption_tars")
CONVERSATIONS = ("llava", "chat_jsonl", "hf_chat")
OWN = ("infrared_folder", "identity_folder", "image_text_folder", "caption_tars", "chat_jsonl", "hf_chat")
"""Layouts of data of one's own, which nobody publishes."""
FITTING = {
    "timm_backbone": ["model.net.name=test_resnet.r160_in1k"],
    "hf": ["data.index.positive=[FAKE]"],
}


def test_every_generator_of_genimage_becomes_one_job(tmp_path, monkeypatch):
    make_genimage(tmp_path / "genimage", generators=genimage.GENERATORS, splits={"train": 2, "val": 1})
    monkeypatch.setenv("TAPETUM_DATA", str(tmp_path))
    started = []
    jobs_in_this_process(monkeypatch, started)
    words = ["-m", "experiment=cross_generator", *TINY, f"paths.outputs={tmp_path / 'out'}"]
    assert run("train", *words) == 1, "no job was really run"
    indexes = [yaml.safe_load(job.config.read_text())["data"]["index"] for job in started]
    assert [len(index["train_generators"]) for index in indexes] == [1] * 8
    assert {index["train_generators"][0] for index in indexes} == set(genimage.GENERATORS)
    assert {index["test_generators"] for index in indexes} == {None}, "each is tested on all"
    listing = genimage.index(tmp_path / "genimage", train_generators=indexes[0]["train_generators"])
    assert set(listing.table["generator"].to_pylist()) == set(genimage.GENERATORS)


def pairs():
    """Each model and each data set at least once: what is said of either does not depend on the other."""
    found = []
    for task in ("detection", "captioning", "retrieval", "vlm"):
        data = [one for one in option_names("data") if one not in RENDERED and _task_of_data(one) == task]
        models = [one for one in option_names("model") if _task_of_model(one) == task]
        number = max(len(models), len(data))
        found += [(models[place % len(models)], data[place % len(data)]) for place in range(number)]
    return found


def _task_of_data(name):
    if name in CAPTIONED:
        return "captioning"
    if name in CONVERSATIONS:
        return "vlm"
    return "retrieval" if "- _infrared" in (CONF / "data" / f"{name}.yaml").read_text() else "detection"


def _task_of_model(name):
    if name.startswith(("pixel_llm", "clip_qwen", "clip_gpt2")):
        return "captioning"
    if name.startswith(("instructblip", "qwen_vl_")):
        return "vlm"
    return "retrieval" if "embedder" in name or name == "qwen_vl" else "detection"


@pytest.mark.parametrize(("model", "data"), pairs())
def test_absent_data_are_named_with_what_to_type(model, data, tmp_path, monkeypatch):
    monkeypatch.setenv("TAPETUM_DATA", str(tmp_path))
    words = [f"model={model}", f"data={data}", *FITTING.get(model, []), *FITTING.get(data, [])]
    with pytest.raises(ConfigError) as caught:
        check_config(compose(prepare(words, multirun=False)))
    (problem,) = [one for one in caught.value.problems if one.startswith("data.root=")]
    assert (
        f"data.root={tmp_path / data} does not exist: type data.root=DIR, or set TAPETUM_DATA=DIR" in problem
    )
    if data == "cifake":
        assert f"tapetum download cifake {tmp_path / data}" in problem
    elif data not in ("folder", "manifest", "hf", "tars", *OWN):
        assert "it is published at http" in problem
