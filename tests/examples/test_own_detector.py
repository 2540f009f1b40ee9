"""The example package, installed as a user would and used outside of the checkout."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from tapetum.errors import DataError

from layouts import make_image

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_detector"
WORDS = (
    "allow_targets=[own_detector]",
    "data=folder", "data.index._target_=own_detector.index.twins",
    "data.index.generated=[flux,midjourney]", "data.val_fraction=0.25", "data.batch_size=8",
    "model.net._target_=own_detector.network.HighPass", "model.net.size=32", "model.net.width=4",
    "model.loss._target_=own_detector.loss.Focal", "model.loss.gamma=1.5",
    "model.metrics.found._target_=own_detector.metric.recall_at_false_alarms",
    "model.metrics.found._partial_=true", "model.metrics.found.rate=0.2",
    "model.metrics.kappa._target_=torchmetrics.classification.BinaryCohenKappa",
    "train.monitor=val/found", "trainer.max_epochs=2", "accelerator=cpu", "optimizer.lr=0.01",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder far from the checkout: the installed wheel in `site`, photographs and twins in `twins`."""
    place = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(EXAMPLE, place / "source")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place / "dist")]
    done = subprocess.run([*build, str(place / "source")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (place / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place / "site")
    shutil.rmtree(place / "source")
    for scene in range(24):
        for number, name in enumerate(("real", "flux", "midjourney")):
            file = place / "twins" / f"album {scene % 2}" / f"{scene:02d}_{name}.png"
            make_image(file, generated=number > 0, seed=(scene, number))
    return place


@pytest.fixture(scope="module", autouse=True)
def importable(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place / "site"))
        yield


def tapetum(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(place / "site")}
    return subprocess.run(
        [sys.executable, "-m", "tapetum", *words],
        cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(place) -> Path:
    done = tapetum(place, "train", *WORDS, f"data.root={place / 'twins'}", "paths.outputs=out")
    assert done.returncode == 0, done.stdout + done.stderr
    (config,) = (place / "out").glob("detection/*/*/config.yaml")
    return config.parent


def found_at(rate: float, table) -> float:
    """Brute force: the best recall over all thresholds that accuse no more real images than allowed."""
    logits, labels = table["logit"].to_numpy(), table["label"].to_numpy()
    fakes, reals = logits[labels == 1], logits[labels == 0]
    cuts = [-np.inf, *np.unique(logits)]
    return max(np.mean(fakes > cut) for cut in cuts if np.mean(reals > cut) <= rate)


def test_figures_of_ones_own_stand_beside_the_built_in_ones(run):
    metrics = json.loads((run / "metrics.json").read_text())
    val = pq.read_table(run / "predictions" / "val.parquet")
    assert metrics["val/found"] == pytest.approx(found_at(0.2, val))
    assert metrics["best/val/found"] == pytest.approx(metrics["val/found"])
    assert "val/kappa" in metrics
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val/found", "val/kappa"} <= set(header)
    assert "found" in (run / "report" / "index.html").read_text()
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    assert (best["monitor"], best["monitored"]) == ("val/found", pytest.approx(metrics["val/found"]))


def test_scenes_never_part_and_the_generators_are_named(run):
    table = pq.read_table(run / "predictions" / "val.parquet")
    scenes = [path.rpartition("_")[0] for path in table["path"].to_pylist()]
    assert len(scenes) == 3 * len(set(scenes)) > 0
    assert set(table["generator"].to_pylist()) == {None, "flux", "midjourney"}


def test_a_run_of_own_parts_is_evaluated_and_loaded_when_they_are_allowed_again(place, run):
    words = ("evaluate", str(run), "data=folder", f"data.root={place / 'twins'}", *WORDS[2:4])
    refused = tapetum(place, *words)
    assert refused.returncode == 2
    assert "if you trust own_detector, type allow_targets=[own_detector]" in refused.stderr
    done = tapetum(place, *words, WORDS[0])
    assert done.returncode == 0, done.stdout + done.stderr
    (evaluated,) = (run / "evaluations").iterdir()
    metrics = json.loads((evaluated / "metrics.json").read_text())
    table = pq.read_table(evaluated / "predictions" / "test.parquet")
    assert len(table) == 72
    assert metrics["test/found"] == pytest.approx(found_at(0.2, table))


def test_all_that_is_wrong_is_said_before_anything_runs(place):
    done = tapetum(
        place, "check", *WORDS, f"data.root={place / 'twins'}", "model.loss.gama=1", "model.net.widht=3",
        "model.metrics.found.rat=1", "train.monitor=val/fond",
    )  # fmt: skip
    assert done.returncode == 2
    for message in (
        "did you mean model.loss.gamma?",
        "did you mean model.net.width?",
        "model.metrics.found.rate?",
    ):
        assert message in done.stderr, done.stderr


# -- the parts themselves ------------------------------------------------------------------------------------


def test_the_index_refuses_a_name_that_says_nothing(place, tmp_path):
    from own_detector.index import twins

    make_image(tmp_path / "a_real.png", generated=False)
    make_image(tmp_path / "a_dalle.png", generated=True)
    with pytest.raises(DataError, match=r"a_dalle.png ends in _dalle, and known are _real, _generated"):
        twins(tmp_path)
    table = twins(tmp_path, generated=["dalle"]).table
    assert sorted(table.to_pylist(), key=lambda row: row["label"]) == [
        {"path": "a_real.png", "group": "a", "label": 0, "generator": None},
        {"path": "a_dalle.png", "group": "a", "label": 1, "generator": "dalle"},
    ]


def test_the_loss_is_cross_entropy_without_focus_and_its_closed_form_with():
    from own_detector.loss import Focal

    logits, targets = torch.tensor([1.5, -0.3, 0.2]), torch.tensor([1.0, 1.0, 0.0])
    plain = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(Focal(gamma=0)(logits, targets), plain)
    total = 0.0
    for z, y in zip(logits.tolist(), targets.tolist(), strict=True):
        p = 1 / (1 + math.exp(-z if y else z))
        total -= (0.3 if y else 0.7) * (1 - p) ** 2 * math.log(p)
    assert float(Focal(gamma=2, alpha=0.3)(logits, targets)) == pytest.approx(total / 3)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.34, 1.0])
def test_the_metric_is_the_best_threshold_found_by_brute_force(rate):
    from own_detector.metric import recall_at_false_alarms

    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    logits = np.round(random.normal(labels, 1.0), 1)
    found = recall_at_false_alarms(torch.tensor(logits).float(), torch.tensor(labels), rate=rate)
    fakes, reals = logits[labels == 1], logits[labels == 0]
    cuts = [-np.inf, *np.unique(logits)]
    assert float(found) == pytest.approx(max(np.mean(fakes > c) for c in cuts if np.mean(reals > c) <= rate))
    assert math.isnan(recall_at_false_alarms(torch.zeros(2), torch.ones(2).long()))


def test_the_network_takes_bytes_and_fractions_alike():
    from own_detector.network import HighPass

    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    net = HighPass(size=32).eval()
    assert net(images).shape == (3,)
    torch.testing.assert_close(net(images), net(images / 255))
    assert HighPass(size=32, classes=4)(images).shape == (3, 4)
