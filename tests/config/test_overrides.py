from __future__ import annotations

import re

import pytest
from tapetum.config.compose import compose
from tapetum.config.groups import groups
from tapetum.config.overrides import prepare
from tapetum.config.synonyms import SYNONYMS
from tapetum.errors import ConfigError

MODELS = ", ".join(option.name for option in groups()["model"])
DATA = ", ".join(option.name for option in groups()["data"])
CALLBACKS = ", ".join(option.name for option in groups()["callbacks"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data=cifak", f"unknown value data=cifak: did you mean cifake? data: {DATA}"),
        ("model=xyz", f"unknown value model=xyz. model: {MODELS}"),
        ("callbacks=[ema,emma]", f"unknown value callbacks=emma: did you mean ema? callbacks: {CALLBACKS}"),
        ("modle=npr", "unknown key modle: did you mean model?"),
        ("+modle=npr", "unknown key modle: did you mean model?"),
        ("++modle.net.size=3", "unknown key modle.net.size: did you mean model.net.size?"),
        ("optimizer.lrr=1", "unknown key optimizer.lrr: did you mean optimizer.lr?"),
        ("+optimizer.lrr=1", "unknown key optimizer.lrr: did you mean optimizer.lr?"),
        ("~optimizer.lrr", "unknown key optimizer.lrr: did you mean optimizer.lr?"),
        ("trainer.max_epoch=3", "unknown key trainer.max_epoch: type trainer.max_epochs=3"),
        (
            "trainer.limit_train_batch=3",
            "unknown key trainer.limit_train_batch: did you mean trainer.limit_train_batches?",
        ),
        ("model.net.dropout=0.1", "unknown key model.net.dropout: model.net has classes, size"),
        ("data.roots.tran=a", "unknown key data.roots.tran: did you mean data.roots.train?"),
        ("model.geometry.sise=3", "unknown key model.geometry.sise: did you mean model.geometry.size?"),
        ("lr=0.1", "unknown key lr: type optimizer.lr=0.1"),
        ("learning_rate=0.1", "unknown key learning_rate: type optimizer.lr=0.1"),
        ("training.learning_rate=1e-4", "unknown key training.learning_rate: type optimizer.lr=1e-4"),
        ("epochs=3", "unknown key epochs: type trainer.max_epochs=3"),
        ("batch_size=8", "unknown key batch_size: type data.batch_size=8"),
        ("freeze_backbone=true", "unknown key freeze_backbone: type model.net.freeze=true"),
        ("gpus=2", "unknown key gpus: type accelerator=gpu trainer.devices=2"),
        ("--epochs=3", "--epochs=3 is a flag, and there are none: type trainer.max_epochs=3"),
        ("--fancy=3", "--fancy=3 is a flag, and there are none: type fancy=3"),
        ("npr", "npr is not KEY=VALUE: type model=npr"),
        (
            "optimizer.lr=[",
            """optimizer.lr=[ has an unclosed or unopened bracket: close it, or type optimizer.lr="'['\"""",
        ),
        ("data.root=a=b", "data.root=a=b can't be read: put quotes around its value: \"data.root='a=b'\""),
        ("a b=3", "a b=3 is not KEY=VALUE: 'a b' can't be a key"),
        (
            "model=npr,small_resnet",
            "model=npr,small_resnet has several values: type -m model=npr,small_resnet to run each",
        ),
        (
            "optimizer.lr=1,2",
            "optimizer.lr=1,2 has several values: type -m optimizer.lr=1,2 to run each, or "
            "optimizer.lr=[1,2] for one list",
        ),
        ("seed=range(1,3)", "seed=range(1,3) is a sweep: type -m seed=range(1,3) to run each value"),
        ("task=detection", f"task=detection: the model brings its task along: type model=NAME ({MODELS})"),
        ("~data", f"~data leaves nothing to run with: type data=NAME ({DATA})"),
        ("model=null", f"model=null leaves nothing to run with: type model=NAME ({MODELS})"),
        (
            "model=[npr,small_resnet]",
            "model=[npr,small_resnet] would merge several options of model into one: type one model=NAME, "
            "or -m model=npr,small_resnet to run each",
        ),
        ("model@x=npr", "model@x=npr puts model under another key, which nothing reads: type model=NAME"),
    ],
)
def test_a_wrong_override_says_what_to_type(override, message):
    with pytest.raises(ConfigError) as caught:
        prepare([override], multirun=False)
    assert caught.value.problems == (message,)


def test_all_wrong_overrides_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        prepare(["modle=npr", "optimizer.lrr=1", "data=cifak", "--lr", "3", "seed=1"], multirun=False)
    assert len(caught.value.problems) == 4
    assert "--lr 3 is a flag, and there are none: type optimizer.lr=3" in caught.value.problems


def test_every_synonym_names_keys_and_options_that_exist():
    pairs = {pair for ours in SYNONYMS.values() for pair in re.findall(r"([a-z_.]+)=([\w/.{}-]+)", ours)}
    options = {(key, value) for key, value in pairs if key in groups() and value not in ("NAME", "{}")}
    known = {(group, option.name) for group, listed in groups().items() for option in listed}
    assert options <= known
    keys = sorted({key for key, _ in pairs if key not in groups()})
    assert len(keys) > 30
    prepare(["model=efficientnet_b0", "optimizer=sgd", *(f"{key}=1" for key in keys)], multirun=False)


def test_keys_that_a_target_takes_need_no_plus():
    words = ["trainer.limit_train_batches=2", "optimizer.eps=1e-6", "data.roots.train=x", "data.limit.test=5"]
    prepared = prepare(words, multirun=False)
    assert prepared == [f"++{word}" for word in words]
    config = compose(prepared).config
    assert config["trainer"]["limit_train_batches"] == 2
    assert config["optimizer"]["eps"] == 1e-6
    assert config["data"]["roots"] == {"train": "x"}
    assert config["data"]["limit"] == {"test": 5}


def test_a_plus_before_a_key_that_exists_is_no_error():
    assert compose(prepare(["+trainer.max_epochs=3"], multirun=False)).config["trainer"]["max_epochs"] == 3


def test_deleting_a_default_that_no_yaml_lists_does_nothing():
    assert prepare(["~trainer.limit_val_batches"], multirun=False) == []
    deleted = compose(
        prepare(["~callbacks.early_stopping", "~optimizer.weight_decay"], multirun=False)
    ).config
    assert "early_stopping" not in deleted["callbacks"]
    assert "weight_decay" not in deleted["optimizer"]


def test_null_switches_off_a_callback_a_group_and_an_experiment():
    words = ["callbacks.early_stopping=null", "logger=null", "experiment=null", "~debug"]
    composed = compose(prepare(words, multirun=False))
    assert composed.config["callbacks"]["early_stopping"] is None
    assert composed.choices["logger"] == "none"
    assert "experiment" not in composed.choices


def test_several_callbacks_go_together():
    config = compose(prepare(["callbacks=[ema,lr_finder]"], multirun=False)).config
    assert {"checkpoint", "early_stopping", "ema", "lr_finder"} <= config["callbacks"].keys()


def test_a_new_callback_and_another_optimizer_by_target():
    words = [
        "callbacks.clock._target_=lightning.pytorch.callbacks.Timer",
        "callbacks.clock.duration=00:01:00:00",
        "optimizer._target_=torch.optim.RAdam",
        "optimizer.betas=[0.8,0.9]",
    ]
    config = compose(prepare(words, multirun=False)).config
    assert config["callbacks"]["clock"]["duration"] == "00:01:00:00"
    assert config["optimizer"]["betas"] == [0.8, 0.9]


def test_a_sweep_passes_as_typed_and_each_choice_is_looked_at():
    words = [
        "model=npr,small_resnet",
        "seed=range(1,4)",
        "optimizer=glob(ad*)",
        "optimizer.lr=interval(0.1,1)",
    ]
    assert prepare(words, multirun=True) == words
    with pytest.raises(ConfigError) as caught:
        prepare(["model=npr,nrp", "optimizer=choice(adam,addam)", "data=glob(zz*)"], multirun=True)
    assert [problem.split(".")[0].split(":")[0] for problem in caught.value.problems] == [
        "unknown value model=nrp",
        "unknown value optimizer=addam",
        "unknown value data=glob(zz*)",
    ]


def test_a_key_that_one_swept_model_lacks_names_that_model():
    with pytest.raises(ConfigError) as caught:
        prepare(["model=npr,efficientnet_b0", "model.net.dropout=0.1"], multirun=True)
    assert caught.value.problems == (
        "unknown key model.net.dropout: model.net has classes, size (with model=npr)",
    )


def test_hydras_own_keys_pass():
    words = ["hydra/launcher=basic", "hydra.verbose=true"]
    assert prepare(words, multirun=False) == words
