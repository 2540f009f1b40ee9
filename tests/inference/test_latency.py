"""The stages of one image, by a network and a reader whose times are known."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from tapetum.datamodules.reading import ImageReader
from tapetum.errors import ImageError
from tapetum.images.geometry import InputSpec
from tapetum.indexes.table import Index, to_table
from tapetum.inference.gallery import Gallery
from tapetum.inference.latency import WARM_UP, time_images
from tapetum.metrics.latency import STAGES

from layouts import make_image

SPEC = InputSpec(size=(8, 8), resize="squash", channels=3)
SLOW = 0.03


class Sleepy(torch.nn.Module):
    """A unit vector after SLOW seconds; the first WARM_UP images take five times as long."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        time.sleep(SLOW if len(self.seen) >= WARM_UP else 5 * SLOW)
        self.seen.append(tuple(images.shape))
        return torch.nn.functional.normalize(images.float().mean((2, 3)))


class SlowReader(ImageReader):
    def decoded(self, row, data):
        time.sleep(SLOW / 2)
        return super().decoded(row, data)


@pytest.fixture
def index(tmp_path):
    paths = [make_image(tmp_path / f"{n}.png", generated=False, seed=n).name for n in range(8)]
    return Index(to_table({"path": paths, "root": [0] * 8, "split": ["test"] * 8}), (tmp_path,), "")


@pytest.fixture
def gallery():
    images = pa.table({"path": list("abc"), "class": list("xyz"), "label": [0, 1, 2]})
    return Gallery(images, np.eye(3, dtype=np.float32), {"decision": {"rule": "nearest"}})


def timed(module, reader, gallery, rows):
    return time_images(module, reader, SPEC, gallery, rows, device=torch.device("cpu"))


def test_every_stage_has_its_own_time_and_the_warm_up_none(index, gallery):
    module = Sleepy()

    seconds = timed(module, SlowReader(index), gallery, list(range(8)))

    assert list(seconds) == list(STAGES)
    assert all(values.shape == (8,) and (values > 0).all() for values in seconds.values())
    assert module.seen == [(1, 3, 8, 8)] * (8 + WARM_UP)
    assert (seconds["embed"] >= SLOW).all()
    assert np.median(seconds["embed"]) < 4 * SLOW
    assert (seconds["prepare"] >= SLOW / 2).all()
    assert np.median(seconds["load"]) < SLOW / 2


def test_fewer_images_than_a_warm_up_are_enough(index, gallery):
    module = Sleepy()
    assert len(timed(module, ImageReader(index), gallery, [3])["embed"]) == 1
    assert len(module.seen) == 2


def test_an_image_that_is_gone_is_named(index, gallery):
    Path(index.roots[0], "2.png").unlink()
    with pytest.raises(ImageError, match=r"2\.png: the file does not exist"):
        timed(Sleepy(), ImageReader(index), gallery, [2])
