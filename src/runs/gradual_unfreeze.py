"""`callbacks=gradual_unfreeze`: a frozen part starts to train in the middle of a run, block by block.

What trains in an epoch is a function of the schedule and the epoch, so a run that is stopped and resumed is
the run that never stopped. The optimizer holds all parameters of the schedule from the start and leaves those
without a gradient alone; Lightning's BaseFinetuning adds groups in the middle instead, which a cosine, whose
peaks are fixed at the start, does not know, and which a resumed run has to rebuild.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from ..backbones.blocks import blocks
from ..backbones.freezing import frozen_parts, trainable_names, unfreeze
from ..errors import ConfigError, TrainingError, did_you_mean
from ..modules.network import NetworkModule

log = logging.getLogger("tapetum")

TARGET = f"{__name__}.GradualUnfreeze"
_KEY = "callbacks.gradual_unfreeze.schedule"
_EXAMPLE = f"'{_KEY}={{2: 2, 4: all}}'"

What = int | str | list[str] | None


@dataclass(frozen=True)
class Thaw:
    """What starts to train when an epoch (from 1) begins: dotted names of the network's parameters."""

    epoch: int
    names: tuple[str, ...]


class GradualUnfreeze(Callback):
    """Unfreezes parts of a network that `model.net.freeze=true` (or `backbones.freezing.freeze`) has frozen.

    schedule: {epoch: what}. The epoch, counted from 1, is the first one in which it trains. What is `all`; a
        number k, for the last k blocks of the frozen part; or names of modules as in the checkpoint, such as
        [backbone.layer4]. An entry that is null is left out. What has been unfrozen stays so.
    lr_ratio: learning rate of what is unfrozen, as a share of optimizer.lr; the schedule of `scheduler` holds
        for it like for the rest, from the first step of the run.

    BatchNorm and dropout of a frozen block stay in eval mode until all of its parameters train. Checkpoints
    of such a run hold the whole frozen part, also where it came from pretrained weights. ConfigError where
    the schedule does not fit the network (see `thaws`).
    """

    def __init__(self, schedule: Mapping[int, What] | None = None, lr_ratio: float = 0.1) -> None:
        if lr_ratio <= 0:
            raise ConfigError(
                f"callbacks.gradual_unfreeze.lr_ratio={lr_ratio} must be above 0: 0.1 is a tenth of "
                f"optimizer.lr"
            )
        self.schedule = dict(schedule or {})
        self.lr_ratio = lr_ratio
        self._waiting: list[Thaw] = []

    def setup(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        """Lightning's hook, before the optimizer is built and a checkpoint is loaded."""
        if stage != "fit":
            return
        if not isinstance(module, NetworkModule):
            raise ConfigError(
                f"callbacks.gradual_unfreeze needs a module that knows what will train later, such as "
                f"NetworkModule, but this is a {type(module).__name__}"
            )
        if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
            raise ConfigError(
                f"callbacks=gradual_unfreeze works in one process and with trainer.strategy=ddp, but this is "
                f"{type(trainer.strategy).__name__}: type accelerator=ddp"
            )
        self._waiting = thaws(module.net, self.schedule)
        module.train_later([name for thaw in self._waiting for name in thaw.names], self.lr_ratio)
        # Whether it has changed by the time of a checkpoint is not asked: those of a run are all alike.
        for part_name, part in frozen_parts(module.net).items():
            prefix = f"{part_name}." if part_name else ""
            module.stored_here |= {prefix + name for name in part.state_dict()}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook; a run that is resumed in the middle of an epoch has no other."""
        self._check_optimized(trainer, module)
        self._thaw(trainer, module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook."""
        self._thaw(trainer, module)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Lightning's hook: what the run was too short for is said."""
        if self._waiting:
            log.warning(
                "gradual_unfreeze: training ended after epoch %d, before epoch %s of its schedule",
                trainer.current_epoch,
                ", ".join(str(thaw.epoch) for thaw in self._waiting),
            )

    def _thaw(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        due = [thaw for thaw in self._waiting if thaw.epoch <= trainer.current_epoch + 1]
        if not due:
            return
        self._waiting = self._waiting[len(due) :]
        net: nn.Module = module.net  # type: ignore[assignment]
        for part_name, part in frozen_parts(net).items():
            prefix = f"{part_name}." if part_name else ""
            own = set(trainable_names(part))
            named = [name.removeprefix(prefix) for thaw in due for name in thaw.names]
            unfreeze(part, [name for name in named if name in own])
        parameters = list(net.parameters())
        log.info(
            "epoch %d: unfrozen are %s; %s of %s parameters train now, these at %g of the learning rate",
            trainer.current_epoch + 1,
            ", ".join(_modules_of(net, {name for thaw in due for name in thaw.names})),
            f"{sum(value.numel() for value in parameters if value.requires_grad):,}",
            f"{sum(value.numel() for value in parameters):,}",
            self.lr_ratio,
        )
        _synchronise(trainer)

    def _check_optimized(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        net: nn.Module = module.net  # type: ignore[assignment]
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        optimized = {id(value) for group in groups for value in group["params"]}
        parameters = dict(net.named_parameters())
        left = [n for thaw in self._waiting for n in thaw.names if id(parameters[n]) not in optimized]
        if left:
            raise TrainingError(
                f"{type(module).__name__}.configure_optimizers leaves out {len(left)} tensors that "
                f"callbacks.gradual_unfreeze will unfreeze ({_shown(left)}): pass them to build_optimizer as "
                f"`later`, as NetworkModule does"
            )


def thaws(net: nn.Module, schedule: Mapping[Any, Any]) -> list[Thaw]:
    """The schedule on a network (also on the meta device), epoch by epoch.

    Raises ConfigError with every problem: nothing is frozen, an epoch that is none, parts that the network
    lacks, more blocks than there are, an entry that unfreezes nothing new.
    """
    parts = frozen_parts(net)
    frozen = {
        (f"{part}.{name}" if part else name): part
        for part, module in parts.items()
        for name in trainable_names(module)
    }
    if not frozen:
        raise ConfigError(
            "callbacks=gradual_unfreeze has nothing to unfreeze, because no part of model.net is frozen: "
            "type model.net.freeze=true, or callbacks=default"
        )
    entries, problems = _entries(schedule)
    done: set[str] = set()
    found = []
    for epoch, what in entries:
        try:
            names = _chosen(net, parts, frozen, epoch, what)
        except ConfigError as error:
            problems += error.problems
            continue
        new = tuple(name for name in frozen if name in names and name not in done)
        if not new:
            problems.append(
                f"{_KEY}: epoch {epoch} unfreezes {_what(what)}, all of which trains already: leave the "
                f"epoch out ({_KEY}.{epoch}=null)"
            )
        done |= names
        found.append(Thaw(epoch, new))
    if problems:
        raise ConfigError(problems)
    return found


def unfreeze_problems(config: Mapping[str, Any], net: nn.Module) -> list[str]:
    """What is wrong with `callbacks=gradual_unfreeze` in a config, given its network; [] without it."""
    nodes = [node for node in config["callbacks"].values() if node and node.get("_target_") == TARGET]
    if not nodes or not config["model"]["fit"]:
        return []
    if len(nodes) > 1:
        return ["callbacks has two gradual_unfreeze, and one network can follow one only: leave one out"]
    problems: list[str] = []
    found: list[Thaw] = []
    try:
        GradualUnfreeze(lr_ratio=nodes[0].get("lr_ratio", 0.1))
    except ConfigError as error:
        problems += error.problems
    try:
        found = thaws(net, nodes[0].get("schedule") or {})
    except ConfigError as error:
        problems += error.problems
    last = config["trainer"].get("max_epochs")
    late = [thaw.epoch for thaw in found if last is not None and 0 < last < thaw.epoch]
    if late:
        problems.append(
            f"{_KEY} goes up to epoch {max(late)}, but the run has {last}: type "
            f"trainer.max_epochs={max(late)}, or an earlier epoch"
        )
    if config["data"].get("cache") == "features":
        problems.append(
            "data.cache=features keeps what the frozen part returns, and callbacks=gradual_unfreeze will "
            "train that part: type data.cache=decoded, or callbacks=default"
        )
    if config["model"].get("backbone_lr") is not None:
        problems.append(
            "model.backbone_lr is the rate of a backbone that trains from the start; under callbacks="
            "gradual_unfreeze type model.backbone_lr=null and callbacks.gradual_unfreeze.lr_ratio=0.1"
        )
    return problems


def _entries(schedule: Mapping[Any, Any]) -> tuple[list[tuple[int, Any]], list[str]]:
    """(epoch, what) in order, and what is wrong with the keys: whole numbers, or their digits as text.

    Text is what `schedule.4=all` on a command line makes of its key, so it wins over the number in a YAML.
    """
    found: dict[int, Any] = {}
    problems = []
    for key, what in sorted(schedule.items(), key=lambda entry: isinstance(entry[0], str)):
        digits = isinstance(key, str) and key.isascii() and key.isdigit()
        whole = isinstance(key, int) and not isinstance(key, bool)
        if not (digits or whole) or int(key) < 1:
            problems.append(f"{_KEY}: {key!r} is no epoch; they count from 1: type {_EXAMPLE}")
        else:
            found[int(key)] = what
    found = {epoch: what for epoch, what in found.items() if what is not None}
    if not found and not problems:
        problems.append(
            f"{_KEY} is empty: say which epoch unfreezes what, {_EXAMPLE} (k last blocks, or all)"
        )
    return sorted(found.items()), problems


def _chosen(
    net: nn.Module, parts: Mapping[str, nn.Module], frozen: Mapping[str, str], epoch: int, what: Any
) -> set[str]:
    """The parameters that one entry names."""
    if what == "all":
        return set(frozen)
    if isinstance(what, int) and not isinstance(what, bool):
        if len(parts) > 1:
            raise ConfigError(
                f"{_KEY}: epoch {epoch} unfreezes the last {what} blocks, but several parts are frozen "
                f"({', '.join(parts)}): name modules instead"
            )
        ((prefix, part),) = parts.items()
        known = blocks(part)
        if not 1 <= what <= len(known):
            raise ConfigError(
                f"{_KEY}: epoch {epoch} unfreezes the last {what} blocks, but {prefix or 'the network'} has "
                f"{len(known)}: give 1 to {len(known)}, or all"
            )
        return {f"{prefix}.{name}" if prefix else name for names in known[-what:] for name in names}
    named = [what] if isinstance(what, str) else what
    if not isinstance(named, list) or not named or not all(isinstance(one, str) for one in named):
        raise ConfigError(
            f"{_KEY}: epoch {epoch} unfreezes {what!r}, which is neither all, a number of blocks nor a list "
            f"of modules: type {_EXAMPLE}"
        )
    found: set[str] = set()
    problems = []
    for one in named:
        below = {name for name in frozen if name == one or name.startswith(f"{one}.")}
        if not below:
            problems.append(f"{_KEY}: epoch {epoch} unfreezes {one}{_absent(net, frozen, one)}")
        found |= below
    if problems:
        raise ConfigError(problems)
    return found


def _absent(net: nn.Module, frozen: Mapping[str, str], one: str) -> str:
    known: dict[str, None] = {}
    for name, part in frozen.items():
        below = name.split(".")[: len(part.split(".")) + 1 if part else 1]
        known |= dict.fromkeys([*([part] if part else []), ".".join(below)])
    listed = f"frozen are {', '.join(known)}"
    if any(name == one or name.startswith(f"{one}.") for name, _ in net.named_parameters()):
        return f", which trains already: leave it out; {listed}"
    return f", which the network has not{did_you_mean(one, known)} ({listed})"


def _what(what: Any) -> str:
    if isinstance(what, int):
        return f"the last {what} blocks"
    return what if isinstance(what, str) else ", ".join(what)


def _modules_of(net: nn.Module, names: set[str]) -> list[str]:
    """The largest modules that hold nothing but parameters of those names, and the parameters that remain."""
    found: list[str] = []
    left = dict.fromkeys(name for name, _ in net.named_parameters() if name in names)
    for prefix, module in net.named_modules():  # a module comes before what is in it
        below = [f"{prefix}.{name}" for name, _ in module.named_parameters()]
        if prefix and below and all(name in left for name in below):
            found.append(prefix)
            left = {name: None for name in left if name not in set(below)}
    return [*found, *left]


def _shown(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _synchronise(trainer: lightning.Trainer) -> None:
    """Several processes average the gradients of what trained when they were set up, so set them up anew."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        strategy.model = trainer.lightning_module
        strategy.configure_ddp()
