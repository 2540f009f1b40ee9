"""What a run is called at a tracker: by its directory, and in a sweep by what sets it apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tapetum.runs.trackers import labels, swept

CONFIG = {
    "name": "npr-photos",
    "task": "detection",
    "model": {"net": {"_target_": "tapetum.detectors.npr.NPR"}},
    "data": {"root": "/somewhere/photos"},
}
SHARED = ["model=npr", "data=folder", "trainer.max_epochs=1"]


def write_sweep(folder: Path, jobs: dict[int, list[str]], **more: object) -> Path:
    sweep = folder / "sweeps" / "seeds" / "2026-01-02_03-04-05-abcdef"
    sweep.mkdir(parents=True)
    (sweep / "sweep.yaml").write_text(yaml.safe_dump({"command": ["train.py"], "jobs": jobs, **more}))
    return sweep


def names(sweep: Path, *numbers: int) -> list[str]:
    return [labels(sweep / str(number), CONFIG).name for number in numbers]


def test_a_run_by_itself_is_called_after_its_directory(tmp_path):
    run = tmp_path / "detection" / "npr-photos" / "2026-01-02_03-04-05-abcdef"
    found = labels(run, CONFIG)
    assert (found.name, found.group) == ("npr-photos/2026-01-02_03-04-05-abcdef", None)
    assert found.tags == {"task": "detection", "model": "NPR", "data": "photos"}


def test_jobs_are_called_by_the_overrides_in_which_they_differ_and_grouped_by_their_sweep(tmp_path):
    jobs = {
        number: [*SHARED, f"optimizer.lr={lr}", f"seed={seed}"]
        for number, (lr, seed) in enumerate([(0.1, 1), (0.1, 2), (0.01, 1), (0.01, 2)])
    }
    sweep = write_sweep(tmp_path, jobs)
    assert names(sweep, 0, 3) == ["optimizer.lr=0.1 seed=1", "optimizer.lr=0.01 seed=2"]
    assert labels(sweep / "0", CONFIG).group == "seeds/2026-01-02_03-04-05-abcdef"


def test_the_first_job_of_a_search_has_the_name_that_it_keeps(tmp_path):
    listed = ["optimizer.lr", "model.loss.margin"]
    jobs = {0: [*SHARED, "optimizer.lr=0.1", "+model.loss.margin=0.2"]}
    first = write_sweep(tmp_path / "first", jobs, swept=listed)
    later = write_sweep(
        tmp_path / "later",
        {**jobs, 1: [*SHARED, "optimizer.lr=0.1", "+model.loss.margin=0.3"]},
        swept=listed,
    )
    assert names(first, 0) == names(later, 0) == ["optimizer.lr=0.1 +model.loss.margin=0.2"]
    assert names(later, 1) == ["optimizer.lr=0.1 +model.loss.margin=0.3"]


@pytest.mark.parametrize(
    ("jobs", "more"),
    [
        ({0: SHARED}, {}),  # nothing to differ from
        ({0: SHARED, 1: [*SHARED, "seed=2"]}, {}),  # differs by what the other one has
        ({1: [*SHARED, "seed=2"]}, {"swept": ["seed"]}),  # not listed yet
        ({0: [f"data.root=/{'long/' * 30}"]}, {"swept": ["data.root"]}),  # longer than W&B takes
    ],
    ids=["alone", "without_its_own", "not_listed", "too_long"],
)
def test_a_job_that_nothing_short_sets_apart_is_called_by_its_number(tmp_path, jobs, more):
    assert names(write_sweep(tmp_path, jobs, **more), 0) == ["seeds/0"]


def test_swept_keys_are_those_listed_or_those_in_which_jobs_differ():
    jobs = {0: ["model=npr", "seed=1", "~x"], 1: ["model=npr", "seed=2", "+y.z=1"]}
    assert swept({"jobs": jobs}) == ["seed", "x", "y.z"]
    assert swept({"jobs": jobs, "swept": ["+y.z"]}) == ["y.z"]
    assert swept({"jobs": {0: ["seed=1"]}}) == swept({"jobs": {}}) == []
