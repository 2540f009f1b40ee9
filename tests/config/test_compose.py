from __future__ import annotations

import re

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from tapetum.config.compose import compose, compose_raw, finish
from tapetum.config.groups import groups
from tapetum.config.overrides import prepare
from tapetum.errors import ConfigError

EXPERIMENTS = [option.name for option in groups()["experiment"]]


def test_the_config_is_plain_and_without_hydras_node():
    composed = compose(["model=npr"])

    def plain(node):
        if isinstance(node, dict):
            return all(type(key) is str and plain(value) for key, value in node.items())
        if isinstance(node, list):
            return all(plain(value) for value in node)
        return node is None or type(node) in (str, int, float, bool)

    assert plain(composed.config)
    assert "hydra" not in composed.config
    assert composed.choices["model"] == "npr"
    assert composed.choices["data"] == "synthetic"
    assert composed.choices["task"] == "detection"


def test_the_name_is_the_model_and_the_data_unless_it_is_given():
    assert compose(["model=npr"]).config["name"] == "npr-synthetic"
    assert compose(["model=small_resnet", "data=cifake"]).config["name"] == "small_resnet-cifake"
    assert compose(["name=mine"]).config["name"] == "mine"


def test_missing_values_are_told_together():
    with pytest.raises(ConfigError) as caught:
        compose(["model=timm_backbone", "data.root=???"])
    assert set(caught.value.problems) == {
        "model.net.name is missing: type model.net.name=NAME",
        "data.root is missing: type data.root=DIR",
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.root=${path.data}/x",
            "data.root=${path.data}/x refers to path.data, which is not a key of the config: did you "
            "mean paths.data?",
        ),
        ("data.root=${nowhere}", "data.root=${nowhere} refers to nowhere, which is not a key of the config"),
        (
            "data.root=${environ:HOME}",
            "data.root=${environ:HOME} calls the resolver environ, which does not exist: oc.env reads a "
            "variable",
        ),
        (
            "data.root=${oc.env:TAPETUM_NOT_SET}",
            "data.root=${oc.env:TAPETUM_NOT_SET} needs the environment variable TAPETUM_NOT_SET: "
            "set it, or type data.root=VALUE",
        ),
    ],
)
def test_an_interpolation_that_leads_nowhere_names_key_and_name(override, message):
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert caught.value.problems == (message,)


def test_what_refers_to_a_missing_value_is_not_told_twice():
    with pytest.raises(ConfigError) as caught:
        compose(["train.monitor=???"])
    assert caught.value.problems == ("train.monitor is missing: type train.monitor=VALUE",)


def test_hydras_own_refusal_becomes_ours():
    with pytest.raises(ConfigError, match="Could not find 'model/nrp'"):
        compose(["model=nrp"])
    assert not GlobalHydra.instance().is_initialized()


def test_composing_inside_hydra_leaves_the_outer_one_in_place():
    with initialize_config_module("tapetum.conf", version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        assert compose(["seed=7"]).config["seed"] == 7
        assert GlobalHydra.instance().hydra is outer
        assert hydra_compose("train", ["seed=8"]).seed == 8


def test_a_config_of_a_sweep_is_finished_as_one_of_a_single_run():
    raw = compose_raw(["model=small_resnet", "seed=3"])
    before = OmegaConf.to_container(raw, resolve=False)
    assert finish(raw) == compose(["model=small_resnet", "seed=3"])
    assert OmegaConf.to_container(raw, resolve=False) == before


def test_every_sweep_has_a_directory_of_its_own_called_by_its_name_or_its_experiments():
    first, second = (compose_raw(["seed=1"]) for _ in range(2))
    assert first.hydra.sweep.dir == first.hydra.sweep.dir != second.hydra.sweep.dir
    pattern = r"outputs/sweeps/sweep/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{6}"
    assert re.fullmatch(pattern, first.hydra.sweep.dir)
    assert compose_raw(["name=study"]).hydra.sweep.dir.startswith("outputs/sweeps/study/")
    named = compose_raw(["experiment=cross_generator"]).hydra.sweep.dir
    assert named.startswith("outputs/sweeps/cross_generator/")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment):
    composed = compose(prepare([f"experiment={experiment}"], multirun=False))
    assert composed.choices["experiment"] == experiment


def test_train_yaml_then_experiment_then_the_command_line():
    def epochs(*words):
        return compose(prepare(words, multirun=False)).config["trainer"]["max_epochs"]

    assert epochs() == 10
    assert epochs("experiment=product_photo_detector") == 15
    assert epochs("experiment=product_photo_detector", "trainer.max_epochs=2") == 2
    assert epochs("trainer.max_epochs=2", "experiment=product_photo_detector") == 2


def test_model_then_experiment_then_the_command_line():
    def dropout_and_optimizer(*words):
        composed = compose(prepare(words, multirun=False))
        return composed.config["model"]["net"]["pretrained"], composed.config["optimizer"]["lr"]

    assert dropout_and_optimizer("model=efficientnet_b0") == (False, 1e-4)
    assert dropout_and_optimizer("experiment=product_photo_detector") == (True, 1e-3)
    words = ("experiment=product_photo_detector", "model.net.pretrained=false", "optimizer.lr=0.5")
    assert dropout_and_optimizer(*words) == (False, 0.5)


def test_a_model_brings_its_optimizer_and_the_command_line_and_an_experiment_win(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "experiment").mkdir()
    (tmp_path / "model" / "prompted.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /task: detection\n  - override /optimizer: sgd\n  - _self_\n"
        "model:\n  net:\n    _target_: tapetum.detectors.npr.NPR\n"
    )
    (tmp_path / "experiment" / "study.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: prompted\n  - override /optimizer: adam\n "
        " - _self_\n"
    )
    path = f"hydra.searchpath=[file://{tmp_path}]"

    def target(*words):
        return compose([path, *words]).config["optimizer"]["_target_"]

    assert target() == "torch.optim.Adam"  # the default model's own choice
    assert target("model=small_resnet") == "torch.optim.AdamW"
    assert target("model=prompted") == "torch.optim.SGD"
    assert target("experiment=study") == "torch.optim.Adam"
    assert target("experiment=study", "optimizer=adamw") == "torch.optim.AdamW"
    assert target("model=prompted", "optimizer=adamw") == "torch.optim.AdamW"


def test_a_yaml_file_that_is_no_yaml_names_the_line(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "broken.yaml").write_text("# @package _global_\nseed: [1\nname: x\n")
    with pytest.raises(ConfigError, match=r"can't be read: .* at line 3, column 5"):
        compose([f"hydra.searchpath=[file://{tmp_path}]", "experiment=broken"])


def test_a_list_of_losses_in_a_yaml_says_how_it_is_written_there(tmp_path):
    (tmp_path / "experiment").mkdir()
    sum_of_two = """# @package _global_
model:
  loss:
    _target_: tapetum.modules.losses.Sum
    terms: [{_target_: tapetum.modules.losses.BinaryCrossEntropy}, {_target_: torch.nn.BCEWithLogitsLoss}]
"""
    (tmp_path / "experiment" / "right.yaml").write_text(sum_of_two)
    listed = "# @package _global_\nmodel:\n  loss:\n    - loss: {_target_: torch.nn.BCEWithLogitsLoss}\n"
    (tmp_path / "experiment" / "wrong.yaml").write_text(listed)
    path = f"hydra.searchpath=[file://{tmp_path}]"
    assert len(compose([path, "experiment=right"]).config["model"]["loss"]["terms"]) == 2
    with pytest.raises(
        ConfigError, match=r"In 'experiment/wrong' a list stands .*tapetum.modules.losses.Sum"
    ):
        compose([path, "experiment=wrong"])


def test_a_mapping_with_numbers_for_keys_can_be_changed_entry_by_entry(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "study.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /callbacks: gradual_unfreeze\n  - _self_\n"
        "callbacks:\n  gradual_unfreeze:\n    schedule:\n      2: 2\n      4: [backbone.bn1]\n"
    )
    words = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=study"]
    key = "++callbacks.gradual_unfreeze.schedule"  # what `prepare` makes of a key that no YAML of ours lists

    def schedule(*more):
        return compose([*words, *more]).config["callbacks"]["gradual_unfreeze"]["schedule"]

    assert schedule() == {2: 2, 4: ["backbone.bn1"]}
    assert schedule(f"{key}.4=all", f"{key}.2=null") == {2: 2, 4: ["backbone.bn1"], "4": "all", "2": None}
