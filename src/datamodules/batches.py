"""What a batch holds, task by task."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor


class DetectionBatch(TypedDict):
    """images uint8 [B, C, H, W], or a list of B uint8 [C, h, w] where sizes differ; the rest int64 [B].

    B is 0, and images an empty list, where none of a batch could be read (data.on_bad_image=skip).
    index is the row in the Index, so that every prediction can be traced to its file; labels are 0 real and
    1 generated; generators number the Index's sorted generators, -1 where none is known.
    """

    images: Tensor | list[Tensor]
    index: Tensor
    labels: Tensor
    generators: Tensor
