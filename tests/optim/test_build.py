from functools import partial

import pytest
import torch
from tapetum.errors import ConfigError
from tapetum.optim.build import build_optimizer, build_scheduler
from tapetum.optim.schedules import Horizon, constant, plateau
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

HORIZON = Horizon(total_steps=10, steps_per_epoch=5)


def _network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_adamw_gets_named_groups_with_the_given_rate_and_decay():
    optimizer = build_optimizer(partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.05), _network())
    found = [(group["name"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert found == [("head", 1e-4, 0.05), ("head_no_decay", 1e-4, 0.0)]


def test_what_the_partial_leaves_open_keeps_the_default_of_the_class():
    optimizer = build_optimizer(partial(torch.optim.AdamW), _network())
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert optimizer.param_groups[0]["weight_decay"] == 0.01


def test_an_optimizer_without_weight_decay_is_built_without_it():
    class Plain(torch.optim.Optimizer):
        def __init__(self, params, lr=0.1):
            super().__init__(params, {"lr": lr})

    optimizer = build_optimizer(partial(Plain, lr=0.5), _network())
    assert all(group["lr"] == 0.5 and "weight_decay" not in group for group in optimizer.param_groups)


def test_a_step_decays_weights_only():
    network = _network()
    before = {name: value.clone() for name, value in network.named_parameters()}
    optimizer = build_optimizer(partial(torch.optim.SGD, lr=0.1, weight_decay=0.5), network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(network.named_parameters())
    torch.testing.assert_close(after["0.weight"], before["0.weight"] * 0.95)
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(after[name], before[name])


@pytest.mark.parametrize("make", [partial(torch.optim.AdamW, lr=-1.0), partial(torch.optim.LBFGS, lr=1.0)])
def test_what_torch_refuses_is_a_config_error_that_names_the_optimizer(make):
    with pytest.raises(ConfigError, match=f"the optimizer {make.func.__name__} refused"):
        build_optimizer(make, _network())


def test_an_optimizer_without_a_rate_is_an_error_that_says_what_to_type():
    class Rateless(torch.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

    with pytest.raises(ConfigError, match=r"optimizer\.lr=1e-4"):
        build_optimizer(partial(Rateless), _network())


def test_each_scheduler_gets_what_it_asks_for():
    optimizer = build_optimizer(partial(torch.optim.AdamW), _network())
    ours = build_scheduler(partial(constant, warmup_steps=4), optimizer, horizon=HORIZON, mode="max")
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / 5)
    assert ours.last_epoch == 0
    for make in (partial(plateau, patience=3), partial(ReduceLROnPlateau, patience=3)):
        watching = build_scheduler(make, optimizer, horizon=HORIZON, mode="max")
        assert isinstance(watching, ReduceLROnPlateau)
        assert (watching.mode, watching.patience) == ("max", 3)
    foreign = build_scheduler(partial(ExponentialLR, gamma=0.9), optimizer, horizon=HORIZON, mode="max")
    assert isinstance(foreign, ExponentialLR)
