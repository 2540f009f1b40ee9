from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from tapetum.config import schema
from tapetum.config.check import check_config, check_imported
from tapetum.config.compose import Composed, compose
from tapetum.config.fitting import compose_for_data
from tapetum.config.groups import groups
from tapetum.config.overrides import prepare
from tapetum.errors import ConfigError

JITTER = {"_target_": "torchvision.transforms.v2.ColorJitter", "hu": 1}
ROTATION = {"_target_": "torchvision.transforms.v2.RandomRotation"}
METRICS = ", ".join(schema.METRICS["detection"])


def test_the_default_has_no_problem(problems):
    assert problems() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data.cache=decodd"],
            "unknown value data.cache=decodd: did you mean decoded? data.cache: none, decoded, features",
        ),
        (
            ["data.sampler=class_balance"],
            "unknown value data.sampler=class_balance: did you mean class_balanced? "
            "data.sampler: class_balanced, generator_balanced, null",
        ),
        (["train.mode=maximum"], "unknown value train.mode=maximum: did you mean max? train.mode: min, max"),
        (
            ["train.compile=1"],
            "train.compile=1 is a whole number, it must be true or false: type train.compile=true",
        ),
        (
            ["data.batch_size=abc"],
            "data.batch_size=abc is text, it must be a whole number: type data.batch_size=N",
        ),
        (["data.batch_size=0"], "data.batch_size=0 must be at least 1: type data.batch_size=1"),
        (["seed=1.5"], "seed=1.5 is a number, it must be a whole number: type seed=N"),
        (
            ["optimizer.lr='1e-4'"],
            "optimizer.lr='1e-4' is text, it must be a number: type optimizer.lr=0.0001 without quotes",
        ),
        (["optimizer.lr=0"], "optimizer.lr=0 must be above 0: type optimizer.lr=1e-4"),
        (
            ["trainer.max_epochs=ten"],
            "trainer.max_epochs=ten is text, it must be a whole number or null: type trainer.max_epochs=N",
        ),
        (
            ["trainer.callbacks=[]"],
            "trainer.callbacks is filled in by tapetum: type callbacks=NAME, or "
            "callbacks.NAME._target_=CLASS",
        ),
        (["data.seed=3"], "data.seed is filled in by tapetum: type seed=N"),
        (["model.monitor=val/loss"], "model.monitor is filled in by tapetum: type train.monitor=val/METRIC"),
        (["data.index.root=x"], "data.index.root is filled in by tapetum: type data.root=DIR"),
        (
            ["data.val_fraction=1"],
            "data.val_fraction=1 must be at least 0 (no validation) and below 1: type data.val_fraction=0.1",
        ),
        (
            ["model.thresholds.low=0.9"],
            "model.thresholds: low=0.9, classification=0.5, high=0.8 must lie in this order between 0 and 1: "
            "type model.thresholds.low=0.3 model.thresholds.classification=0.5 model.thresholds.high=0.8",
        ),
        (
            ["train.monitor=val/acc"],
            f"unknown value train.monitor=val/acc: did you mean val/accuracy? detection logs {METRICS}",
        ),
        (
            ["train.monitor=val_accuracy"],
            f"unknown value train.monitor=val_accuracy: did you mean val/accuracy? detection logs {METRICS}",
        ),
        (
            ["train.monitor=test/auroc"],
            "train.monitor=test/auroc would let the test split choose: type train.monitor=val/auroc",
        ),
        (
            ["train.monitor=val/loss"],
            "train.mode=max contradicts train.monitor=val/loss, which is better when smaller: type "
            "train.mode=min",
        ),
        (
            ["train.monitor=val/accuracy", "train.mode=min"],
            "train.mode=min contradicts train.monitor=val/accuracy, which is better when larger: type "
            "train.mode=max",
        ),
        (
            ["data=folder"],
            "data.root=data/folder does not exist: type data.root=DIR, "
            "or set TAPETUM_DATA=DIR where DIR/folder is the data",
        ),
        (["data.roots.train=nowhere"], "data.roots.train=nowhere does not exist: type data.roots.train=DIR"),
        (
            ["model=efficientnet_b0", "model.net.pretrained=b0.pth"],
            "model.net.pretrained=b0.pth does not exist: type model.net.pretrained=true (the hub), "
            "false or a path",
        ),
        (
            ["weights=gone"],
            "weights=gone does not exist: type weights=RUN (its directory) or weights=FILE.ckpt",
        ),
        (
            ["resume=gone"],
            "resume=gone does not exist: type resume=RUN (its directory) or resume=FILE.ckpt, or resume=auto",
        ),
        (
            ["optimizer._target_=os.system"],
            "optimizer: _target_=os.system is never allowed: os can run anything",
        ),
        (
            ["optimizer._target_=torch.os.system"],
            "optimizer: _target_=torch.os.system leaves torch: name the class or function where it is "
            "defined",
        ),
        (
            ["optimizer._target_=torch.hub.load"],
            "optimizer: _target_=torch.hub.load is never allowed: torch.hub loads or runs code",
        ),
        (
            ["optimizer._target_=hydra.utils.get_method"],
            "optimizer: _target_=hydra.utils.get_method is never allowed: hydra can run anything",
        ),
        (
            ["optimizer._target_=sklearn.svm.SVC"],
            "optimizer: _target_=sklearn.svm.SVC is outside the packages that may be built (tapetum, torch, "
            "torchvision, lightning, torchmetrics, timm, transformers, peft, pytorch_metric_learning): "
            "if you trust sklearn, type allow_targets=[sklearn]",
        ),
        (
            ["optimizer._target_=torch.optim.AdmW"],
            "optimizer: _target_=torch.optim.AdmW does not exist: torch.optim has no AdmW: did you mean "
            "AdamW?",
        ),
        (
            ["model.net._target_=tapetum.detectors.nrp.NPR"],
            "model.net: _target_=tapetum.detectors.nrp.NPR does not exist: tapetum.detectors has no "
            "file or folder nrp: "
            "did you mean npr?",
        ),
        (
            ["allow_targets=[subprocess]"],
            "allow_targets: subprocess can never be allowed, since it can run anything: name your own "
            "package",
        ),
    ],
)
def test_each_trap_has_its_message(problems, words, message):
    assert problems(*words) == [message]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(sed=1), "unknown key sed: did you mean seed?"),
        (lambda c: c["paths"].update(dat="x"), "unknown key paths.dat: did you mean paths.data?"),
        (
            lambda c: c["train"].update(patience=3),
            "unknown key train.patience: train takes monitor, mode, compile, channels_last, timeout_minutes, "
            "report",
        ),
        (
            lambda c: c["trainer"].update(max_epoch=3),
            "unknown key trainer.max_epoch: did you mean trainer.max_epochs?",
        ),
        (lambda c: c["optimizer"].update(lrr=1), "unknown key optimizer.lrr: did you mean optimizer.lr?"),
        (
            lambda c: c["data"].update(bach_size=1),
            "unknown key data.bach_size: did you mean data.batch_size?",
        ),
        (
            lambda c: c["model"]["net"].update(sise=1),
            "unknown key model.net.sise: did you mean model.net.size?",
        ),
        (
            lambda c: c["callbacks"]["early_stopping"].update(patienc=1),
            "unknown key callbacks.early_stopping.patienc: did you mean callbacks.early_stopping.patience?",
        ),
        (lambda c: c.pop("optimizer"), "optimizer is missing: type optimizer=NAME"),
        (lambda c: c["data"].pop("limit"), "data.limit is missing: type data.limit=N"),
        (
            lambda c: c["model"].update(net={"size": 3}),
            "model.net has no _target_: type model=NAME, or model.net._target_=package.module.Name",
        ),
        (
            lambda c: c["callbacks"].update(ema={"decay": 1}),
            "callbacks.ema has no _target_: type callbacks.ema=null, or "
            "callbacks.ema._target_=package.module.Name",
        ),
        (
            lambda c: c["model"]["net"].update(trust_remote_code=True),
            "model.net.trust_remote_code is never on: leave it out",
        ),
        (
            lambda c: c["augment"].update(before_crop=[JITTER]),
            "unknown key augment.before_crop.0.hu: did you mean augment.before_crop.0.hue?",
        ),
        (
            lambda c: c["augment"].update(before_crop=[ROTATION]),
            "augment.before_crop.0.degrees is missing: type augment.before_crop.0.degrees=VALUE",
        ),
        (
            lambda c: c["model"]["geometry"].update(resize="squas"),
            "unknown value model.geometry.resize=squas: did you mean squash? "
            "model.geometry.resize: none, shortest, squash, pad, tile",
        ),
    ],
)
def test_a_typo_in_a_yaml_is_found_too(edited, edit, message):
    assert message in edited(edit)


def test_all_problems_are_told_at_once(problems):
    words = ["optimizer.lr=0", "data.val_fraction=2", "train.monitor=val/acc", "data=folder", "seed=-1"]
    assert len(problems(*words)) == len(words)


def test_a_model_and_data_that_lack_a_column_do_not_fit(edited, own_package):
    package = own_package(
        {"captions.py": 'COLUMNS = ("path", "split", "captions")\n\n\ndef index(root):\n    return root\n'}
    )
    found = edited(
        lambda c: (
            c.update(allow_targets=[package]),
            c["data"].update(index={"_target_": f"{package}.captions.index"}),
        )
    )
    assert found == [
        f"task detection needs the column label, which data.index._target_={package}.captions.index does "
        "not give "
        "(path, split, captions): choose another data=NAME, or a model=NAME of another task"
    ]


def test_a_users_package_joins_by_allow_targets(edited, own_package):
    package = own_package(
        {"nets.py": "class Net:\n    def __init__(self, width: int, depth: int = 2):\n        pass\n"}
    )

    def use(config, **arguments):
        config["allow_targets"] = [package]
        config["model"]["net"] = {"_target_": f"{package}.nets.Net", **arguments}

    assert edited(lambda c: use(c, width=3)) == []
    assert edited(lambda c: use(c, widht=3)) == [
        "unknown key model.net.widht: did you mean model.net.width?",
        "model.net.width is missing: type model.net.width=N",
    ]


def test_data_below_the_cache_renders_itself_and_need_not_exist(problems):
    assert problems("paths.cache=nowhere", "data=synthetic") == []


def test_a_root_that_both_splits_replace_need_not_exist(problems, tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    words = [f"data.roots.{split}={tmp_path / split}" for split in ("train", "test")]
    assert problems("data=folder", *words) == []
    assert len(problems("data=folder", words[0])) == 1


@pytest.mark.parametrize("group", ["accelerator", "data", "experiment", "sweep"])
def test_every_shipped_option_passes(group, problems, tmp_path, monkeypatch):
    """Those that need files or devices; all of them are checked in commands/test_every_config.py."""
    monkeypatch.setenv("TAPETUM_DATA", str(tmp_path))
    for option in groups()[group]:
        words = [f"{group}={option.name}"]
        if group == "data":
            (tmp_path / option.name).mkdir()
        if (group, option.name) == ("data", "hf"):
            words.append("data.index.positive=[FAKE]")
        if group == "data":
            words.append(f"model={compose_for_data(words).choices['model']}")
        if group in ("experiment", "sweep"):  # some of either bring data that is not here
            composed = compose(prepare(words, multirun=False))
            Path(composed.config["data"]["root"]).expanduser().mkdir(parents=True, exist_ok=True)
        assert problems(*words) == [], option.name


def test_phase_two_imports_what_the_source_does_not_tell():
    config = {
        "allow_targets": [],
        "model": {"_target_": "transformers.CLIPConfig"},
        "a": {"_target_": "torch.nn.functional.cosine_similarity", "x1": 1, "epss": 2},
        "b": {"_target_": "transformers.NoSuchThing"},
    }
    found = check_imported(config)
    assert [problem.split(":")[0] for problem in found] == ["model", "a", "b"]
    assert all("is not a part that an experiment is built from" in problem for problem in found[:2])
    assert "transformers has no NoSuchThing" in found[2]


def test_the_schemas_choices_are_those_of_the_geometry():
    from tapetum.images import geometry

    hints = get_type_hints(schema.Geometry)
    assert get_args(hints["resize"]) == get_args(geometry.ResizeRule)
    assert get_args(hints["interpolation"]) == get_args(geometry.Interpolation)
    assert set(hints) == set(get_type_hints(geometry.InputSpec))


def test_the_metrics_are_those_that_a_detector_logs():
    import torch
    from tapetum.metrics.binary import binary_metrics

    logged = binary_metrics(torch.tensor([-1.0, 1.0]), torch.tensor([0, 1]))
    assert set(schema.METRICS["detection"]) == {
        "train/loss",
        "train/accuracy",
        "val/loss",
        *(f"val/{name}" for name in logged),
    }


def test_composing_and_checking_brings_in_nothing_heavy():
    code = (
        "import sys\n"
        "from tapetum.config.check import check_config\n"
        "from tapetum.config.compose import compose\n"
        "from tapetum.config.overrides import prepare\n"
        "from tapetum.errors import ConfigError\n"
        "words = ['model=efficientnet_b0', 'data=folder', 'trainer.max_epochs=2']\n"
        "try: check_config(compose(prepare(words, multirun=False)))\n"
        "except ConfigError as error: print(len(error.problems))\n"
        "heavy = ('torch', 'lightning', 'transformers', 'wandb', 'matplotlib', 'numpy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    problems, heavy = printed.splitlines()
    assert problems == "1"
    assert heavy == "[]"


def test_choices_are_not_needed():
    check_config(Composed(compose([]).config, {}))


def test_files_that_are_absent_can_be_forgiven():
    composed = compose(["data=folder", "weights=gone"])
    check_config(composed, need_files=False)
    with pytest.raises(ConfigError) as caught:
        check_config(composed)
    assert len(caught.value.problems) == 2
