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
    of its file, so that the same words are the same tokens for as long as these weights are used.
    """
    import pyarrow as pa

    from ..backbones.bpe import learn, tokenizer_of
    from ..runs.directory import write_text

    node = config["model"]["net"]
    if not node.keys() >= _KEYS or node["tokenizer"] is not None:
        return dict(config)
    file = run.path / "tokenizer.json"
    if not file.is_file():
        captions = index.table.column("captions").take(pa.array(index.rows("train")))
        learnt = learn(captions.combine_chunks().flatten().to_pylist(), node["vocabulary"])
        write_text(file, learnt)
        log.info(
            "tokenizer: %s tokens, learnt from the captions of %s training images",
            f"{len(tokenizer_of(learnt)):,}", f"{len(captions):,}",
        )  # fmt: skip
    found = file.read_text(encoding="utf-8")
    return {**config, "model": {**config["model"], "net": {**node, "tokenizer": found}}}
