"""A million images: how long listing takes, how long a second start, and how much memory a row costs.

Twice: as a parquet manifest (path, label, split, generator), whose files are hard links to one image, 1000 to
a folder, and as the tree of GenImage's archives, whose files are empty, since listing opens none. A million
images would take longer to make than to index. Files are made in memory where the system has /dev/shm. Every
start is a process of its own, so that memory is what the operating system gave it.

Goals: a second start in under two seconds, and less than 200 bytes of memory a row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _timing import Goal, conclude, quick, table
from PIL import Image

SECONDS_BAR, BYTES_BAR = 2.0, 200
A_FOLDER = 1000
GENERATORS = (
    "ADM", "BigGAN", "Midjourney", "VQDM", "glide", "wukong",
    "stable_diffusion_v_1_4", "stable_diffusion_v_1_5"
)  # fmt: skip


def main() -> int:
    """Make the rows of each kind, build the index once, and start again several times."""
    small = quick(__doc__)
    return conclude([goal for kind in MAKERS for goal in measure(kind, small=small)], quick=small)


def measure(kind: str, *, small: bool) -> list[Goal]:
    """One kind of data: its table, printed, and how it stands to the goals."""
    rows, starts = (5_000, 1) if small else (1_000_000, 3)
    with TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        root = Path(name)
        began = time.perf_counter()
        MAKERS[kind](root, rows)
        made = time.perf_counter() - began
        first = _start(root, kind)
        later = [_start(root, kind) for _ in range(starts)]
        stored = sum(file.stat().st_size for file in root.glob("cache/**/*.parquet"))
    seconds = median(run["seconds"] for run in later)
    used, peak = (median(run[name] for run in later) for name in ("cpu", "peak"))
    grown = median(run["bytes"] for run in later) / rows
    table(
        f"{kind}: {rows:,} rows",
        ["", "wall s", "CPU s", "memory, bytes a row"],
        [
            ["files made (not ours)", f"{made:.1f}", "", ""],
            ["first start: listed, checked, kept", f"{first['seconds']:.2f}", f"{first['cpu']:.2f}",
             f"{first['bytes'] / rows:.0f} (highest {first['peak'] / rows:.0f})"],
            [f"second start, median of {starts}", f"{seconds:.2f}", f"{used:.2f}",
             f"{grown:.0f} (highest {peak / rows:.0f})"],
            ["first batch of 32 keys after it", f"{median(run['batch'] for run in later):.3f}", "", ""],
            [f"kept on the disk: {stored / rows:.1f} bytes a row", "", "", ""],
        ],
    )  # fmt: skip
    return [
        Goal(f"{kind}: second start", seconds, "<=", SECONDS_BAR, "s"),
        Goal(f"{kind}: memory after a second start", grown, "<=", BYTES_BAR, "bytes a row", timed=small),
    ]


def make_genimage(root: Path, rows: int) -> None:
    """`<generator>/imagenet_ai_<generator>/train|val/ai|nature/`, a twentieth of it in val."""
    for number, generator in enumerate(GENERATORS):
        for split in ("train", "val"):
            for kind, name in (("ai", "{:03}_x_{:05}.png"), ("nature", "n{:08}_{:05}.JPEG")):
                folder = root / f"genimage/{generator}/imagenet_ai_{generator}/{split}/{kind}"
                folder.mkdir(parents=True)
                each = rows // len(GENERATORS) // 2
                for image in range(each // 20 if split == "val" else each - each // 20):
                    os.close(os.open(f"{folder}/{name.format(number, image)}", os.O_CREAT | os.O_WRONLY))


def make_manifest(root: Path, rows: int) -> None:
    """manifest.parquet and the files that it names, below root."""
    first = root / "image.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(first)
    names: list[str] = []
    for start in range(0, rows, A_FOLDER):
        folder = root / f"images/{start // A_FOLDER:05}"
        folder.mkdir(parents=True)
        for number in range(start, min(start + A_FOLDER, rows)):
            name = f"{folder}/image_{number:08}.png"
            _link(first, name)
            names.append(name[len(str(root)) + 1 :])
    number = np.arange(rows)
    generator = np.array(GENERATORS)[number // 2 % len(GENERATORS)]
    columns = {
        "path": names,
        "label": pa.array((number % 2).astype(str)),
        "split": pa.array(np.where(number % 10 == 0, "test", "train")),
        "generator": pa.array(generator, mask=number % 2 == 0),
    }
    pq.write_table(pa.table(columns), root / "manifest.parquet")


def _link(first: Path, name: str) -> None:
    """A hard link; file systems allow only so many to one file, so then the next file to link to is begun."""
    global _source
    try:
        os.link(_source or first, name)
    except OSError:
        _source = name
        Path(name).write_bytes(first.read_bytes())


_source: str = ""


MAKERS = {"manifest": make_manifest, "genimage": make_genimage}
_MEMORY = Path("/dev/shm")


def _start(root: Path, kind: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--start", kind, str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def start(root: Path, kind: str) -> None:
    """What a training process does before its first batch, measured from behind the imports."""
    import torch  # noqa: F401 - in memory before, as in training
    from tapetum.datamodules.detection import labels
    from tapetum.datamodules.samplers import EpochBatchSampler, EpochSampler, Shard
    from tapetum.indexes import genimage, manifest
    from tapetum.indexes.build import build

    _tiny_parquet(root)  # what pyarrow loads on first use is not the index's
    before, clock, cpu = _resident(), time.perf_counter(), time.process_time()
    layouts = {"manifest": partial(manifest.index, file="manifest.parquet"), "genimage": genimage.index}
    index = build(
        layouts[kind],
        root=root if kind == "manifest" else root / kind,
        seed=0,
        cache=root / "cache",
        name="benchmark",
    )
    seconds, used = time.perf_counter() - clock, time.process_time() - cpu
    grown, peak = _resident() - before, _peak() - before
    clock = time.perf_counter()
    labels(index)
    keys = next(iter(EpochBatchSampler(EpochSampler(index.rows("train"), seed=0), 32, Shard())))
    for _, row in keys:
        index.location(row)
    batch = time.perf_counter() - clock
    print(json.dumps({"seconds": seconds, "cpu": used, "bytes": grown, "peak": peak, "batch": batch}))


def _tiny_parquet(root: Path) -> None:
    file = root / "tiny.parquet"
    pq.write_table(pa.table({"a": ["b"]}), file)
    pq.read_table(file)


def _resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    """Bytes of memory that it held at most."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--start":
        start(Path(sys.argv[3]), sys.argv[2])
    else:
        sys.exit(main())
