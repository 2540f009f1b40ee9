from __future__ import annotations

import pickle
from functools import partial

import pytest
import torch
from tapetum.config.build import build, locate
from tapetum.errors import ConfigError, DataError
from torch import nn


def test_a_node_becomes_what_its_target_returns_with_plain_values_inside(own_package):
    package = own_package({"f.py": "def given(**values):\n    return values\n"})
    node = {"_target_": f"{package}.f.given", "a": [1, {"b": 2}], "inner": {"_target_": "torch.nn.ReLU"}}
    built = build(node, allow=[package])
    assert type(built["a"]) is list
    assert type(built["a"][1]) is dict
    assert isinstance(built["inner"], nn.ReLU)


def test_runtime_arguments_win_and_are_never_copied(own_package):
    package = own_package({"f.py": "def given(**values):\n    return values\n"})
    net, rows = nn.Linear(2, 2), [{"_target_": "not a target"}]
    built = build({"_target_": f"{package}.f.given", "net": 1}, allow=[package], net=net, rows=rows)
    assert built["net"] is net
    assert built["rows"] is rows


def test_a_partial_stays_one_and_takes_runtime_arguments_too():
    node = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}
    made = build(node, momentum=0.25)
    assert isinstance(made, partial)
    group = pickle.loads(pickle.dumps(made))(nn.Linear(1, 1).parameters()).param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.5, 0.25)


def test_a_mapping_without_a_target_gives_a_dict_and_leaves_nulls():
    built = build({"a": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}, "b": None})
    assert built["a"].weight.shape == torch.Size([3, 2])
    assert built["b"] is None
    with pytest.raises(ConfigError, match="a node without _target_ takes no arguments: net"):
        build({"a": None}, net=1)


def test_our_own_errors_pass_untouched(own_package):
    package = own_package(
        {
            "f.py": "from tapetum.errors import DataError\n"
            "def broken(inner=None):\n    raise DataError('no images in x')\n"
        }
    )
    node = {"_target_": f"{package}.f.broken"}
    for each in (node, {"_target_": "torch.nn.Sequential", "_args_": [node]}, {"callbacks": {"x": node}}):
        with pytest.raises(DataError) as caught:
            build(each, allow=[package])
        assert str(caught.value) == "no images in x"


def test_other_failures_name_key_target_and_cause():
    node = {"_target_": "torch.nn.Linear", "in_features": 2}
    with pytest.raises(ConfigError) as caught:
        build(node)
    assert caught.value.problems[0].startswith("torch.nn.Linear failed: TypeError: ")
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(ConfigError) as caught:
        build({"loss": {"head": node}})
    assert caught.value.problems[0].startswith(
        "loss.head: torch.nn.modules.linear.Linear failed: TypeError: "
    )
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "hydra.utils.get_method",
        "hydra._internal.utils._locate",
        "torch.load",
        "torch.hub.load",
        "torch.os.system",
        "torch.utils.data._utils.collate.default_collate",
        "torch.storage.warnings.warn",
        "sklearn.svm.SVC",
        "",
        "a b",
        3,
    ],
)
def test_a_target_outside_the_allow_list_is_never_built_at_any_depth(target):
    for node in ({"_target_": target}, {"a": [{"b": {"_target_": target, "_partial_": True}}]}):
        with pytest.raises(ConfigError, match="_target_="):
            build(node)


def test_no_allow_list_opens_the_interpreter():
    for name in ("os", "subprocess", "builtins", "hydra"):
        with pytest.raises(ConfigError, match="never allowed"):
            build({"_target_": f"{name}.system"}, allow=[name])


def test_an_alias_out_of_an_allowed_package_is_refused(own_package):
    package = own_package({"f.py": "from os import system as tidy\nfrom torch.nn import Linear\n"})
    with pytest.raises(ConfigError, match=r"is really posix\.system"):
        locate(f"{package}.f.tidy", [package])
    assert locate(f"{package}.f.Linear", [package]) is nn.Linear


def test_remote_code_is_refused():
    with pytest.raises(ConfigError, match="trust_remote_code is never on"):
        build({"net": {"_target_": "transformers.AutoModel.from_pretrained", "trust_remote_code": True}})


def test_what_does_not_exist_names_the_nearest():
    with pytest.raises(ConfigError) as caught:
        build({"_target_": "torch.nn.Lineaar"})
    assert caught.value.problems == (
        "_target_=torch.nn.Lineaar does not exist: torch.nn has no Lineaar: did you mean Linear?",
    )
