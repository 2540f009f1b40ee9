import copy
import pickle

import torch
from tapetum.backbones.freezing import KeepsFrozen, freeze, is_frozen
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
