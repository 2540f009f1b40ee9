"""How fast images become batches: our pipeline beside the usual one, and the cache of decoded images.

Both read the same 512-pixel JPEGs (1/f textures, quality 90, 4:2:0) with two worker processes on two cores
and end with normalised float32 [32, 3, 224, 224] in the main process, which has one thread:

template: ImageFolder, Pillow, torchvision's Resize(256), CenterCrop(224), ToTensor, Normalize in the worker.
tapetum: DetectionDataModule (simplejpeg, antialiased uint8 resize, uint8 batches), then `Normalize`.

Goals: at least 1.8 times the template's images per second, no pixel further off than 1 of 255; and an image
of the decoded cache at least 100 times as fast as decoding and resizing it with Pillow.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from _timing import Goal, conclude, interleaved, quick, ratio, table, wall
from numpy.typing import NDArray
from PIL import Image
from tapetum.datamodules.dataset import ImageDataset
from tapetum.datamodules.decoded import decoded_cache
from tapetum.datamodules.detection import DetectionDataModule
from tapetum.datamodules.loader import ImageLoader
from tapetum.datamodules.reading import ImageReader
from tapetum.images.augment import Augment
from tapetum.images.geometry import InputSpec
from tapetum.images.normalize import IMAGENET, Normalize
from tapetum.indexes.build import build
from tapetum.indexes.folder import index as folder
from tapetum.indexes.table import Index
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

SIDE, QUALITY, ALPHA = 512, 90, 1.15
BATCH, WORKERS, CORES = 32, 2, 2
LOADER_BAR, PIXEL_BAR, CACHE_BAR = 1.8, 1, 100
SPEC = InputSpec(size=(256, 256), resize="shortest", crop=(224, 224))
SQUASHED = InputSpec(size=(224, 224), resize="squash")


def main() -> int:
    """Make the images, measure both pipelines in turns, compare their pixels, then measure the cache."""
    small = quick(__doc__)
    torch.set_num_threads(1)  # two workers fill two cores; a second thread here would only wait for its turn
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # the workers inherit it
    count, repeats = (64, 1) if small else (768, 9)
    with TemporaryDirectory() as name:
        root = Path(name) / "images"
        size = make_images(root, count)
        index = build(folder, root=root, seed=0, cache=None, val_fraction=0.0, name="benchmark")
        goals = [*_loaders(root, index, count, size, repeats), _cache(index, Path(name), 8 if small else 512)]
    return conclude(goals, quick=small)


def make_images(root: Path, count: int) -> float:
    """Half of `count` JPEGs in train/real, half in train/generated; their mean size in bytes."""
    rng = np.random.default_rng(0)
    textures = [texture(rng) for _ in range(min(count, 24))]
    written = 0
    for number in range(count):
        shift = tuple(rng.integers(SIDE, size=2))
        pixels = np.roll(textures[number % len(textures)], shift, axis=(0, 1))
        file = root / "train" / ("real", "generated")[number % 2] / f"{number:04}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        encoded = BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=QUALITY, subsampling="4:2:0")
        written += file.write_bytes(encoded.getvalue())
    return written / count


def texture(rng: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 [512, 512, 3]: noise whose amplitude falls as 1 / frequency ** 1.15, as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.normal(size=(SIDE, SIDE, 3)), axes=(0, 1)) / frequency[..., None] ** ALPHA
    values = np.fft.irfft2(spectrum, s=(SIDE, SIDE), axes=(0, 1))
    values = (values - values.mean()) / values.std()
    return np.clip(128 + 48 * values, 0, 255).round().astype(np.uint8)


def _loaders(root: Path, index: Index, count: int, size: float, repeats: int) -> list[Goal]:
    ours, usual = _ours(index), _template(root)
    normalize = Normalize(*IMAGENET)
    loaders: dict[str, tuple[DataLoader[Any], Callable[[Any], object]]] = {
        "template": (usual, lambda batch: batch[0]),
        "tapetum": (ours, lambda batch: normalize(batch["images"])),
        "tapetum, uint8 left as it is": (ours, lambda batch: batch["images"]),
    }
    for loader in (usual, ours):
        _read(loader, len)  # starts the workers, which both keep
    measured = interleaved({name: _epoch(*loader) for name, loader in loaders.items()}, repeats)
    seconds = {name: [epoch[0] for epoch in epochs] for name, epochs in measured.items()}
    used = {name: [epoch[1] for epoch in epochs] for name, epochs in measured.items()}
    table(
        f"{count} JPEGs of {SIDE}x{SIDE}, {size / 1000:.0f} kB each, {WORKERS} workers, median of {repeats}",
        ["pipeline", "images/s", "times the template", "CPU µs an image", "template's CPU / this"],
        [
            [
                name,
                f"{count / median(seconds[name]):.0f}",
                f"{ratio(seconds, 'template', name):.2f}",
                f"{median(used[name]) / count * 1e6:.0f}",
                f"{ratio(used, 'template', name):.2f}",
            ]
            for name in loaders
        ],
    )
    return [
        Goal("images/s, times the template", ratio(seconds, "template", "tapetum"), ">=", LOADER_BAR),
        Goal(
            "largest pixel difference",
            _difference(usual, ours, index),
            "<=",
            PIXEL_BAR,
            "of 255",
            timed=False,
        ),
    ]


def _epoch(loader: DataLoader[Any], finish: Callable[[Any], object]) -> Callable[[], tuple[float, float]]:
    """One epoch: (seconds on the clock, seconds of processor time here and in the workers)."""

    def run() -> tuple[float, float]:
        used, began = time.process_time() + _workers_cpu(loader), time.perf_counter()
        _read(loader, finish)
        return time.perf_counter() - began, time.process_time() + _workers_cpu(loader) - used

    return run


def _read(loader: Iterable[Any], finish: Callable[[Any], object]) -> None:
    """Each batch is dropped before the next one comes, as a training loop does."""
    for batch in loader:
        finish(batch)


def _workers_cpu(loader: Any) -> float:
    """Seconds of processor time of a loader's workers so far; 0 where there is no /proc to ask."""
    total = 0.0
    for worker in getattr(loader._iterator, "_workers", []):  # none where threads load
        status = Path(f"/proc/{worker.pid}/stat")
        if status.is_file():
            user, system = status.read_text().rsplit(")", 1)[1].split()[11:13]
            total += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return total


def _ours(index: Index) -> ImageLoader:
    data = DetectionDataModule(
        index,
        SPEC,
        augment=Augment(),
        seed=0,
        cache_dir=Path("unused"),
        eval_batch_size=BATCH,
        num_workers=WORKERS,
    )
    return data.eval_dataloader("train")


def _template(root: Path) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    steps = [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(*IMAGENET),
    ]
    images = ImageFolder(str(root / "train"), transforms.Compose(steps))
    return DataLoader(images, BATCH, num_workers=WORKERS, persistent_workers=True)


def _difference(
    usual: DataLoader[tuple[torch.Tensor, torch.Tensor]], ours: ImageLoader, index: Index
) -> float:
    """The largest difference between the two pipelines' pixels, in levels of 255, image by image."""
    images = usual.dataset
    assert isinstance(images, ImageFolder)
    names = [Path(file).relative_to(Path(images.root).parent).as_posix() for file, _ in images.samples]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    expected = torch.cat([((batch * std + mean) * 255).round().to(torch.uint8) for batch, _ in usual])
    found = {
        index.location(int(row))[1]: image
        for batch in ours
        for row, image in zip(batch["index"], batch["images"], strict=True)
    }
    aligned = torch.stack([found[name] for name in names])
    return float((aligned.int() - expected.int()).abs().max())


def _cache(index: Index, cache: Path, reads: int) -> Goal:
    """Images of one size by Pillow, by us, and out of memory-mapped uint8; random order."""
    index_rows = np.random.default_rng(1).permutation(np.resize(np.arange(len(index)), reads))
    decoded = decoded_cache(ImageReader(index), SQUASHED, Augment(), cache=cache)
    plain, kept = (_dataset(index, source) for source in (None, decoded))
    resize = transforms.Resize((224, 224))

    def pillow(row: int) -> object:
        root, path = index.location(row)
        with Image.open(root / path) as image:
            return transforms.functional.pil_to_tensor(resize(image.convert("RGB")))

    variants: dict[str, Callable[[int], object]] = {
        "decode and resize, Pillow": pillow,
        "decode and resize, tapetum": plain.resized,
        "decoded cache": kept.resized,
    }
    _each(kept.resized, index_rows)
    times = interleaved(
        {name: _timed(lambda run=run: _each(run, index_rows)) for name, run in variants.items()}, 5
    )
    table(
        f"one image of {SIDE}x{SIDE} to uint8 [3, 224, 224], one thread, median of 5",
        ["source", "µs an image", "times faster than Pillow", "times faster than our decoding"],
        [
            [
                name,
                f"{median(times[name]) / reads * 1e6:.1f}",
                f"{ratio(times, 'decode and resize, Pillow', name):.1f}",
                f"{ratio(times, 'decode and resize, tapetum', name):.1f}",
            ]
            for name in variants
        ],
    )
    faster = ratio(times, "decode and resize, Pillow", "decoded cache")
    return Goal("decoded cache, times faster than one decode (Pillow)", faster, ">=", CACHE_BAR)


def _dataset(index: Index, decoded: object) -> ImageDataset:
    return ImageDataset(ImageReader(index), SQUASHED, Augment(), seed=0, columns={}, decoded=decoded)  # type: ignore[arg-type]


def _each(run: Callable[[int], object], rows: NDArray[np.int64]) -> None:
    for row in rows:
        run(int(row))


def _timed(work: Callable[[], object]) -> Callable[[], float]:
    return lambda: wall(work)


if __name__ == "__main__":
    sys.exit(main())
