"""Exact nearest neighbours: which rows of a gallery are most like each query, in memory that does not grow.

Similarity is the dot product of unit vectors, the cosine. Gallery rows of equal similarity stand in the order
of their row numbers, so that neither the size of a chunk nor the sorting of a device changes an answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import DataError, TrainingError

CHUNK_BYTES = 16 * 2**20
"""Similarities that are held at once: few enough to be still in a processor's cache when they are ranked."""
LENGTH_TOLERANCE = 0.01
"""How far a vector's length may be from 1: bfloat16 unit vectors stray by 0.004."""
Keys = tuple[Tensor, Tensor]

_QUERIES = 1024
_STRIP = 64  # gallery rows whose best similarity is found before any is ranked
TILE = 16  # fewer rows than this and BLAS adds up in another order: the last bit would depend on the chunk


@torch.no_grad()
def nearest(
    queries: Tensor, gallery: Tensor, k: int, *, exclude: Keys | None = None, chunk_bytes: int = CHUNK_BYTES
) -> tuple[Tensor, Tensor]:
    """(similarity float32 [Q, k], rows int64 [Q, k]) of the `k` most similar gallery rows, falling.

    queries [Q, D], gallery [N, D]: unit vectors of any float dtype, computed in float32 on their device.
    exclude: (int64 [Q], int64 [N]) keys; a gallery row is left out for the queries that have its key, where
    the key is not negative (`junk_keys`). Where fewer than `k` rows are left, the row is -1 and the
    similarity -inf. Memory beyond inputs and outputs is a few times `chunk_bytes`.
    Raises DataError for an empty side or a vector whose length is not 1, TrainingError for a NaN or an
    infinite one, both naming the row; ValueError for shapes that do not fit.
    """
    check_vectors(queries, gallery)
    _check_keys(exclude, len(queries), len(gallery))
    if k < 1:
        raise ValueError(f"k={k}: at least one neighbour is asked for")
    height = min(_QUERIES, up(len(queries), TILE))
    width = min(up(max(1, chunk_bytes // (4 * height)), _STRIP), up(len(gallery), _STRIP))
    best = []
    for rows, block in query_blocks(queries, height):
        top = queries.new_empty((len(block), 0), dtype=torch.int64)
        junk = exclude and (exclude[0][rows], exclude[1])
        buffer = queries.new_empty((len(block), width), dtype=torch.float32)
        for start in range(0, len(gallery), width):
            similarities(block, gallery[start : start + width], out=buffer)
            leave_out(buffer, junk, start)
            more = _best_of(buffer, k, start) if top.shape[1] < k else _better(buffer, top, start)
            top = torch.cat([top, more], dim=1)
            top = top.topk(min(k, top.shape[1]), dim=1).values
        best.append(top[: rows.stop - rows.start])
    similarity, found = unpack(torch.cat(best))
    lacking = k - found.shape[1]
    if lacking > 0:
        similarity = torch.nn.functional.pad(similarity, (0, lacking), value=-math.inf)
        found = torch.nn.functional.pad(found, (0, lacking), value=-1)
    return similarity, found


def junk_keys(labels: Keys, groups: Keys) -> Keys:
    """Keys for `exclude`: equal where identity and group (camera, sequence) are, as re-identification has it.

    labels, groups: (int64 [Q], int64 [N]) of queries and gallery, labels from 0; a negative group is unknown
    and leaves nothing out. Market-1501's protocol: the same person seen by the same camera is junk.
    """
    count = 1 + max(int(side.max()) if len(side) else 0 for side in groups)
    queries, gallery = (
        torch.where(group < 0, -1, label * count + group) for label, group in zip(labels, groups, strict=True)
    )
    return queries, gallery


def check_vectors(queries: Tensor, gallery: Tensor) -> None:
    """Raise for whatever is not two tables of unit vectors of one length D; the message names the row."""
    for name, vectors in (("queries", queries), ("gallery", gallery)):
        if vectors.ndim != 2 or not vectors.is_floating_point():
            raise ValueError(f"{name} must be float [rows, D], not {vectors.dtype} {list(vectors.shape)}")
        if not vectors.numel():
            raise DataError(f"{name} {list(vectors.shape)}: there is no vector to compare")
        lengths = torch.cat(
            [part.float().norm(dim=1) for part in torch.split(vectors, _rows_a_chunk(vectors))]
        )
        broken = (~lengths.isfinite()).nonzero().flatten()
        if len(broken):
            raise TrainingError(
                f"{len(broken)} of {len(vectors)} embeddings of the {name} are not finite, the first is row "
                f"{int(broken[0])}: the weights have diverged; lower optimizer.lr or train with "
                "trainer.precision=32-true"
            )
        wrong = ((lengths - 1).abs() > LENGTH_TOLERANCE).nonzero().flatten()
        if len(wrong):
            raise DataError(
                f"row {int(wrong[0])} of the {name} has length {float(lengths[wrong[0]]):.4g} instead of 1 "
                f"({len(wrong)} of {len(vectors)} rows): an embedder returns L2-normalised vectors, such as "
                "torch.nn.functional.normalize(x) gives"
            )
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries of {queries.shape[1]} and a gallery of {gallery.shape[1]} dimensions")
    if queries.device != gallery.device:
        raise ValueError(f"queries on {queries.device} and a gallery on {gallery.device}: move one of them")


def query_blocks(queries: Tensor, height: int) -> Iterator[tuple[slice, Tensor]]:
    """(rows, float32 [h, D]) over all queries; the last block is filled with zeros to a multiple of 16."""
    for start in range(0, len(queries), height):
        block = queries[start : start + height].float()
        lacking = up(len(block), TILE) - len(block)
        yield slice(start, start + len(block)), torch.nn.functional.pad(block, (0, 0, 0, lacking))


def similarities(block: Tensor, gallery: Tensor, *, out: Tensor) -> None:
    """Write float32 block [h, D] times gallery [n, D] into out [h, w], the rest of it is -inf.

    w: n or more, rounded up to a multiple of 16.
    """
    start = 0
    for part in torch.split(gallery, up(_rows_a_chunk(gallery), TILE)):
        rows = part.float()
        if len(rows) % TILE:
            rows = torch.nn.functional.pad(rows, (0, 0, 0, up(len(rows), TILE) - len(rows)))
        with _float32(block.device):
            torch.mm(block, rows.T, out=out[:, start : start + len(rows)])
        start += len(part)
    out[:, start:] = -math.inf


def leave_out(similarity: Tensor, keys: Keys | None, start: int) -> None:
    """Set to -inf, in place, where a query has the key of a gallery row; both sides may be padded."""
    if keys is None:
        return
    of_queries, of_gallery = keys[0], keys[1][start : start + similarity.shape[1]]
    same = (of_queries[:, None] == of_gallery) & (of_queries[:, None] >= 0)
    similarity[: len(of_queries), : len(of_gallery)].masked_fill_(same, -math.inf)


def pack(similarity: Tensor, rows: Tensor) -> Tensor:
    """int64 keys whose order is: more similar first, then the lower row. rows: below 2^31."""
    bits = (similarity + 0.0).view(torch.int32)  # + 0.0 makes a negative zero a zero
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (ordered << 32) | (0x7FFFFFFF - rows)


def unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """(similarity, rows) of the keys that `pack` made; the row of a similarity of -inf is -1."""
    ordered = (keys >> 32).to(torch.int32)
    similarity = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).view(torch.float32)
    rows = 0x7FFFFFFF - (keys & 0x7FFFFFFF)
    return similarity, torch.where(similarity == -math.inf, -1, rows)


def _best_of(similarity: Tensor, k: int, start: int) -> Tensor:
    """Keys of the best `k` columns of each row of float32 [h, w], w a multiple of the strip.

    The best k columns lie in the k strips with the best maxima: of every strip that stands before another,
    one column does too. So most columns are looked at once, and never ranked.
    """
    height, width = similarity.shape
    strips = similarity.view(height, width // _STRIP, _STRIP)
    number = torch.arange(strips.shape[1], device=similarity.device)
    found = pack(strips.amax(dim=2), number).topk(min(k, len(number)), dim=1).values
    chosen = 0x7FFFFFFF - (found & 0x7FFFFFFF)
    inside = torch.arange(_STRIP, device=similarity.device)
    values = strips.gather(1, chosen[:, :, None].expand(-1, -1, _STRIP)).flatten(1)
    rows = (chosen[:, :, None] * _STRIP + inside).flatten(1) + start
    return pack(values, rows).topk(min(k, values.shape[1]), dim=1).values


def _better(similarity: Tensor, top: Tensor, start: int) -> Tensor:
    """Keys [h, most] of the columns that are more similar than the last of `top`, filled with the lowest key.

    A later row that is only as similar stands behind, so it is none. After a few chunks there are hardly any.
    """
    height, width = similarity.shape
    floor = unpack(top[:, -1:])[0]
    strips = similarity.view(height, width // _STRIP, _STRIP)
    query, strip = (strips.amax(dim=2) > floor).nonzero(as_tuple=True)
    values = strips[query, strip]
    hit, inside = (values > floor[query]).nonzero(as_tuple=True)
    query = query[hit]
    found = torch.bincount(query, minlength=height)
    place = torch.arange(len(query), device=query.device) - (found.cumsum(0) - found)[query]
    keys = top.new_full((height, int(found.max())), torch.iinfo(torch.int64).min)
    keys[query, place] = pack(values[hit, inside], strip[hit] * _STRIP + inside + start)
    return keys


def _check_keys(keys: Keys | None, queries: int, gallery: int) -> None:
    if keys is not None and (keys[0].shape != (queries,) or keys[1].shape != (gallery,)):
        found = [list(side.shape) for side in keys]
        raise ValueError(f"keys of shapes {found} for {queries} queries and a gallery of {gallery} rows")


def _rows_a_chunk(vectors: Tensor) -> int:
    return max(1, CHUNK_BYTES // (4 * vectors.shape[1]))


def up(number: int, multiple: int) -> int:
    """The number, rounded up to a multiple."""
    return -(-number // multiple) * multiple


@contextmanager
def _float32(device: torch.device) -> Iterator[None]:
    """Full precision, whatever autocast and `torch.set_float32_matmul_precision` say for training."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
