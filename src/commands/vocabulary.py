"""A tokenizer that is learnt from the training captions, before anything else is learnt from them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..indexes.table import Index
    from ..runs.directory import RunDirectory

log = logging.getLogger("tapetum")

_KEYS = {"vocabulary", "tokenizer"}
"""Of a network that takes its tokens from the captions that it learns from."""


def with_learnt_tokenizer(run: RunDirectory, config: Mapping[str, Any], index: Index) -> dict[str, Any]:
    """The config with `model.net.tokenizer` as it was learnt; it also stands in `tokenizer.json` of the run.

    A network without such a key, or with a tokenizer, stays as it is. A run that goes on takes the tokenizer
    of its file, and one that starts from weights takes theirs, so that the same words are the same tokens for
    as long as these weights are used.
    """
    import pyarrow as pa

    from ..backbones.bpe import learn, tokenizer_of
    from ..runs.directory import write_text

    if not _wants_one(config):
        return dict(config)
    file = run.path / "tokenizer.json"
    if config["weights"] and not file.is_file():
        write_text(file, with_tokenizer_of_weights(config)["model"]["net"]["tokenizer"])
        log.info("tokenizer: that of weights=%s", config["weights"])
    elif not file.is_file():
        captions = index.table.column("captions").take(pa.array(index.rows("train")))
        most = config["model"]["net"]["vocabulary"]
        learnt = learn(captions.combine_chunks().flatten().to_pylist(), most)
        write_text(file, learnt)
        log.info(
            "tokenizer: %s tokens, learnt from the captions of %s training images",
            f"{len(tokenizer_of(learnt)):,}", f"{len(captions):,}",
        )  # fmt: skip
    return _with(config, file.read_text(encoding="utf-8"))


def with_tokenizer_of_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the tokenizer that its `weights` have learnt with, where the network needs one.

    Raises CheckpointError where they are no run's or checkpoint's that has one.
    """
    from pathlib import Path

    from ..errors import CheckpointError
    from ..runs.checkpoints import read_checkpoint
    from ..runs.loading import checkpoint_file

    if not _wants_one(config) or not config["weights"]:
        return dict(config)
    path = Path(config["weights"]).expanduser()
    found = None
    if path.is_dir() or path.suffix == ".ckpt":
        found = read_checkpoint(checkpoint_file(path))["tapetum"]["config"]["model"]["net"].get("tokenizer")
    if found is None:
        raise CheckpointError(
            f"weights={config['weights']} come without the tokenizer that they have learnt with, so their "
            "tokens would be other words: name a run of this model, or one of its checkpoints"
        )
    return _with(config, found)


def without_tokenizer(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as people read it: a learnt tokenizer stands in the run's `tokenizer.json`."""
    learnt = config["model"]["net"].keys() >= _KEYS
    return _with(config, None) if learnt else dict(config)


def _wants_one(config: Mapping[str, Any]) -> bool:
    node = config["model"]["net"]
    return bool(node.keys() >= _KEYS) and node["tokenizer"] is None


def _with(config: Mapping[str, Any], tokenizer: str | None) -> dict[str, Any]:
    model = config["model"]
    return {**config, "model": {**model, "net": {**model["net"], "tokenizer": tokenizer}}}
