"""A frozen backbone that starts to train in the middle of a run, also when the run is stopped there."""

from __future__ import annotations

import copy
import logging
from functools import partial

import lightning
import pytest
import torch
from tapetum.backbones.freezing import KeepsFrozen, freeze, unfreeze
from tapetum.detectors.timm_backbone import TimmBackbone
from tapetum.errors import ConfigError, TrainingError
from tapetum.images.geometry import InputSpec
from tapetum.modules.detection import DetectionModule
from tapetum.optim import schedules
from tapetum.runs.averaging import EMA
from tapetum.runs.checkpoints import WholeStepCheckpoint, read_checkpoint
from tapetum.runs.gradual_unfreeze import TARGET, GradualUnfreeze, thaws, unfreeze_problems
from tapetum.runs.resume import GeneratorState
from torch import nn

from modules.training import data_for, detector, fit, network

STEPS = 8  # optimizer steps an epoch
SCHEDULE = {2: 1, 3: ["backbone.layer2"], 4: "all"}
FROM = {"layer4": 2, "layer2": 3, "layer1": 4, "layer3": 4, "conv1": 4, "bn1": 4}
"""The first epoch in which each module of the backbone trains under SCHEDULE."""


def frozen(**arguments):
    return network(freeze=True, dropout=0.5, **arguments)


def epoch_of(name):
    """The first epoch in which a tensor of the network's state moves under SCHEDULE."""
    return FROM[name.split(".")[1]] if name.startswith("backbone.") else 1


class Watching(lightning.Callback):
    """What the network is at the end of every epoch, and which of it trained."""

    def __init__(self):
        self.states, self.modes, self.rates = [], [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == STEPS - 1:
            self.states.append(copy.deepcopy(module.net.state_dict()))
            self.modes.append({name for name, part in module.net.named_modules() if part.training})
            self.rates.append({group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups})


class SaveEach(lightning.Callback):
    """A checkpoint behind every optimizer step, where StopOnSignal would write one."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def trained(folder, *callbacks, epochs=5, ckpt_path=None, schedule=None, net=None, **arguments):
    module = detector(net or frozen(), **arguments)
    data = data_for(module, folder.parent / "data")
    unfreezing = GradualUnfreeze(SCHEDULE if schedule is None else schedule, lr_ratio=0.1)
    trainer = fit(
        module, folder, data=data, max_epochs=epochs, ckpt_path=ckpt_path,
        callbacks=[unfreezing, GeneratorState(), *callbacks],
    )  # fmt: skip
    return module, trainer


def test_each_part_moves_from_its_epoch_on_and_not_before(tmp_path):
    watching = Watching()
    start = frozen().state_dict()
    trained(tmp_path / "run", watching)
    states = [start, *watching.states]
    for epoch in range(1, 6):
        before, after = states[epoch - 1], states[epoch]
        moved = {name for name in after if not torch.equal(before[name], after[name])}
        assert moved == {name for name in after if epoch_of(name) <= epoch and not name.startswith("norm")}
        # BatchNorm of a frozen block: statistics and mode, the mode again after each validation
        names = {name for name in watching.modes[epoch - 1] if name.count(".") > 1 and "layer" in name}
        assert names == {
            name
            for name, _ in frozen().named_modules()
            if name.count(".") > 1 and "layer" in name and epoch_of(name) <= epoch
        }


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_what_is_unfrozen_learns_at_its_ratio_of_the_schedule(tmp_path, schedule):
    made = {
        "cosine": partial(schedules.cosine, warmup_epochs=1, min_lr=0.0),
        "plateau": partial(schedules.plateau, patience=0, min_lr=0.0, factor=0.5),
    }[schedule]
    watching = Watching()
    trained(tmp_path / "run", watching, scheduler=made, monitor="val/real_accuracy")
    assert [sorted(rates) for rates in watching.rates] == [
        ["head", "head_no_decay", "unfrozen", "unfrozen_no_decay"]
    ] * 5
    for rates in watching.rates:
        assert rates["unfrozen"] == pytest.approx(0.1 * rates["head"])
        assert rates["unfrozen_no_decay"] == pytest.approx(0.1 * rates["head_no_decay"])
    assert len({rates["head"] for rates in watching.rates}) > 1


def test_norms_and_biases_that_are_unfrozen_do_not_decay(tmp_path):
    module, trainer = trained(tmp_path / "run", epochs=1)
    groups = {group["name"]: group for group in trainer.optimizers[0].param_groups}
    assert groups["unfrozen"]["weight_decay"] == groups["head"]["weight_decay"] == 0.01
    assert groups["unfrozen_no_decay"]["weight_decay"] == 0.0
    assert all(p.ndim <= 1 for p in groups["unfrozen_no_decay"]["params"])
    assert all(p.ndim > 1 for p in groups["unfrozen"]["params"])
    held = sum(len(group["params"]) for group in groups.values())
    assert held == len(list(module.net.parameters()))


@pytest.mark.parametrize("average", [False, True])
def test_a_run_that_is_stopped_anywhere_and_resumed_is_the_run_that_went_on(tmp_path, average):
    def callbacks():
        return [EMA(0.9)] if average else []

    scheduler = partial(schedules.cosine, warmup_epochs=1, min_lr=0.0)
    saving = SaveEach(tmp_path / "kept")
    straight, trainer = trained(tmp_path / "straight", *callbacks(), saving, scheduler=scheduler, epochs=4)
    expected = trainer.optimizers[0].state_dict()
    # the step before an epoch that unfreezes, the last of the epoch, the first of it, and one in its middle
    for step in (STEPS - 1, STEPS, STEPS + 1, 2 * STEPS - 1, 2 * STEPS, 2 * STEPS + 3, 3 * STEPS):
        file = tmp_path / "kept" / f"{step}.ckpt"
        resumed, trainer = trained(
            tmp_path / f"from {step}", *callbacks(), scheduler=scheduler, epochs=4, ckpt_path=file
        )
        reached = resumed.state_dict()
        for name, value in straight.state_dict().items():
            assert torch.equal(reached[name], value), (step, name)
        state = trainer.optimizers[0].state_dict()
        assert state["param_groups"] == expected["param_groups"]
        assert all(
            torch.equal(torch.as_tensor(state["state"][number][key]), torch.as_tensor(value))
            for number, kept in expected["state"].items()
            for key, value in kept.items()
        )


def test_autograd_starts_at_the_first_block_that_trains():
    net = frozen().train()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    largest = []
    for thaw in thaws(net, {1: 1, 2: "all"}):
        unfreeze(net.backbone, [name.removeprefix("backbone.") for name in thaw.names])
        sides = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sides=sides: sides.append(t.shape[-1] if t.ndim == 4 and len(t) == 4 else 0) or t,
            lambda t: t,
        ):
            net(images).sum().backward()
        largest.append(max(sides))
        got = {name for name, value in net.named_parameters() if value.grad is not None}
        assert got == {name for name, value in net.named_parameters() if value.requires_grad}
        net.zero_grad()
    assert largest == [2, 32]  # feature maps of the last block alone, then everything from the image on


def test_checkpoints_of_such_a_run_hold_all_that_will_train(tmp_path):
    torch.save(network().backbone.state_dict(), tmp_path / "backbone.pth")
    module = detector(frozen_from(tmp_path / "backbone.pth"))
    assert module.net.stored_elsewhere()
    save = WholeStepCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    data = data_for(module, tmp_path / "data")
    unfreezing = GradualUnfreeze({3: 2})
    fit(module, tmp_path / "run", data=data, max_epochs=3, callbacks=[unfreezing, save])
    for epoch in range(3):
        stored = read_checkpoint(tmp_path / f"epoch={epoch}.ckpt")["state_dict"]
        assert set(stored) == set(module.state_dict())


def frozen_from(file):
    return TimmBackbone(
        name="test_resnet.r160_in1k", pretrained=str(file), freeze=True, hidden=8, size=32, dropout=0.0
    )


def test_a_run_too_short_for_its_schedule_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="tapetum"):
        trained(tmp_path / "run", epochs=2)
    assert "epoch 2: unfrozen are backbone.layer4; " in caplog.text
    assert "training ended after epoch 2, before epoch 3, 4 of its schedule" in caplog.text


class Unaware(DetectionModule):
    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.net.parameters() if p.requires_grad], lr=0.1)


def test_an_optimizer_of_ones_own_that_lacks_the_parameters_is_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"Unaware.configure_optimizers leaves out \d+ tensors"):
        trained(tmp_path / "run", kind=Unaware)


# -- schedules that do not fit -------------------------------------------------------------------------------


def names(net, schedule):
    return [(thaw.epoch, len(thaw.names)) for thaw in thaws(net, schedule)]


def test_keys_are_numbers_or_their_digits_and_the_command_line_wins():
    net = frozen()
    total = len(list(net.backbone.parameters()))
    assert names(net, {"4": "all", 2: 1}) == names(net, {2: 1, 4: "all"}) == [(2, 9), (4, total - 9)]
    assert names(net, {2: 1, "2": "all"}) == [(2, total)]
    assert names(net, {2: 1, 4: "all", "4": None}) == [(2, 9)]


def test_a_name_takes_a_module_and_what_is_below_it():
    (thaw,) = thaws(frozen(), {1: "backbone.layer4.0.conv1"})
    assert thaw.names == ("backbone.layer4.0.conv1.weight",)
    whole = thaws(frozen(), {1: ["backbone"]})
    assert whole == thaws(frozen(), {1: "all"})


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({}, r"schedule is empty: say which epoch unfreezes what"),
        ({2: None}, r"schedule is empty"),
        ({0: "all"}, r"0 is no epoch; they count from 1"),
        ({-1: "all"}, r"-1 is no epoch"),
        ({"x": "all"}, r"'x' is no epoch"),
        ({True: "all"}, r"True is no epoch"),
        ({2.5: "all"}, r"2.5 is no epoch"),
        ({2: 0}, r"the last 0 blocks, but backbone has 5: give 1 to 5, or all"),
        ({2: 6}, r"the last 6 blocks, but backbone has 5"),
        ({2: True}, r"unfreezes True, which is neither"),
        ({2: 1.5}, r"unfreezes 1.5, which is neither"),
        ({2: []}, r"unfreezes \[\], which is neither"),
        ({2: [3]}, r"unfreezes \[3\], which is neither"),
        ({2: "al"}, r"unfreezes al, which the network has not"),
        ({2: ["backbone.layer5"]}, r"which the network has not: did you mean backbone.layer"),
        (
            {2: ["nonesuch"]},
            r"\(frozen are backbone, backbone.conv1, backbone.bn1, backbone.layer1, .*layer4\)$",
        ),
        ({2: ["classifier"]}, r"classifier, which trains already: leave it out"),
        ({2: "all", 3: 1}, r"epoch 3 unfreezes the last 1 blocks, all of which trains already"),
        ({2: 2, 3: ["backbone.layer4"]}, r"epoch 3 unfreezes backbone.layer4, all of which trains already"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(schedule, message):
    with pytest.raises(ConfigError, match=message):
        thaws(frozen(), schedule)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ConfigError) as error:
        thaws(frozen(), {0: "all", 2: ["a", "b"], 3: 99})
    assert len(error.value.problems) == 4


def config(schedule, **more):
    node = {"_target_": TARGET, "schedule": schedule, **more}
    return {
        "callbacks": {"gradual_unfreeze": node, "early_stopping": None},
        "model": {"fit": True, "backbone_lr": None},
        "trainer": {"max_epochs": 5},
        "data": {"cache": "none"},
    }


def test_what_only_the_config_knows_is_checked():
    net = frozen()
    assert unfreeze_problems(config({2: 1}), net) == []
    assert unfreeze_problems(config({2: 1}, lr_ratio=-1), net)[0].startswith(
        "callbacks.gradual_unfreeze.lr_r"
    )
    (late,) = unfreeze_problems(config({2: 1, 6: "all"}), net)
    assert "goes up to epoch 6, but the run has 5: type trainer.max_epochs=6" in late
    cached = config({2: 1}) | {"data": {"cache": "features"}}
    (features,) = unfreeze_problems(cached, net)
    assert features.startswith("data.cache=features keeps what the frozen part returns")
    (rate,) = unfreeze_problems(config({2: 1}) | {"model": {"fit": True, "backbone_lr": 1e-4}}, net)
    assert "model.backbone_lr=null" in rate
    (nothing,) = unfreeze_problems(config({2: 1}), network())
    assert "no part of model.net is frozen" in nothing
    assert unfreeze_problems(config({}) | {"model": {"fit": False}}, net) == []


class TwoTowers(KeepsFrozen):
    def __init__(self):
        super().__init__()
        self.input_spec = InputSpec(size=(8, 8))
        self.left = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.right = nn.TransformerEncoderLayer(2, 1)
        freeze(self.left)
        freeze(self.right)


def test_a_network_with_several_frozen_parts_takes_names():
    with pytest.raises(ConfigError, match=r"several parts are frozen \(left, right\): name modules instead"):
        thaws(TwoTowers(), {1: 1})
    first, second = thaws(TwoTowers(), {1: ["left.1", "right.norm1"], 2: "all"})
    assert first.names == ("left.1.weight", "left.1.bias", "right.norm1.weight", "right.norm1.bias")
    assert len(second.names) == len(list(TwoTowers().parameters())) - 4
