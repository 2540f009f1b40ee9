"""A finished run as a module again, from one self-describing checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from torch import nn

from ..backbones.weights import make_room
from ..config.build import locate
from ..config.check import called_later
from ..config.targets import walk_targets
from ..errors import CheckpointError, ConfigError
from .building import build_module, build_network
from .checkpoints import read_checkpoint
from .directory import RunDirectory, open_run

Which = Literal["best", "last"]


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint holds: the module in eval mode with its weights, the config and the metadata."""

    module: lightning.LightningModule
    config: dict[str, Any]
    metadata: dict[str, Any]
    file: Path


def checkpoint_file(run_or_file: str | Path, which: Which = "best") -> Path:
    """The checkpoint of a run's directory, or the file itself; a `best` that is gone is an error."""
    path = Path(run_or_file)
    if path.suffix == ".ckpt":
        return path
    run: RunDirectory = open_run(path)
    if which == "best" and not (run.checkpoints / "best.ckpt").is_file() and not _monitors(run):
        return run.checkpoint("last")  # nothing was monitored, so the last is the only one
    return run.checkpoint(which)


def load_module(run_or_file: str | Path, which: Which = "best", *, allow: Sequence[str] = ()) -> Loaded:
    """Rebuild the module of a run or checkpoint with its weights, ready to predict.

    Nothing is downloaded unless frozen pretrained weights, which a checkpoint does not repeat, have to be.
    allow: packages of the user's that a `_target_` may name; a checkpoint can't widen the list itself.
    Raises CheckpointError for a damaged, pickled or foreign file and ConfigError for a `_target_` outside the
    allow-list.
    """
    file = checkpoint_file(run_or_file, which)
    checkpoint = read_checkpoint(file)
    config = dict(checkpoint["tapetum"]["config"]) | {"allow_targets": list(allow)}
    _only_modules(config["model"], allow, file)
    weights = network_weights(checkpoint)
    with torch.device("meta"):  # names alone: drawing large weights takes longer than reading them
        whole = set(build_network(config, pretrained=False).state_dict()) <= set(weights)
    net = build_network(config, pretrained=not whole)
    load_network(net, weights, file)
    module = build_module(config, net, train=False)
    return Loaded(module.eval(), config, dict(checkpoint["tapetum"]["metadata"]), file)


def _only_modules(model: Any, allow: Sequence[str], file: Path) -> None:
    """A checkpoint may name torch modules and nothing else: its config is untrusted input.

    A function of a package that the user allows may be a loss or a metric, which nothing calls on building.
    """
    for key, node in walk_targets(model, "model"):
        found = locate(node["_target_"], allow)
        theirs = any(node["_target_"].startswith(f"{package}.") for package in allow)
        if theirs and inspect.isfunction(found) and node.get("_partial_") is True and called_later(key):
            continue
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise ConfigError(
                f"{file}: {key}._target_={node['_target_']} is not a torch module, and is refused"
            )


def network_weights(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The network's own entries of a checkpoint's state dict, without the module's prefix."""
    return {
        key.removeprefix("net."): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith("net.")
    }


def load_network(net: nn.Module, weights: dict[str, Any], file: Path) -> None:
    """Strictly, but for what the network stores elsewhere; CheckpointError naming what differs."""
    elsewhere: frozenset[str] = getattr(net, "stored_elsewhere", frozenset)()
    make_room(net, weights)
    own = net.state_dict()
    missing = sorted(set(own) - set(weights) - elsewhere)
    unexpected = sorted(set(weights) - set(own))
    shapes = sorted(key for key in set(own) & set(weights) if own[key].shape != weights[key].shape)
    if missing or unexpected or shapes:
        parts = [
            f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
            for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if keys
        ]
        raise CheckpointError(f"{file} holds weights of another network: {'; '.join(parts)}")
    net.load_state_dict(weights, strict=False)


def _monitors(run: RunDirectory) -> bool:
    return any(run.checkpoints.glob("best*"))
