"""From a config to its objects: index, network, module, data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import nn

from ..config.build import build
from ..config.joined import each, is_joined, named
from ..config.schema import COLUMNS
from ..errors import ConfigError, DataError
from ..indexes.build import build as build_index_from
from ..indexes.build import build_joined
from ..indexes.table import Index
from ..indexes.walk import MissingFolder

Progress = Callable[[int, int], None]

INDEX_KEYS = ("index", "root", "roots", "limit", "val_fraction", "rescan")
"""The keys of `data` that an Index follows from, beside `task` and `seed`."""


def build_index(config: Mapping[str, Any]) -> Index:
    """The Index of `data`, from its cache where nothing changed; DataError where the files don't fit.

    Of several data sets it is the joined one, which has a column `data`.
    """
    if not is_joined(config):
        return _index_of(config, data_name(config))
    parts: dict[str, Index] = {}
    for name, one in each(config).items():
        try:
            parts[name] = _index_of(one, name, part=True)
        except MissingFolder as error:
            raise MissingFolder(error.folder, named(str(error), name)) from error
        except ConfigError as error:
            raise ConfigError([named(problem, name) for problem in error.problems]) from error
        except DataError as error:
            raise DataError(named(str(error), name)) from error
    return build_joined(parts, required=COLUMNS[config["task"]])


def _index_of(config: Mapping[str, Any], name: str, *, part: bool = False) -> Index:
    """The Index of one data set."""
    data = config["data"]
    layout = build({**data["index"], "_partial_": True}, allow=config["allow_targets"])
    return build_index_from(
        layout,
        root=Path(data["root"]).expanduser(),
        roots={split: Path(path).expanduser() for split, path in (data["roots"] or {}).items()},
        limit=data["limit"],
        val_fraction=data["val_fraction"],
        seed=config["seed"],
        cache=Path(config["paths"]["cache"]).expanduser(),
        rescan=data["rescan"],
        required=COLUMNS[config["task"]],
        name=name,
        part=part,
    )


def build_network(config: Mapping[str, Any], *, pretrained: bool = True) -> nn.Module:
    """The network of `model.net`, frozen where the model says `fit: false`.

    With pretrained=False its own weights come from a checkpoint instead: those of every part of it.
    """
    node = dict(config["model"]["net"])
    if not pretrained:
        node |= {key: False for key in node if key == "pretrained" or key.endswith("_pretrained")}
    net = build(node, allow=config["allow_targets"])
    if not isinstance(net, nn.Module):
        raise ConfigError(
            f"model.net._target_={node['_target_']} is not a torch module but {type(net).__name__}"
        )
    if not hasattr(net, "input_spec"):
        raise ConfigError(
            f"model.net._target_={node['_target_']} has no input_spec: give the network an attribute "
            f"input_spec: InputSpec(size=…, resize=…) that says how it wants to be fed"
        )
    return net if config["model"]["fit"] else net.requires_grad_(False)


def build_module(
    config: Mapping[str, Any],
    net: nn.Module,
    *,
    learnt_from: Mapping[str, Any] | None = None,
    train: bool = True,
) -> lightning.LightningModule:
    """The task's LightningModule around a network; no optimizer and schedule where it only predicts.

    learnt_from: arguments that the training data decide, see `tasks.task.Task.learnt_from`.
    """
    node = {key: value for key, value in config["model"].items() if key != "net"}
    allow = config["allow_targets"]
    fits = train and config["model"]["fit"]
    module = build(
        node,
        allow=allow,
        net=net,
        optimizer=build(config["optimizer"], allow=allow) if fits else None,
        scheduler=build(config["scheduler"], allow=allow) if fits and config["scheduler"] else None,
        monitor=config["train"]["monitor"],
        mode=config["train"]["mode"],
        **(learnt_from or {}),
        channels_last=config["train"]["channels_last"],
        log_every_n_steps=config["trainer"]["log_every_n_steps"],
    )
    if not isinstance(module, lightning.LightningModule):
        raise ConfigError(f"model._target_={node['_target_']} is not a LightningModule")
    return module


def build_datamodule(
    config: Mapping[str, Any],
    index: Index,
    module: lightning.LightningModule,
    progress: Progress | None = None,
) -> Any:
    """The task's LightningDataModule over an Index, fed as the module's network wants it.

    The network itself goes along where its features are kept: data.cache=features; of one that reads texts,
    what makes its inputs of them; of one that is asked, the question.
    """
    node = {key: value for key, value in config["data"].items() if key not in INDEX_KEYS}
    kept: dict[str, Any] = {}
    if node.get("cache") == "features":
        kept = {"network": module.net, "precision": str(config["trainer"]["precision"])}
    if hasattr(module, "encode_fn"):
        kept["encode"] = module.encode_fn()  # type: ignore[operator]  # the task's own method
    if hasattr(module, "question"):
        kept["question"] = module.question
    return build(
        node,
        allow=config["allow_targets"],
        index=index,
        input_spec=module.input_spec,
        augment=build(config["augment"], allow=config["allow_targets"]),
        seed=config["seed"],
        cache_dir=Path(config["paths"]["cache"]).expanduser(),
        progress=progress,
        **kept,
    )


def where_weights_go(config: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """Around `build_network` in training: large models are read straight onto the device of this process.

    Only those of the task vlm: what is drawn rather than read would be drawn otherwise on a GPU.
    """
    asked, cuda = config["trainer"]["accelerator"], torch.cuda.is_available()
    if config["task"] == "vlm" and cuda and asked in ("auto", "gpu", "cuda"):
        rank, devices = int(os.environ.get("LOCAL_RANK", "0")), config["trainer"]["devices"]
        return torch.device("cuda", devices[rank] if isinstance(devices, list | tuple) else rank)
    return nullcontext()


def parameter_counts(net: nn.Module) -> tuple[int, int]:
    """Total and trainable parameters; works on the meta device."""
    parameters = list(net.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def build_network_on_meta(config: Mapping[str, Any]) -> nn.Module:
    """The network without memory for its weights and without loading any: for counting and shapes."""
    with torch.device("meta"):
        return build_network(config)


def data_name(config: Mapping[str, Any]) -> str:
    """A short name of the data for tables and directories: the layout's module, or `a+b` of several sets."""
    if is_joined(config):
        return "+".join(each(config))
    target = str(config["data"]["index"]["_target_"])
    return target.split(".")[-2] if target.endswith(".index") else target.split(".")[-1]
