"""What a batch holds, task by task."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from torch import Tensor


class DetectionBatch(TypedDict):
    """images uint8 [B, C, H, W], or a list of B uint8 [C, h, w] where sizes differ; the rest int64 [B].

    With data.cache=features a batch has `features` instead of images: float [B, …], what the network's frozen
    part returned. B is 0, and images an empty list, where none of a batch could be read
    (data.on_bad_image=skip).
    index is the row in the Index, so that every prediction can be traced to its file; labels are 0 real and
    1 generated; generators number the Index's sorted generators, -1 where none is known.
    """

    images: NotRequired[Tensor | list[Tensor]]
    features: NotRequired[Tensor]
    index: Tensor
    labels: Tensor
    generators: Tensor


class RetrievalBatch(TypedDict):
    """images uint8, or float32 in [0, 1] where they went through a radiometric map, [B, C, H, W], or a list
    of B [C, h, w]; the rest int64 [B], -1 where nothing is known.

    With data.cache=features a batch has `features` instead of images, see `DetectionBatch`. roles are those
    of `indexes.roles`: 0 query, 1 gallery. cameras, sequences and modalities number the Index's sorted names.
    """

    images: NotRequired[Tensor | list[Tensor]]
    features: NotRequired[Tensor]
    index: Tensor
    labels: Tensor
    roles: Tensor
    cameras: Tensor
    sequences: Tensor
    modalities: Tensor


class CaptioningBatch(TypedDict):
    """images uint8 [B, C, H, W], or a list of B uint8 [C, h, w]; index int64 [B].

    With data.cache=features a batch has `features` instead of images, see `DetectionBatch`. Its N captions
    are `texts`; `inputs` is what the network's `encode_fn` made of them: `input_ids` and `attention_mask`
    int64 [N, T], padded on the right, each with its end token, and `truncated` int64 [N], 1 where a caption
    was too long. owners int64 [N]: the place in the batch of the image that each is about, ascending.
    """

    images: NotRequired[Tensor | list[Tensor]]
    features: NotRequired[Tensor]
    index: Tensor
    inputs: dict[str, Tensor]
    owners: Tensor
    texts: list[str]


class VLMBatch(TypedDict):
    """images uint8 [M, C, H, W] of B rows, in their order; index int64 [B].

    With data.cache=features a batch has `features` instead of images, see `DetectionBatch`. image_counts
    int64 [B]: how many of the images are each row's, 1 and more. inputs is what the network's encoder made of
    the conversations: `input_ids`, `attention_mask` and `labels` int64 [B, T], padded on the right,
    `truncated` int64 [B], and what else the network reads; prompts the same up to where the last answer
    begins, in evaluation only. texts: these answers.
    labels and generators int64 [B] as in `DetectionBatch`, where the question is whether an image is real.
    """

    images: NotRequired[Tensor | list[Tensor]]
    features: NotRequired[Tensor]
    index: Tensor
    image_counts: Tensor
    inputs: dict[str, Tensor]
    prompts: NotRequired[dict[str, Tensor]]
    texts: list[str]
    labels: NotRequired[Tensor]
    generators: NotRequired[Tensor]
