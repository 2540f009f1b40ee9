"""Every benchmark runs, on little data, and prints what it measured beside its goals; no time is judged."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

TABLES = {
    "vlm": ["kept features", "scored in one pass", "language model only", "answers of several tokens"],
    "captioning": ["kept features", "logits at labels", "in one batch", "flickr8k: left out"],
    "frozen": ["features computed", "features read", "LoRA, last 4 blocks", "memory, MB"],
    "gpu": ["frozen features", "LoRA on all blocks", "full fine-tuning", "share of 4,876"],
    "index": ["5,000 rows", "second start", "memory after a second start"],
    "loader": ["64 JPEGs of 512x512", "template", "decoded cache", "largest pixel difference"],
    "overhead": ["plain loop", "Lightning, barebones", "tapetum", "CPU a step over barebones"],
    "predict": ["64 JPEGs of 512x512", "loader, then network", "CPU", "memory over the second half"],
    "retrieval": [
        "50 queries against 2,000 x 512",
        "faiss, IndexFlatIP",
        "highest memory",
        "differ from those of",
    ],
    "scaling": ["two processes", "communication", "two at a time", "submitit", "overhead beyond its work"],
    "startup": ["import lightning", "tapetum --help", "tapetum train optimizer.lrr=1", "tapetum predict RUN"],
}


@pytest.mark.parametrize("name", TABLES)
def test_benchmark_prints_its_figures_beside_their_goals(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--quick"], cwd=tmp_path, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    for expected in (*TABLES[name], "goals", "not judged", "load average"):
        assert expected in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would run")
def test_the_benchmark_for_a_gpu_says_that_it_did_not_run() -> None:
    done = subprocess.run([sys.executable, BENCHMARKS / "gpu.py"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not run: there is no CUDA GPU")


def test_every_benchmark_is_tested() -> None:
    files = {file.stem for file in BENCHMARKS.glob("*.py")} - {"_timing"}

    assert files == TABLES.keys()


@pytest.mark.parametrize(("value", "exit_code"), [(0.9, 0), (1.1, 1)])
def test_a_missed_figure_fails_a_whole_run_but_not_a_quick_one(value: float, exit_code: int) -> None:
    assert _conclude(value, quick=False) == exit_code
    assert _conclude(value, quick=True) == 0


def test_what_does_not_depend_on_time_is_judged_in_a_quick_run_too() -> None:
    assert _conclude(1.1, quick=True, timed=False) == 1


def _conclude(value: float, **options: bool) -> int:
    quick, timed = options["quick"], options.get("timed", True)
    code = (
        "import sys; from _timing import Goal, conclude; "
        f"sys.exit(conclude([Goal('figure', {value}, '<=', 1.0, timed={timed})], quick={quick}))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True).returncode
