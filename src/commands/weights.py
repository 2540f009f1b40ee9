"""`weights=`: a new run that starts from another's weights, or from a published file."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from ..backbones.weights import load_weights
from ..errors import CheckpointError
from ..runs.checkpoints import read_checkpoint
from ..runs.loading import checkpoint_file, load_network, network_weights

log = logging.getLogger("tapetum")


def start_from(net: nn.Module, weights: str, *, strict: bool = False) -> None:
    """Load what matches by name and shape and say what matched and what did not.

    A published file is loaded strictly; a run's weights may lack parts that the new network has, unless
    `strict`: what is not trained further must be whole. Raises CheckpointError where they don't fit.
    """
    path = Path(weights)
    if path.is_file() and path.suffix != ".ckpt":
        load_weights(net, path)
        log.info("weights: all of %s", path)
        return
    file = checkpoint_file(path)
    found = network_weights(read_checkpoint(file))
    if strict:
        load_network(net, found, file)
        log.info("weights: all of %s", file)
        return
    own = net.state_dict()
    matching = {
        name: value for name, value in found.items() if name in own and own[name].shape == value.shape
    }
    if not matching:
        raise CheckpointError(
            f"nothing in {file} fits this network: none of its {len(found)} tensors has a namesake"
        )
    net.load_state_dict(matching, strict=False)
    log.info("weights: %d of %d tensors from %s", len(matching), len(own), file)
    for what, names in (
        ("not in the file", set(own) - set(matching)),
        ("not used", set(found) - set(matching)),
    ):
        if names:
            log.warning("weights %s: %s", what, ", ".join(sorted(names)))
