import copy
import pickle

import torch
from tapetum.backbones.freezing import (
    KeepsFrozen,
    freeze,
    frozen_parts,
    is_frozen,
    trainable_names,
    unfreeze,
)
from torch import nn


class Owner(KeepsFrozen):
    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5))


def test_a_frozen_part_stays_in_eval_when_any_parent_trains():
    owner = Owner()
    keys = list(owner.state_dict())
    freeze(owner.tower)
    parent = nn.ModuleDict({"network": owner}).train()
    assert owner.training
    assert owner.head[1].training
    assert not any(module.training for module in owner.tower.modules())
    assert not any(parameter.requires_grad for parameter in owner.tower.parameters())
    assert all(parameter.requires_grad for parameter in owner.head.parameters())
    assert list(owner.state_dict()) == keys
    parent.eval()
    assert not owner.head[1].training


def test_batchnorm_statistics_of_a_frozen_part_do_not_drift():
    owner = Owner()
    freeze(owner.tower)
    owner.train()
    before = copy.deepcopy(owner.tower.state_dict())
    owner.tower(torch.randn(8, 3) + 5)
    assert all(torch.equal(value, before[name]) for name, value in owner.tower.state_dict().items())


def test_the_mark_survives_copying_and_pickling():
    owner = Owner()
    freeze(owner.tower)
    for twin in (copy.deepcopy(owner), pickle.loads(pickle.dumps(owner))):
        assert is_frozen(twin.tower)
        assert not is_frozen(twin.head)
        assert not twin.train().tower.training


def unfrozen(*names):
    owner = Owner()
    freeze(owner.tower)
    owner.train()
    unfreeze(owner.tower, names)
    return owner


def test_what_is_unfrozen_trains_and_a_module_leaves_eval_when_all_its_parameters_train():
    owner = unfrozen("1.weight")
    assert not is_frozen(owner.tower)
    assert [n for n, p in owner.tower.named_parameters() if p.requires_grad] == ["1.weight"]
    assert not owner.tower[1].training
    unfreeze(owner.tower, ["1.bias"])
    for _ in range(2):  # at once, and after a validation
        assert [module.training for module in owner.tower] == [False, True, False]
        assert not owner.tower.training
        owner.eval()
        assert not owner.tower[1].training
        owner.train()


def test_a_part_that_trains_as_a_whole_is_a_part_like_any_other():
    owner = unfrozen("0.weight", "0.bias", "1.weight", "1.bias")
    assert all(module.training for module in owner.modules())
    assert frozen_parts(owner) == {}
    for _ in range(2):
        owner = copy.deepcopy(owner).train()
        assert owner.tower[2].training


def test_dropout_follows_the_block_that_it_stands_in():
    owner = Owner()
    owner.tower = nn.Sequential(
        nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    )
    freeze(owner.tower)
    unfreeze(owner.tower, ["1.0.weight", "1.0.bias"])
    assert [owner.tower[0][1].training, owner.tower[1][1].training] == [False, True]


def test_what_was_fixed_before_stays_fixed():
    owner = Owner()
    owner.tower[0].bias.requires_grad_(False)
    freeze(owner.tower)
    assert trainable_names(owner.tower) == ["0.weight", "1.weight", "1.bias"]
    unfreeze(owner.tower, trainable_names(owner.tower))
    assert not owner.tower[0].bias.requires_grad
    assert owner.tower.training


def test_a_half_frozen_part_survives_copying_and_pickling():
    owner = unfrozen("1.weight", "1.bias")
    for twin in (copy.deepcopy(owner), pickle.loads(pickle.dumps(owner))):
        assert [module.training for module in twin.eval().train().tower] == [False, True, False]
        assert list(frozen_parts(twin)) == ["tower"]
