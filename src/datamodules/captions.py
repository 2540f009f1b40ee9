"""The captions of a batch: which of an image's are learnt from in an epoch, as the network reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..images.augment import sample_seed
from ..indexes.table import Index

_CAPTION_STREAM = -3  # mixed into a sample's seed, so that the caption is drawn apart from the crop

Captions = Literal["one", "all"]


class Encode(Protocol):
    """What a network makes of texts on the way to it: its `encode_fn()`, picklable and without weights."""

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` int64 [N, T], right padded, `truncated` int64 [N], 0 or 1."""

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """int64 [N]: tokens that would be fed of each."""


class CaptionDraw:
    """Which captions of an image stand in a batch: one in each epoch, drawn by (seed, epoch, row), or all.

    captions: of every row of an Index, a list of strings each.
    """

    def __init__(self, captions: pa.ChunkedArray, mode: Captions, seed: int) -> None:
        self.captions = captions
        self.mode: Captions = mode
        self.seed = seed

    def texts(self, epoch: int, row: int) -> list[str]:
        """Those of one image; at least one."""
        found: list[str] = self.captions[row].as_py()
        return found if self.mode == "all" else [found[self.number(epoch, row, len(found))]]

    def number(self, epoch: int, row: int, count: int) -> int:
        """Which of `count` captions is drawn."""
        return sample_seed(sample_seed(self.seed, _CAPTION_STREAM, row), epoch, row) % count


class CaptionColumns:
    """What a batch has of its captions: `inputs`, `owners` and `texts` of `CaptioningBatch`.

    encode: None where nothing reads texts yet; `inputs` is then empty.
    """

    def __init__(self, encode: Encode | None, draw: CaptionDraw) -> None:
        self.encode = encode
        self.draw = draw

    def __call__(self, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """keys: (epoch, row) of each image of the batch."""
        texts: list[str] = []
        owners: list[int] = []
        for number, (epoch, row) in enumerate(keys):
            own = self.draw.texts(epoch, row)
            texts += own
            owners += [number] * len(own)
        inputs = self.encode(texts) if texts and self.encode is not None else {}
        return {"inputs": inputs, "owners": torch.tensor(owners, dtype=torch.int64), "texts": texts}


Columns = Callable[[Sequence[tuple[int, int]]], Mapping[str, Any]]


def token_lengths(encode: Encode, index: Index, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """For every row its captions' numbers of tokens, int64 [number of captions] each."""
    of_rows = index.table.column("captions").take(pa.array(rows)).to_pylist()
    flat = encode.lengths([caption for captions in of_rows for caption in captions])
    return np.split(flat, np.cumsum([len(captions) for captions in of_rows])[:-1]) if len(rows) else []
