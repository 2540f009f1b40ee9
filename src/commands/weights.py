"""`weights=`: a new run that starts from another's weights, or from a published file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from ..backbones.weights import load_weights
from ..errors import CheckpointError, TapetumError
from ..inference.gallery import sha256
from ..modules.network import NetworkModule
from ..runs.building import build_module, build_network
from ..runs.checkpoints import read_checkpoint
from ..runs.loading import checkpoint_file, load_module, load_network, network_weights
from .vocabulary import with_tokenizer_of_weights

log = logging.getLogger("tapetum")

_SHOWN = 8


@dataclass(frozen=True)
class Origin:
    """Where weights came from.

    epoch, step: of the checkpoint, as its own metadata counts them; None for a published file. sha256: of the
    file. replaced: names that the network would have stored elsewhere and that are no longer what lies there,
    so that a checkpoint has to hold them.
    """

    path: Path
    sha256: str
    epoch: int | None = None
    step: int | None = None
    replaced: frozenset[str] = field(default=frozenset(), repr=False)


def module_as_given(config: Mapping[str, Any], otherwise: str) -> lightning.LightningModule:
    """The module of a config that needs no training, or brings weights along, to predict with.

    Raises TapetumError (`otherwise`) where there is neither, CheckpointError where the weights don't fit.
    """
    if config["model"]["fit"] and not config["weights"]:
        raise TapetumError(f"this model has not been trained: {otherwise}")
    config = with_tokenizer_of_weights(config)
    net = build_network(config)
    if config["weights"]:
        start_from(net, config["weights"], strict=True, allow=config["allow_targets"])
    return build_module(config, net, train=False)


def begin_from(
    module: lightning.LightningModule, weights: str, *, allow: Sequence[str] = ()
) -> dict[str, Any]:
    """`start_from` for a run that trains on: what its checkpoints tell about where it came from.

    path, epoch, step, sha256: see Origin. Frozen weights that no longer are what `pretrained` gave are kept
    in the run's checkpoints from here on.
    """
    origin = start_from(module.net, weights, allow=allow)  # type: ignore[arg-type]
    if isinstance(module, NetworkModule):
        module.stored_here |= origin.replaced
    return {
        "path": str(origin.path),
        "epoch": origin.epoch,
        "step": origin.step,
        "sha256": origin.sha256,
    }


def start_from(net: nn.Module, weights: str, *, strict: bool = False, allow: Sequence[str] = ()) -> Origin:
    """Load what matches by name and shape, and say what was taken, what does not fit and what is new.

    weights: a run (its best checkpoint), one of its checkpoints, or a published file. A published file is
    loaded strictly; a run's weights may lack parts that the new network has, unless `strict`: what is not
    trained further must be whole. Frozen weights that the run's checkpoint leaves out come from where the run
    had them. allow: packages of the user's that the run's config may name. Raises CheckpointError where the
    weights don't fit or can't be read.
    """
    path = Path(weights).expanduser()
    elsewhere: frozenset[str] = getattr(net, "stored_elsewhere", frozenset)()
    before = {name: value.clone() for name, value in net.state_dict().items() if name in elsewhere}
    if path.is_file() and not _is_ours(path):
        load_weights(net, path)
        log.info("weights: all of %s", path)
        return Origin(path, sha256(path), replaced=_changed(net, before))
    file = checkpoint_file(path)
    checkpoint = read_checkpoint(file)
    metadata = checkpoint["tapetum"]["metadata"]
    found = network_weights(checkpoint)
    if set(net.state_dict()) - set(found):  # what it leaves out, the run had from somewhere else
        found = load_module(file, allow=allow).module.net.state_dict()  # type: ignore[union-attr]
    origin = f"{file} (epoch {metadata['epoch'] + 1})"
    if strict:
        load_network(net, dict(found), file)
        log.info("weights: all of %s", origin)
    else:
        _load_matching(net, found, origin)
    return Origin(file, sha256(file), metadata["epoch"], metadata["step"], _changed(net, before))


def _load_matching(net: nn.Module, found: Mapping[str, Tensor], origin: str) -> None:
    own = net.state_dict()
    fits = {name: value for name, value in found.items() if name in own and own[name].shape == value.shape}
    if not any(value.is_floating_point() for value in fits.values()):  # a counter fits any counter
        raise CheckpointError(
            f"nothing in {origin} fits this network: none of its {len(found)} tensors has a namesake of the "
            f"same shape. Choose the model that made the file"
        )
    net.load_state_dict(fits, strict=False)
    log.info("weights: %d of %d tensors from %s: %s", len(fits), len(own), origin, _by_part(fits))
    misshapen = [
        f"{name} ({_shape(found[name])} there, {_shape(own[name])} here)"
        for name in own
        if name in found and name not in fits
    ]
    for what, names in (
        ("of another shape, new here", misshapen),
        ("not there, new here", [name for name in own if name not in found]),
        ("there, not used", [name for name in found if name not in own]),
    ):
        if names:
            rest = f", … ({len(names)})" if len(names) > _SHOWN else ""
            log.warning("weights %s: %s%s", what, ", ".join(names[:_SHOWN]), rest)


def _changed(net: nn.Module, before: Mapping[str, Tensor]) -> frozenset[str]:
    now = net.state_dict()
    return frozenset(name for name, value in before.items() if not torch.equal(now[name], value))


def _is_ours(path: Path) -> bool:
    """Whether a file is a checkpoint of tapetum, or a damaged one, about which read_checkpoint knows more."""
    if path.suffix == ".safetensors":
        return False
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=path.suffix == ".ckpt" or None)
    except Exception:  # whatever is wrong with it is told by the one who reads it
        return path.suffix == ".ckpt"
    return isinstance(content, dict) and "tapetum" in content


def _by_part(names: Iterable[str]) -> str:
    """`backbone 118, classifier 6`: tensors by the first part of their names."""
    return ", ".join(f"{part} {count}" for part, count in Counter(n.split(".")[0] for n in names).items())


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
