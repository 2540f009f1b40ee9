"""What several processes and several jobs cost beside what they do.

processes: `tapetum train` of small_resnet on the embedded set with one process and with two, one thread each,
the batch of each the same: images per second over the epochs behind the first, and seconds from the command
to the end of the first step. communication: the same network under DDP on two processes, a step with and
without the exchange of gradients.

sweep: 8 tiny jobs one after the other, the same forked, two at a time, and through submitit on this
machine. A job's overhead is its seconds less those of the same work in a process that has done it once
before, so that its libraries are imported. Goal: at most what Python takes to import those libraries, from
its start until they are there, and one second.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from _timing import Goal, conclude, quick, table

ONE, TWO = "one process", "two processes"
PLACES = {
    "one after the other": ["launcher=sequential"],
    "forked one after the other": ["launcher=sequential", "launcher.preload=true"],
    "two at a time": ["launcher=local_pool"],
    "submitit": ["launcher=submitit_local"],
}
IMPORTS = """
import time
from importlib import import_module
from tapetum.launch.libraries import EVERY_JOB
for module in EVERY_JOB:
    import_module(module)
print("IMPORTED", time.time())
"""
WARM = """
import json, sys, time
from tapetum.cli import main
for _ in range(2):
    began = time.perf_counter()
    assert main(["train", *sys.argv[1:]]) == 0
    print("WARM", time.perf_counter() - began)
"""
FIRST = """
import time
from pathlib import Path
from lightning.pytorch.callbacks import Callback
class FirstStep(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        file = Path(trainer.default_root_dir) / "first_step.txt"
        if trainer.is_global_zero and not file.exists():
            file.write_text(str(time.time()))
"""
STEP = """
import os, time
from statistics import median
import torch
from torch.nn.parallel import DistributedDataParallel
from tapetum.detectors.small_resnet import SmallResNet
torch.distributed.init_process_group("gloo")
torch.manual_seed(0)
net = DistributedDataParallel(SmallResNet())
images = torch.randint(0, 256, (int(os.environ["BATCH"]), 3, 64, 64), dtype=torch.uint8)
def step(exchange):
    began = time.perf_counter()
    if exchange:
        net(images).mean().backward()
    else:
        with net.no_sync():
            net(images).mean().backward()
    return time.perf_counter() - began
rounds = [(step(True), step(False)) for _ in range(int(os.environ["ROUNDS"]))][2:]
if os.environ["RANK"] == "0":
    print("SHARE", 1 - median(alone / both for both, alone in rounds))
"""


def main() -> int:
    """Tables of processes and of places, and the goal of a job's overhead."""
    small = quick(__doc__)
    os.environ["OMP_NUM_THREADS"] = "1"
    with TemporaryDirectory() as folder:
        _processes(Path(folder), small)
        goals = _sweeps(Path(folder), small)
    return conclude(goals, quick=small)


def _words(folder: Path, name: str, *, train: int, epochs: int) -> list[str]:
    return [
        *("model=small_resnet", "model.net.size=64", "data.num_workers=0", f"data.index.train={train}"),
        *("data.index.test=32", "data.val_fraction=0.1", f"trainer.max_epochs={epochs}"),
        *(f"paths.outputs={folder / name}", f"paths.cache={folder / 'cache'}"),
    ]


def _processes(folder: Path, small: bool) -> None:
    """Two real trainings, and the share of a step that the processes spend on each other."""
    (folder / "first_step.py").write_text(FIRST)
    rows = []
    for name, accelerator in ((ONE, "cpu"), (TWO, "cpu_ddp")):
        words = _words(folder, accelerator, train=64 if small else 1024, epochs=2 if small else 4)
        environment = os.environ | {"PYTHONPATH": str(folder)}
        own = ["allow_targets=[first_step]", "+callbacks.first._target_=first_step.FirstStep"]
        began = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "tapetum", "train", *words, *own, f"accelerator={accelerator}"],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr)
        (run,) = (file.parent for file in (folder / accelerator).glob("*/*/*/metrics.json"))
        with (run / "metrics.csv").open(newline="") as file:
            speeds = [float(row["speed/images_per_second"]) for row in csv.DictReader(file) if
                      row.get("speed/images_per_second")]  # fmt: skip
        first = float((run / "first_step.txt").read_text()) - began
        rows.append((name, median(speeds[1:] or speeds), first))
    share = _exchange(small)
    table(
        "processes, one thread each",
        ["", "images/s", "times one process", "command to first step, s", "communication"],
        [
            [
                name,
                f"{speed:.0f}",
                f"{speed / rows[0][1]:.2f}",
                f"{first:.1f}",
                f"{share:.0%} of a step" if name == TWO else "",
            ]
            for name, speed, first in rows
        ],
    )


def _exchange(small: bool) -> float:
    """The share of a step of two processes that exchanging gradients takes."""
    environment = os.environ | {"ROUNDS": "4" if small else "20", "BATCH": "4" if small else "32"}
    with TemporaryDirectory() as folder:
        script = Path(folder) / "step.py"
        script.write_text(STEP)
        two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        done = subprocess.run(
            [sys.executable, *two, str(script)], env=environment, capture_output=True, text=True, check=True
        )
    return float(next(line for line in done.stdout.splitlines() if line.startswith("SHARE")).split()[1])


def _sweeps(folder: Path, small: bool) -> list[Goal]:
    """The same jobs at three places, and what a job costs beyond its work."""
    count = 1 if small else 8
    words = [*_words(folder, "warm", train=64, epochs=1), "accelerator=cpu"]
    done = subprocess.run([sys.executable, "-c", WARM, *words], capture_output=True, text=True, check=True)
    work = float([line for line in done.stdout.splitlines() if line.startswith("WARM")][-1].split()[1])
    imports = [_import_s()]
    rows, overhead = [], {}
    for name, launcher in PLACES.items():
        place = name.replace(" ", "-")
        words = [*_words(folder, place, train=64, epochs=1), "accelerator=cpu", *launcher]
        seeds = ",".join(str(number) for number in range(count))
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "tapetum", "train", "-m", *words, f"seed={seeds}"],
            capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(done.stderr)
        (jobs,) = (folder / place).glob("sweeps/*/*/jobs.csv")
        with jobs.open(newline="") as file:
            each = [float(row["seconds"]) for row in csv.DictReader(file)]
        overhead[name] = median(each) - work
        rows.append([name, f"{seconds:.1f}", f"{median(each):.1f}", f"{overhead[name]:.1f}"])
        imports.append(_import_s())  # beside every place, since a machine's pace changes
    table(
        f"a sweep of {count} jobs; the work of one {work:.1f} s, its imports {median(imports):.1f} s",
        ["", "sweep, s", "a job, s", "overhead of a job, s"],
        rows,
    )
    bar = round(median(imports) + 1.0, 2)
    return [
        Goal(
            "a job's overhead beyond its work, one after the other",
            overhead["one after the other"],
            "<=",
            bar,
            "s",
        )
    ]


def _import_s() -> float:
    """Seconds from a process's start until what every job imports is there."""
    began = time.time()
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    there = next(line for line in done.stdout.splitlines() if line.startswith("IMPORTED"))
    return float(there.split()[1]) - began


if __name__ == "__main__":
    sys.exit(main())
