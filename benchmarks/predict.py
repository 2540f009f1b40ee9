"""How fast `tapetum predict` turns a folder into a table, beside its two halves alone; and in what memory.

Three things read the same 512-pixel JPEGs (as loader.py makes them) on two cores, with the default network:

loader: the detection loader with two threads, up to uint8 batches in memory.
network: npr_64 over those batches, in one thread or on the GPU.
predict: `Predictor.predict_files`, from the folder to the csv: finding, reading, predicting, writing.

Goals: predict comes within a tenth of loader and network one after the other, in images per second and in
processor time an image. It may be faster on the clock, since it reads while the network runs; the slower half
alone is the limit there. And over a list of one image repeated 100,000 times memory grows by at most 16 MB in
the second half.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from _timing import Goal, conclude, console, cpu, interleaved, quick, ratio, table, wall
from loader import CORES, SIDE, WORKERS, make_images
from PIL import Image
from tapetum.commands.predict import from_weights
from tapetum.datamodules.detection import DetectionDataModule
from tapetum.datamodules.loader import ImageLoader
from tapetum.images.augment import Augment
from tapetum.indexes.build import build
from tapetum.indexes.folder import index as folder
from tapetum.inference.detect import detect
from tapetum.inference.predictor import Predictor

RATE_BAR, CPU_BAR, GROWTH_BAR = 0.9, 1.1, 16
SUM = "loader, then network"


def main() -> int:
    """Measure the three in turns, then memory."""
    small = quick(__doc__)
    torch.set_num_threads(1)  # as in loader.py: two threads of the loader fill two cores
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    count, repeats, listed = (64, 1, 2000) if small else (512, 7, 100_000)
    with TemporaryDirectory() as name:
        goals = [*_rates(Path(name), count, repeats), _growth(Path(name), listed)]
    return conclude(goals, quick=small)


def _rates(place: Path, count: int, repeats: int) -> list[Goal]:
    images = place / "images"
    make_images(images, count)
    predictor = from_weights(["model=npr_64", "model.fit=false"])
    loader = _loader(images, predictor)
    batches = list(loader)
    work: dict[str, Callable[[], object]] = {
        "loader": lambda: _read(loader),
        "network": lambda: detect(predictor.module, batches, device=predictor.device),
        "predict": lambda: predictor.predict_files(images, place / "out.csv", workers=WORKERS),
    }
    for one in work.values():
        one()  # files into the page cache, kernels chosen
    measured = interleaved({name: _timed(one) for name, one in work.items()}, repeats)
    clock = {name: [times[0] for times in runs] for name, runs in measured.items()}
    used = {name: [times[1] for times in runs] for name, runs in measured.items()}
    for times in (clock, used):
        times[SUM] = [sum(pair) for pair in zip(times["loader"], times["network"], strict=True)]
    clock["the slower half"] = [max(pair) for pair in zip(clock["loader"], clock["network"], strict=True)]
    table(
        f"{count} JPEGs of {SIDE}x{SIDE}, npr_64 on {predictor.device}, median of {repeats}",
        ["", "images/s", "predict's, times this", "CPU µs an image", "predict's, share of this"],
        [
            [
                name,
                f"{count / median(clock[name]):.0f}",
                f"{ratio(clock, name, 'predict'):.2f}",
                f"{median(used[name]) / count * 1e6:.0f}" if name in used else "",
                f"{ratio(used, 'predict', name):.2f}" if name in used else "",
            ]
            for name in clock
        ],
    )
    return [
        Goal(f"predict, images/s, times those of {SUM}", ratio(clock, SUM, "predict"), ">=", RATE_BAR),
        Goal(f"predict, CPU, share of {SUM}", ratio(used, "predict", SUM), "<=", CPU_BAR),
    ]


def _timed(work: Callable[[], object]) -> Callable[[], tuple[float, float]]:
    """(seconds on the clock, seconds of processor time)."""

    def run() -> tuple[float, float]:
        clock = 0.0

        def timed() -> None:
            nonlocal clock
            clock = wall(work)

        used = cpu(timed)
        return clock, used

    return run


def _loader(images: Path, predictor: Predictor) -> ImageLoader:
    data = DetectionDataModule(
        build(folder, root=images, seed=0, cache=None, val_fraction=0.0, name="benchmark"),
        predictor.module.input_spec,  # type: ignore[arg-type]
        augment=Augment(),
        seed=0,
        cache_dir=Path("unused"),
        eval_batch_size=predictor.config["data"]["eval_batch_size"],
        num_workers=WORKERS,
    )
    return data.eval_dataloader("train")


def _read(loader: ImageLoader) -> None:
    """Each batch is dropped before the next one comes."""
    for _ in loader:
        pass


def _growth(place: Path, listed: int) -> Goal:
    """Memory at the half and at the end of a long list."""
    image = place / "one.jpg"
    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.manual_seed(0))
    Image.fromarray(pixels.numpy()).save(image)
    names = place / "list.txt"
    names.write_text(f"{image}\n" * listed)
    network = ["model=timm_backbone", "model.net.name=test_resnet.r160_in1k", "model.net.pretrained=false"]
    predictor = from_weights([*network, "model.net.size=32", "model.fit=false"])
    seen: list[tuple[int, float]] = []
    predictor.predict_files(
        names, place / "list.csv", progress=lambda done, _: seen.append((done, _memory()))
    )
    half, end = next(memory for done, memory in seen if done >= listed // 2), seen[-1][1]
    console.print(
        f"a list of {listed:,} times one image, a tiny network: {half:.1f} MB at the half, {end:.1f} MB at "
        f"the end, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.1f} MB"
    )
    return Goal("memory over the second half of a list", end - half, "<=", GROWTH_BAR, "MB", timed=False)


def _memory() -> float:
    """Resident memory of this process in MB; the peak where there is no /proc to ask."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    sys.exit(main())
