"""Errors of the originals that a re-implementation must not inherit, as far as no other test looks at them.

Elsewhere: JPEG qualities reach the encoder and come from the whole range (RINE; tests/images), the threshold
is fitted and applied with the same comparison and in any order of rows (UnivFD; tests/metrics), nothing is
chosen on the test split (FerretNet; test_published_convolutional).
"""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tapetum.cli import main
from tapetum.detectors.ladeda import TinyLaDeDa

from layouts import make_image

NAMES = {
    "0_real": ("a.PNG", "b.JPG", "photo.of.a.cat.png", "c.JPEG", "d.jpg"),
    "1_fake": ("v1.5_seed.7.png", "e.bmp", "f.WEBP"),
}


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Evaluated on a generator whose names and numbers trip UnivFD's `validate.py` up, and AIDE's listing."""
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("TAPETUM_CACHE", str(tmp_path / "cache"))
    leaf = tmp_path / "forensynths" / "test" / "biggan"
    for label, names in enumerate(NAMES.values()):
        for number, name in enumerate(names):
            make_image(leaf / list(NAMES)[label] / name, generated=bool(label), seed=(label, number))
    (leaf / ".cache").mkdir()
    torch.manual_seed(0)
    torch.save(TinyLaDeDa().state_dict(), tmp_path / "tiny.pth")
    words = ["model=tiny_ladeda", f"weights={tmp_path / 'tiny.pth'}", "accelerator=cpu", "data.num_workers=0"]
    assert main(["evaluate", *words, "data=forensynths", f"data.root={tmp_path / 'forensynths'}"]) == 0
    run = next((tmp_path / "outputs").rglob("metrics.json")).parent
    return pq.read_table(run / "predictions" / "test.parquet"), json.loads((run / "metrics.json").read_text())


def test_no_image_is_dropped_for_its_name_or_for_the_number_of_the_others(found):
    rows, metrics = found
    assert {path.rpartition("/")[2] for path in rows["path"].to_pylist()} == {
        *NAMES["0_real"],
        *NAMES["1_fake"],
    }
    assert Counter(rows["label"].to_pylist()) == {0: 5, 1: 3}
    called = np.asarray(rows["logit"]) > 0
    assert metrics["test/accuracy"] == pytest.approx(np.mean(called == np.asarray(rows["label"])))


def test_a_threshold_that_has_looked_at_the_test_set_says_so_in_its_name(found):
    rows, metrics = found
    label, logit = np.asarray(rows["label"]), np.asarray(rows["logit"])
    best = max(np.mean((logit > cut) == label) for cut in [*logit, -np.inf])
    assert metrics["test/oracle_accuracy"] == pytest.approx(best) != metrics["test/accuracy"]
    fitted = {name for name in metrics if "tuned" in name or "threshold" in name}
    assert not fitted  # there was no validation split to fit one on
