"""CLIPScore: how well captions fit their images by CLIP's embeddings alone (Hessel et al., EMNLP 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

WEIGHT = 2.5


def clip_score(images: Tensor, captions: Tensor) -> Tensor:
    """CLIPScore of each image and its caption, float32 [N] in [0, 2.5]: 2.5 times the cosine, at least 0.

    images, captions: float [N, D], CLIP's embeddings before or after normalisation. The paper embeds a
    caption as "A photo depicts " + caption, with ViT-B/32; what people write then reaches about 0.8.
    Raises ValueError for shapes that don't fit.
    """
    if images.ndim != 2 or images.shape != captions.shape:
        raise ValueError(
            f"images {list(images.shape)} and captions {list(captions.shape)}: both have shape [N, D]"
        )
    return WEIGHT * cosine_similarity(images.float(), captions.float()).clamp(min=0)


def ref_clip_score(images: Tensor, captions: Tensor, references: Tensor, owners: Tensor) -> Tensor:
    """RefCLIPScore, float32 [N], at most 1.43: CLIPScore and the nearest reference, harmonic mean.

    images, captions: float [N, D]; references: float [M, D], the embeddings of all reference captions;
    owners: int64 [M], the image of each. A cosine below 0 counts as 0.
    Raises ValueError for shapes that don't fit, and for an image without a reference.
    """
    score = clip_score(images, captions)
    if references.ndim != 2 or references.shape[1] != images.shape[1] or len(owners) != len(references):
        raise ValueError(
            f"references {list(references.shape)} and owners {list(owners.shape)}: "
            f"they have shapes [M, {images.shape[1]}] and [M]"
        )
    bare = sorted(set(range(len(images))) - set(owners.tolist()))
    if bare or (len(owners) and not 0 <= int(owners.min()) <= int(owners.max()) < len(images)):
        raise ValueError(
            f"owners name the image, 0 to {len(images) - 1}, of each reference, and every image has one; "
            f"without: {bare[:5]}"
        )
    cosine = cosine_similarity(captions.float()[owners], references.float())
    nearest = torch.zeros_like(score).scatter_reduce(0, owners, cosine.clamp(min=0), "amax")
    total = score + nearest
    return torch.where(total > 0, 2 * score * nearest / total, torch.zeros_like(total))
