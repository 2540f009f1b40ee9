"""Every shipped YAML composes, fits and builds; every key of every shipped experiment does something."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml
from tapetum.backbones import tiny
from tapetum.commands.check import explain
from tapetum.commands.preflight import index_problems, network_problems
from tapetum.config.check import check_config
from tapetum.config.compose import Composed, compose
from tapetum.config.groups import groups, option_names
from tapetum.config.overrides import prepare
from tapetum.config.schema import ANY_MODEL, METRICS
from tapetum.errors import ConfigError, TapetumError
from tapetum.indexes.table import Index
from tapetum.runs.building import INDEX_KEYS, build_index
from torch import nn

from layouts import (
    make_aigcdetectbenchmark,
    make_aigibench,
    make_caption_tars,
    make_chat_jsonl,
    make_cifake,
    make_coco_captions,
    make_community_forensics,
    make_drct,
    make_flickr8k,
    make_flickr30k,
    make_flir_adas,
    make_folder,
    make_forensynths,
    make_genimage,
    make_hf,
    make_hf_chat,
    make_identity_folder,
    make_image_text_folder,
    make_infrared_folder,
    make_llava,
    make_llcm,
    make_manifest,
    make_regdb,
    make_solar_modules,
    make_sysu_mm01,
    make_tars,
    make_univfd,
    make_wildrf,
)

CONF = Path(__file__).parents[2] / "conf"
NEEDED = {
    ("model", "timm_backbone"): ["model.net.name=test_resnet.r160_in1k"],
    ("data", "hf"): ["data.index.positive=[FAKE]"],
    ("callbacks", "gradual_unfreeze"): [
        "model=timm_backbone",
        "model.net.name=test_resnet.r160_in1k",
        "model.net.freeze=true",
        "callbacks.gradual_unfreeze.schedule={2: 2, 4: all}",
    ],
}
STAND_INS = {
    "tapetum.detectors.clip": {"backbone": "tiny-clip"},
    "tapetum.detectors.knn": {"backbone": "tiny-clip"},
    "tapetum.detectors.prompt": {"backbone": "tiny-clip"},
    "tapetum.embedders.qwen_vl": {"backbone": "tiny-qwen-vl"},
    "tapetum.vlms.instructblip": {"backbone": "tiny-instructblip"},
    "tapetum.vlms.qwen_vl": {"backbone": "tiny-qwen-vl"},
    "tapetum.captioners.clip_prefix": {"backbone": "tiny-clip", "language_model": "tiny-qwen3"},
}
RETRIEVAL = {
    "infrared_folder": make_infrared_folder,
    "identity_folder": make_identity_folder,
    "solar_modules": make_solar_modules,
    "flir_adas": make_flir_adas,
    "sysu_mm01": make_sysu_mm01,
    "regdb": make_regdb,
    "llcm": make_llcm,
}
CAPTIONING = {
    "flickr30k": make_flickr30k,
    "flickr8k": make_flickr8k,
    "coco_captions": make_coco_captions,
    "image_text_folder": make_image_text_folder,
    "caption_tars": make_caption_tars,
}
CONVERSATIONS = {"llava": make_llava, "chat_jsonl": make_chat_jsonl, "hf_chat": make_hf_chat}
NEEDED |= {("data", name): ["model=small_embedder"] for name in (*RETRIEVAL, "synthetic_infrared")}
NEEDED |= {("data", name): ["model=pixel_llm_small"] for name in (*CAPTIONING, "synthetic_captions")}
NEEDED |= {("data", name): ["model=instructblip_small"] for name in (*CONVERSATIONS, "synthetic_vqa")}
NEEDED |= {("data", "llava"): ["model=qwen_vl_lora"]}  # one of its conversations shows two images
# Its word stands in a question of its own.
NEEDED |= {("model", "instructblip_prompt"): ["data=synthetic", "data.index.train=64"]}
NEEDED |= {("model", "clip_gpt2"): ["model.net.language_model=${oc.env:TAPETUM_DATA}/tiny-gpt2"]}
NEEDED |= {
    ("sweep", name): [f"experiment={experiment}"]
    for name, experiment in {
        "captioning_grid": "flickr30k_clip_qwen", "pixel_llm": "pixel_llm", "vlm": "instructblip_lora",
    }.items()
}  # fmt: skip

NEEDS_A_GPU = {"gpu", "gpu_bf16", "mps", "ddp", "ddp_bf16", "fsdp_bf16"}
TINY = ["data.index.train=64", "data.index.test=32"]
EXPERIMENTS = option_names("experiment")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("every")
    make_folder(root / "folder", splits={"train": 12, "val": 4, "test": 4})
    make_cifake(root / "cifake")
    make_manifest(root / "manifest")
    make_hf(root / "hf")
    make_tars(root / "tars")
    make_genimage(root / "genimage")
    make_forensynths(root / "forensynths")
    make_univfd(root / "univfd")
    make_aigcdetectbenchmark(root / "aigcdetectbenchmark")
    make_aigibench(root / "aigibench")
    make_wildrf(root / "wildrf")
    make_community_forensics(root / "community_forensics", train=24)
    make_drct(root / "drct", root / "MSCOCO")
    for name, make in {**RETRIEVAL, **CAPTIONING, **CONVERSATIONS}.items():
        make(root / name)
    tiny.clip(root / "tiny-clip")
    tiny.qwen_vl(root / "tiny-qwen-vl")
    tiny.qwen3(root / "tiny-qwen3")
    tiny.gpt2(root / "tiny-gpt2")
    tiny.instructblip(root / "tiny-instructblip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAPETUM_DATA", str(root))
        yield root


def composed(*overrides: str, prepared: bool = False) -> Composed:
    """Composed, with tiny towers and language models in the place of those that a model names itself.

    prepared: the overrides are as Hydra wants them.
    """
    chooses = ("model", "experiment=", "sweep=", "debug=")
    ours = network_of(tuple(one for one in overrides if one.startswith(chooses)))
    stand_ins = [
        f"model.net.{key}={os.environ['TAPETUM_DATA']}/{name}"
        for key, name in STAND_INS.get(ours, {}).items()
        if not any(one.startswith(f"model.net.{key}=") for one in overrides)
    ]
    words = [*overrides, *stand_ins]
    return compose(words if prepared else prepare(words, multirun=False))


@functools.cache
def network_of(choices: tuple[str, ...]) -> str:
    """The file of the network that such words choose; the data have no say in it."""
    target = compose(prepare(list(choices), multirun=False)).config["model"]["net"]["_target_"]
    return ".".join(target.split(".")[:3])


def few(*overrides: str) -> list[str]:
    """Fewer images where they would be rendered: of what an experiment renders, or the default data."""
    if any(one.startswith("experiment=synthetic") for one in overrides):
        return ["data.index.train=2000", "data.index.test=32"]
    return [] if any(one.startswith(("data=", "experiment=")) for one in overrides) else TINY


def plan(*overrides: str) -> dict[str, Any]:
    return explain(composed(*few(*overrides), *overrides))


def options() -> list[tuple[str, str]]:
    return [
        (group, option)
        for group in groups()
        for option in option_names(group)
        if option not in NEEDS_A_GPU and not group.startswith("hydra")
    ]


WITHOUT_ESTIMATE = {
    "c2p_clip": "none were loaded",
    "rine_ldm": "the images keep different sizes",
    **dict.fromkeys(("clip_knn", "univfd_knn"), "is empty, so an image has no neighbours"),
}


@pytest.mark.parametrize(("group", "option"), options())
def test_every_option_composes_and_fits(data, group, option):
    found = plan(f"{group}={option}", *NEEDED.get((group, option), []))
    assert found["choices"][group] == option
    assert isinstance(found["data"], dict), found["data"]
    assert (found["parameters"]["trainable"] > 0) == found["config"]["model"]["fit"]
    if why := WITHOUT_ESTIMATE.get(option):
        assert why in found["memory"]
    else:
        assert found["memory"]["total"] > found["memory"]["weights"] > 0
        assert (found["memory"]["tokens"] > 0) == (found["task"] in ("captioning", "vlm"))


@pytest.mark.parametrize("option", sorted(NEEDS_A_GPU))
def test_an_accelerator_that_is_not_there_is_said(data, option):
    import torch

    if option == "mps" or not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="this machine has no"):
            plan(f"accelerator={option}")
    else:
        assert plan(f"accelerator={option}")["accelerator"] == "cuda"


TASK_OF_DATA = dict.fromkeys((*RETRIEVAL, "synthetic_infrared"), "retrieval")
TASK_OF_DATA |= dict.fromkeys((*CAPTIONING, "synthetic_captions"), "captioning")
TASK_OF_DATA |= dict.fromkeys((*CONVERSATIONS, "synthetic_vqa"), "vlm")


def of_task(model: str) -> str:
    text = (CONF / "model" / f"{model}.yaml").read_text()
    inherited = re.search(r"^  - (\w+)$", text.replace("  - _self_", ""), re.MULTILINE)
    if "/task:" not in text and inherited:
        return of_task(inherited[1])
    return str(re.search(r"/task: (\w+)", text)[1])  # type: ignore[index]


def pairs() -> list[tuple[str, str]]:
    return [
        (source, model)
        for source in option_names("data")
        for model in option_names("model")
        if of_task(model) == TASK_OF_DATA.get(source, "detection")
        or (of_task(model) == "vlm" and source in ("synthetic", "genimage"))
    ]


def needs(model: str, source: str) -> list[str]:
    found = [*NEEDED.get(("model", model), []), *NEEDED.get(("data", source), [])]
    return [
        *(TINY if source in ("synthetic", "synthetic_captions", "synthetic_vqa") else []),
        *(one for one in found if not one.startswith("model=")),
    ]


NETWORKS: dict[tuple[str, str, str], list[str]] = {}
INDEXES: dict[tuple[str, str, int], Index] = {}


@pytest.mark.parametrize(("source", "model"), pairs())
def test_every_model_fits_every_data_set_of_its_task(data, model, source):
    # Their keys are looked at with every option; here the two only come together.
    chosen = composed(f"model={model}", f"data={source}", *needs(model, source), prepared=True)
    check_config(chosen, need_files=False)
    # What a network says depends on the model's part of the config alone, an Index on that of the data.
    config = chosen.config
    network = (model, str(config["data"]["cache"]), str(config["model"]))
    if network not in NETWORKS:
        NETWORKS[network] = network_problems(config)
    files = (config["task"], str({key: config["data"].get(key) for key in INDEX_KEYS}), config["seed"])
    if files not in INDEXES:
        INDEXES[files] = build_index(config)
    index = INDEXES[files]
    assert not [*NETWORKS[network], *index_problems(config, index)]
    assert all(len(index.rows(split)) for split in ("train", "test"))


@pytest.mark.parametrize("source", option_names("data"))
def test_data_of_another_task_is_refused(data, source):
    for task, model in ANY_MODEL.items():
        if task == TASK_OF_DATA.get(source, "detection"):
            continue
        if (task, source) == ("captioning", "tars"):  # a caption may stand beside each image of an archive
            continue
        if task == "vlm" and source not in TASK_OF_DATA:  # real or generated is a question like any other
            continue
        other = composed(f"model={model}", f"data={source}", *needs(model, source))

        def chosen_anyway(other: Composed = other) -> None:
            check_config(other, need_files=False)
            build_index(other.config)

        with pytest.raises(TapetumError, match=r"choose another data=NAME|has no column"):
            chosen_anyway()


def own_keys(experiment: str) -> list[tuple[str, Any]]:
    """Dotted keys that the YAML of an experiment sets itself, with their values; Hydra's are for sweeps."""
    file = yaml.safe_load((CONF / "experiment" / f"{experiment}.yaml").read_text())
    found: list[tuple[str, Any]] = []

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found.append((f"{prefix}{key}", value))

    walk({key: value for key, value in file.items() if key not in ("defaults", "hydra")}, "")
    return found


OTHER = {
    "train.monitor": "val/f1",
    "train.mode": None,
    "model.net.pretrained": "false",
    "model.net.backbone": "openai/clip-vit-base-patch16",
    "model.net.dtype": "float32",
    **{f"data.limit.{split}": "2" for split in ("train", "val", "test")},  # of the few that there are
    "model.net.language": None,  # frozen leaves nothing to train, trained wants other weights
    "model.net.target_modules": "[k_proj]",
    "model.net.visual": None,  # patches need as many vectors as there are
    "model.net.adapter": "linear",
    "model.net.language_model": "${oc.env:TAPETUM_DATA}/tiny-gpt2",
    "trainer.precision": "bf16-true",
    "model.net.name": "resnet18",
    "data.batch_size": "96",
    "data.cache": "none",
    "model.net.stride": "1",
    "data.images_per_class": "2",
    "model.miner._target_": "pytorch_metric_learning.miners.BatchEasyHardMiner",
    "model.loss._target_": "pytorch_metric_learning.losses.NTXentLoss",
    "model.warm_start.loss._target_": "pytorch_metric_learning.losses.CosFaceLoss",
    "model.warm_start.loss._partial_": None,
}


def changed(key: str, value: Any) -> str | None:
    """The override that sets a key to another value of its kind; None where the other value is an error."""
    if key == "train.monitor" and value == "val/loss":
        return f"{key}=train/loss"
    if key == "train.monitor" and value in METRICS["retrieval"]:
        return f"{key}=val/minp"
    if isinstance(value, str) and value.startswith(("Salesforce/", "Qwen/Qwen2.5")):
        return f"{key}=tiny:{'instructblip' if value.startswith('Sales') else 'qwen_vl'}"
    if key in OTHER:
        return OTHER[key] and f"{key}={OTHER[key]}"
    if isinstance(value, bool):
        return f"{key}={str(not value).lower()}"
    if key in ("model.net.size", "model.net.patch_size", "model.net.width") and isinstance(value, int):
        return f"{key}={2 * value}"
    if isinstance(value, int | float):
        return f"{key}={value + 1 if isinstance(value, int) else value * 0.5 or 1e-3}"
    if isinstance(value, str) and value.replace("e-", "").replace(".", "").isdigit():
        return f"{key}={float(value) * 0.5}"
    if isinstance(value, list) or value is None:
        return None
    return f"{key}={value}_other"


def snapshot(*overrides: str) -> Iterator[str]:
    """Everything that a config says and builds, as texts: those first that cost least."""
    from tapetum.config.build import build
    from tapetum.runs.building import (
        build_datamodule,
        build_index,
        build_module,
        build_network_on_meta,
    )
    from tapetum.tasks import task_of

    chosen = composed(*few(*overrides), *overrides)
    config = chosen.config
    said = ("name", "seed", "trainer", "train", "optimizer", "scheduler")
    yield repr({key: config[key] for key in said})
    for name, node in config["callbacks"].items():
        if node is not None:
            given = {"directory": Path("x"), "monitor": "val/loss", "mode": "min"}
            built = build(node, **(given if name == "checkpoint" else {}))
            yield from (described(one) for one in (built if isinstance(built, list) else [built]))
    net = build_network_on_meta(config)
    yield f"{net} {getattr(getattr(net, 'model', None), 'peft_config', '')} {described(net)}"
    index = build_index(config)
    yield repr([index.counts(), dict(index.notes)])
    module = build_module(config, net, learnt_from=task_of(config).learnt_from(index))
    datamodule = build_datamodule(config, index, module)
    everything = [
        module, *parts_of(module), datamodule, datamodule.augment,
        *datamodule.augment.before_crop, *datamodule.augment.after_crop,
    ]  # fmt: skip
    yield from (described(one) for one in everything)
    yield repr({key: value for key, value in explain(chosen).items() if key != "config"})


def parts_of(module: Any) -> list[Any]:
    """Losses and settings of a task's module, whichever it has."""
    names = ("loss", "thresholds", "mined", "start", "decision", "target", "generation")
    found = [one for name in names if (one := getattr(module, name, None)) is not None]
    inside = [one for part in found if isinstance(part, nn.Module) for one in part.modules()]
    warm = getattr(module, "warm", None)
    return [*found, *inside, warm and (warm.epochs, warm.weight)]


def described(value: Any) -> str:
    if isinstance(value, functools.partial):
        return f"{value.func.__qualname__} {value.keywords}"
    if isinstance(value, str | int | float | dict | list | tuple | type(None)):
        return repr(value)
    primitive = (str, int, float, bool, tuple, type(None), functools.partial)
    return type(value).__name__ + str(
        {
            name: described(one) if isinstance(one, functools.partial) else repr(one)
            for name, one in sorted(vars(value).items())
            if isinstance(one, primitive)
        }
    )


class Kept:
    """An iterator that begins anew each time, and draws nothing twice."""

    def __init__(self, source: Iterator[str]) -> None:
        self._source, self._drawn = source, list[str]()

    def __iter__(self) -> Iterator[str]:
        yield from self._drawn
        for one in self._source:
            self._drawn.append(one)
            yield one


def differ(one: Iterable[str], other: Iterable[str]) -> bool:
    """Whether two snapshots do; the first piece that differs is the last that is built."""
    return any(new != old for new, old in zip_longest(one, other))


@pytest.mark.parametrize("experiment", ["product_photo_detector", "solar_modules", "synthetic_vqa"])
def test_a_snapshot_is_the_same_each_time(data, experiment):
    assert not differ(snapshot(f"experiment={experiment}"), snapshot(f"experiment={experiment}"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_key_of_an_experiment_has_an_effect(data, experiment):
    base = Kept(snapshot(f"experiment={experiment}"))
    overrides = [override for key, value in own_keys(experiment) if (override := changed(key, value))]
    assert not [
        override for override in overrides if not differ(snapshot(f"experiment={experiment}", override), base)
    ]
