"""The sharded tensors of a checkpoint: a directory beside its file, to which each process writes its part.

In the file such a tensor stands without storage, on the device meta, so that its name, shape and type are
known without the directory. The directory is torch.distributed.checkpoint's, in safetensors: its own format
is read by unpickling.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from torch.utils._pytree import keystr, tree_map_with_path

from ..errors import CheckpointError

_PIECE = 1 << 24


def is_sharded(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's sharded tensors lie beside its file."""
    return "shards" in checkpoint["tapetum"]


def directories(checkpoint: Path) -> list[Path]:
    """Those beside a checkpoint that hold, or held, its tensors."""
    return sorted(checkpoint.parent.glob(f"{checkpoint.stem}-shards-*"))


def write_shards(checkpoint: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Write the sharded tensors into a new directory; the checkpoint as it then belongs into its file.

    All processes call it, and what one of them fails with, such as an OSError, all of them raise.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    sharded: dict[str, Tensor] = {}
    storages: set[int] = set()

    def take(place: Any, leaf: Any) -> Any:
        if not isinstance(leaf, DTensor):
            return leaf
        storage = leaf.to_local().untyped_storage().data_ptr()
        sharded[keystr(place)] = leaf.clone() if storage in storages else leaf  # safetensors refuses ties
        storages.add(storage)
        return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta")

    rest: dict[str, Any] = tree_map_with_path(take, checkpoint)
    try:
        save(sharded, storage_writer=HuggingFaceStorageWriter(str(directory), save_distributed=True))
    except CheckpointException as error:  # no Exception, and so nothing that a caller would catch
        raise next(failure for failure, _ in error.failures.values()) from error
    rest["tapetum"] = rest["tapetum"] | {
        "shards": {"directory": directory.name, "crc32": _together(_checksums(directory))}
    }
    return rest


def read_shards(
    checkpoint: Mapping[str, Any], file: Path, into: Callable[[Tensor], Tensor], *, together: bool
) -> dict[str, Any]:
    """The checkpoint with its sharded tensors, each read into what `into` makes of the one without storage.

    file: the checkpoint's. together: whether all processes call it, and each reads what it needs.
    Raises CheckpointError where the directory is not there, incomplete or damaged.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    noted = checkpoint["tapetum"]["shards"]
    directory = file.parent / Path(noted["directory"]).name
    if not directory.is_dir():
        raise CheckpointError(
            f"{file} holds no tensors of its own: they lie in {directory.name} beside it, and that is not "
            f"there. Copy both, or take {file.parent / 'best.ckpt'}, which is one file"
        )
    found = _checksums(directory, alone=not together)
    found = _together(found) if together else found
    if broken := [name for name, value in noted["crc32"].items() if found.get(name) != value]:
        raise CheckpointError(
            f"{directory} is damaged and can't be read: {broken[0]} is missing or has a wrong checksum. Take "
            f"{file.parent / 'best.ckpt'}, or copy the directory again"
        )
    targets: dict[str, Tensor] = {}

    def place(where: Any, leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and leaf.is_meta):
            return leaf
        return targets.setdefault(keystr(where), into(leaf))

    whole: dict[str, Any] = tree_map_with_path(place, checkpoint)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it was asked to
        load(targets, storage_reader=HuggingFaceStorageReader(str(directory)), no_dist=not together)
    return whole


def _checksums(directory: Path, *, alone: bool = False) -> dict[str, int]:
    """Of each file, or of this process's share of them."""
    files = sorted(directory.iterdir())
    if not alone:
        files = files[distributed.get_rank() :: distributed.get_world_size()]
    return {file.name: _checksum(file) for file in files}


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as content:
        while piece := content.read(_PIECE):
            value = zlib.crc32(piece, value)
    return value


def _together(own: dict[str, int]) -> dict[str, int]:
    everyone: list[dict[str, int]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(everyone, own)
    return {name: value for part in everyone for name, value in part.items()}
