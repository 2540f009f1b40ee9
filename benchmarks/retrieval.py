"""Exact search beside faiss, and the memory that a gallery of a million takes.

search: the 10 nearest of 100,000 x 512 for 1,000 queries, `tapetum.metrics.neighbours.nearest` and faiss
IndexFlatIP in turns, both with all cores. Random unit vectors: the hardest to tell apart.
memory: the same search of 1,000,000 x 512 (2.05 GB of vectors) in a process of its own.
validation: all that a validation epoch computes, 2,000 queries against 16,000 x 512 of 12 classes; no goal.
sampler: a P x K batch beside a shuffled one, of 100,000 images in 1,000 classes, 16 x 4; no goal.

Goals: the same neighbours as faiss in at most 1.3 times its time; at most 4 GB for the million.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from statistics import median

import faiss
import numpy as np
import torch
from _timing import Goal, conclude, interleaved, quick, ratio, table, wall
from tapetum.datamodules.class_batches import ClassBatchSampler, ClassSampler
from tapetum.datamodules.samplers import EpochBatchSampler, EpochSampler, Shard
from tapetum.metrics.embedding_health import embedding_health
from tapetum.metrics.neighbours import nearest
from tapetum.metrics.retrieval import retrieval_metrics
from torch import Tensor

TIME_BAR, MEMORY_BAR = 1.3, 4.0
DIMENSIONS, K = 512, 10
OURS, FAISS = "tapetum, nearest", "faiss, IndexFlatIP"


def main() -> int:
    """Search in turns, then the memory of a child, then a validation epoch."""
    small = quick(__doc__)
    goals = [*_search(small), _memory(small)]
    _validation(small)
    _sampler(small)
    return conclude(goals, quick=small)


def _search(small: bool) -> list[Goal]:
    count, size, repeats = (50, 2_000, 1) if small else (1_000, 100_000, 7)
    queries, gallery = unit_vectors(count, 0), unit_vectors(size, 1)
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(gallery.numpy())
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found[OURS] = nearest(queries, gallery, K)[1]

    def theirs() -> None:
        found[FAISS] = torch.from_numpy(index.search(queries.numpy(), K)[1])

    one = queries[:1]
    alone = {OURS: partial(nearest, one, gallery, K), FAISS: partial(index.search, one.numpy(), K)}
    for work in (ours, theirs, *alone.values()):
        work()  # threads started, pages touched
    seconds = interleaved({OURS: partial(wall, ours), FAISS: partial(wall, theirs)}, repeats)
    single = interleaved({name: partial(wall, work) for name, work in alone.items()}, repeats)
    table(
        f"{count:,} queries against {size:,} x {DIMENSIONS}, the {K} nearest, median of {repeats}",
        ["", "seconds", "times faiss", "one query, ms", "times faiss"],
        [
            [
                name,
                f"{median(seconds[name]):.3f}",
                f"{ratio(seconds, name, FAISS):.2f}",
                f"{median(single[name]) * 1e3:.1f}",
                f"{ratio(single, name, FAISS):.2f}",
            ]
            for name in (OURS, FAISS)
        ],
    )
    differing = int((found[OURS] != found[FAISS]).any(dim=1).sum())
    return [
        Goal("queries whose neighbours differ from those of faiss", differing, "<=", 0, timed=False),
        Goal("search, times faiss", ratio(seconds, OURS, FAISS), "<=", TIME_BAR),
    ]


def _memory(small: bool) -> Goal:
    size = 20_000 if small else 1_000_000
    command = [sys.executable, __file__, "--search", str(size)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    measured: dict[str, float] = json.loads(done.stdout)
    vectors = size * DIMENSIONS * 4 / 1e9
    table(
        f"1,000 queries against {size:,} x {DIMENSIONS} in a process of its own",
        ["", ""],
        [
            ["the vectors, GB", f"{vectors:.2f}"],
            ["highest memory before the search, GB", f"{measured['before']:.2f}"],
            ["highest memory, GB", f"{measured['peak']:.2f}"],
            ["the search, seconds", f"{measured['seconds']:.2f}"],
        ],
    )
    return Goal(
        f"highest memory, {size:,} x {DIMENSIONS}", measured["peak"], "<=", MEMORY_BAR, "GB", timed=False
    )


def search(size: int) -> None:
    """What the process of its own does."""
    gallery = unit_vectors(size, 1)
    before = _peak()
    seconds = wall(partial(nearest, unit_vectors(1_000, 0), gallery, K))
    print(json.dumps({"before": before, "peak": _peak(), "seconds": seconds}))


def _validation(small: bool) -> None:
    count, size = (50, 400) if small else (2_000, 16_000)
    queries, gallery = unit_vectors(count, 0), unit_vectors(size, 1)
    labels = torch.arange(count) % 12, torch.arange(size) % 12
    work = {
        "retrieval_metrics": partial(retrieval_metrics, queries, labels[0], gallery, labels[1]),
        "embedding_health of the queries": partial(embedding_health, queries, labels[0]),
    }
    seconds = interleaved({name: partial(wall, one) for name, one in work.items()}, 1 if small else 3)
    table(
        f"validation: {count:,} queries against {size:,} x {DIMENSIONS}, 12 classes",
        ["", "seconds"],
        [[name, f"{median(times):.3f}"] for name, times in seconds.items()],
    )


def _sampler(small: bool) -> None:
    count, classes, batch = (4_000, 40, 64) if small else (100_000, 1_000, 64)
    rows = np.arange(count)
    shuffled = EpochBatchSampler(EpochSampler(rows, seed=0), batch, Shard())
    drawn = ClassBatchSampler(
        ClassSampler(rows, rows % classes, classes=16, images=4, seed=0), batch, Shard()
    )
    work = {"P x K": drawn, "shuffled": shuffled}
    seconds = interleaved(
        {name: partial(wall, partial(_exhaust, one)) for name, one in work.items()}, 1 if small else 5
    )
    table(
        f"an epoch of {len(drawn):,} batches of {batch} out of {count:,} images in {classes:,} classes",
        ["", "us a batch"],
        [[name, f"{median(times) / len(drawn) * 1e6:.0f}"] for name, times in seconds.items()],
    )


def _exhaust(batches: Iterable[object]) -> None:
    deque(batches, maxlen=0)


def unit_vectors(count: int, seed: int) -> Tensor:
    """Random float32 [count, 512] of length 1, made in place."""
    generator = torch.manual_seed(seed)
    vectors = torch.empty(count, DIMENSIONS)
    for part in torch.split(vectors, 10_000):
        part.normal_(generator=generator)
        part.div_(part.norm(dim=1, keepdim=True))
    return vectors


def _peak() -> float:
    """The most memory that this process has held, in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--search":
        search(int(sys.argv[2]))
    else:
        sys.exit(main())
