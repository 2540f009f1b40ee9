"""data.cache=features: what a frozen tower returns, kept by row, and whatever may go wrong with that."""

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tapetum.datamodules import features
from tapetum.datamodules.features import FeatureCache
from tapetum.detectors.timm_backbone import TimmBackbone
from tapetum.errors import ConfigError, DataError
from tapetum.images.augment import Augment
from tapetum.images.geometry import InputSpec
from torchvision.transforms import v2

from datamodules.detection_data import build_index, data_module
from layouts import make_folder

CACHED = {"cache": "features", "num_workers": 0}


class Counted(TimmBackbone):
    """Counts the images that pass through its tower."""

    seen = 0

    def frozen_features(self, images):
        self.seen += len(images)
        return super().frozen_features(images)


def network(seed: int = 0, **arguments) -> Counted:
    torch.manual_seed(seed)
    settings = {"name": "test_resnet.r160_in1k", "size": 32, "hidden": 8, "freeze": True}
    return Counted(pretrained=False, **(settings | arguments)).eval()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", splits={"train": 9, "val": 3, "test": 4}, size=32)


@pytest.fixture
def index(root):
    return build_index(root)


def cached(index, tmp_path, net, **arguments):
    return data_module(
        index, tmp_path / "cache", **(CACHED | {"spec": net.input_spec, "network": net} | arguments)
    )


def caches(tmp_path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache" / "features").iterdir() if path.is_dir())


def everything(loader) -> dict[int, torch.Tensor]:
    return {
        int(row): one for batch in loader for row, one in zip(batch["index"], batch["features"], strict=True)
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_carry_what_the_tower_returns_instead_of_images(index, tmp_path, workers):
    net = network()
    live = data_module(index, tmp_path, spec=net.input_spec)
    data = cached(index, tmp_path, net, num_workers=workers)
    for make in ("train_dataloader", "val_dataloader"):
        for one, other in zip(getattr(data, make)(), getattr(live, make)(), strict=True):
            assert "images" not in one
            assert torch.equal(one["index"], other["index"])
            assert torch.equal(one["labels"], other["labels"])
            expected = net.frozen_features(other["images"])
            torch.testing.assert_close(one["features"], expected, rtol=0, atol=1e-6)


def test_each_image_passes_through_the_tower_once_and_only_when_its_split_is_asked_for(index, tmp_path):
    net = network()
    data = cached(index, tmp_path, net)
    for _ in range(2):
        list(data.train_dataloader())
    assert net.seen == 18
    list(data.eval_dataloader("test"))
    assert net.seen == 26
    other = network()
    list(cached(index, tmp_path, other).train_dataloader())
    assert other.seen == 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_features_have_the_type_of_the_tower_under_the_precision_of_the_run(index, tmp_path, precision):
    net = network(name="test_vit")
    data = cached(index, tmp_path, net, precision=precision)
    images = next(iter(data_module(index, tmp_path, spec=net.input_spec).eval_dataloader("val")))["images"]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        expected = net.frozen_features(images)
    found = next(iter(data.eval_dataloader("val")))["features"]
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_half_precision_weights_are_kept_in_half_precision(index, tmp_path):
    net = network().bfloat16()
    found = everything(cached(index, tmp_path, net).eval_dataloader("val"))
    assert {one.dtype for one in found.values()} == {torch.bfloat16}
    file = caches(tmp_path)[0] / "features.bin"
    assert file.stat().st_size <= len(index) * found[next(iter(found))].numel() * 2


def test_other_weights_other_geometry_another_precision_and_changed_files_have_caches_of_their_own(
    index, root, tmp_path
):
    list(cached(index, tmp_path, network()).eval_dataloader("val"))
    assert len(caches(tmp_path)) == 1
    other = network(seed=1)
    values = everything(cached(index, tmp_path, other).eval_dataloader("val"))
    for row, value in values.items():
        pixels = data_module(index, tmp_path, spec=other.input_spec).eval_dataloader("val").dataset
        live = other.frozen_features(pixels.__getitems__([(0, row)]).batch["images"])[0]
        torch.testing.assert_close(value, live, rtol=0, atol=1e-6)
    assert len(caches(tmp_path)) == 2
    list(cached(index, tmp_path, network(), precision="bf16-mixed").eval_dataloader("val"))
    list(
        cached(index, tmp_path, network(), spec=InputSpec(size=(40, 40), crop=(32, 32))).eval_dataloader(
            "val"
        )
    )
    assert len(caches(tmp_path)) == 4
    file = next(root.rglob("*.jpg"))
    os.utime(file, ns=(time.time_ns(), time.time_ns() + 1))
    list(cached(build_index(root), tmp_path, network()).eval_dataloader("val"))
    assert len(caches(tmp_path)) == 5


def test_batch_norm_statistics_are_part_of_the_weights(index, tmp_path):
    net = network()
    list(cached(index, tmp_path, net).eval_dataloader("val"))
    next(one for one in net.backbone.modules() if isinstance(one, torch.nn.BatchNorm2d)).running_mean += 1
    list(cached(index, tmp_path, net).eval_dataloader("val"))
    assert len(caches(tmp_path)) == 2


def test_an_interrupted_build_goes_on_where_it_was(index, tmp_path):
    net = network()

    def interrupt(done: int, total: int) -> None:
        assert (done, total) == (5, 18)
        raise KeyboardInterrupt

    net.train()
    with pytest.raises(KeyboardInterrupt):
        cached(index, tmp_path, net, progress=interrupt).train_dataloader()
    assert net.classifier.training
    told = []
    expected = network()
    data = cached(index, tmp_path, net, progress=lambda done, total: told.append((done, total)))
    found = everything(data.eval_dataloader("train"))
    assert net.seen == 18
    assert told == [(10, 18), (15, 18), (18, 18)]
    for row, value in everything(cached(index, tmp_path / "anew", expected).eval_dataloader("train")).items():
        torch.testing.assert_close(found[row], value, rtol=0, atol=1e-6)


def test_a_killed_build_counts_nothing_that_was_not_written(index, tmp_path):
    code = (
        "import os, pickle, signal, sys; sys.path.insert(0, sys.argv[2]);"
        "from datamodules.test_features import cached, features, network;"
        "features._COMMIT_SECONDS = 0.0;"
        "index, place = pickle.load(open(sys.argv[1], 'rb'));"
        "kill = lambda done, total: done > 5 and os.kill(os.getpid(), signal.SIGKILL);"
        "cached(index, place, network(), progress=kill).train_dataloader()"
    )
    (tmp_path / "arguments").write_bytes(pickle.dumps((index, tmp_path)))
    tests = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "arguments"), tests], check=False)
    assert done.returncode == -9
    net = network()
    found = everything(cached(index, tmp_path, net).eval_dataloader("train"))
    assert net.seen == 8  # of two batches of five, both were written
    expected = everything(cached(index, tmp_path / "anew", network()).eval_dataloader("train"))
    assert {row: value.tolist() for row, value in found.items()} == {
        row: pytest.approx(value.tolist(), abs=1e-6) for row, value in expected.items()
    }


def test_bad_images_are_carried_with_their_reasons(index, tmp_path):
    empty = index.rows("train")[0]
    root, path = index.location(empty)
    (root / path).write_bytes(b"")
    for _ in range(2):  # computed, then read
        data = cached(index, tmp_path, network(), on_bad_image="skip")
        assert len(everything(data.eval_dataloader("train"))) == 17
        assert data.bad == {empty: "the file is empty (0 bytes)"}
        with pytest.raises(DataError, match=r"0000.jpg can't be used: the file is empty \(0 bytes\)"):
            list(cached(index, tmp_path, network()).eval_dataloader("train"))


def test_a_split_of_which_nothing_can_be_read_gives_empty_batches(index, tmp_path):
    for row in index.rows("val"):
        root, path = index.location(row)
        (root / path).write_bytes(b"")
    batches = list(cached(index, tmp_path, network(), on_bad_image="skip").eval_dataloader("val"))
    assert [len(batch["index"]) for batch in batches] == [0, 0]


def test_a_batch_cannot_change_the_cache_and_the_cache_pickles_without_its_content(index, tmp_path):
    row = int(index.rows("val")[0])
    list(cached(index, tmp_path, network()).eval_dataloader("val"))
    cache = FeatureCache(caches(tmp_path)[0])
    before = cache.take([row]).clone()
    cache.take([row]).zero_()
    assert torch.equal(cache.take([row]), before)
    packed = pickle.dumps(cache)
    assert len(packed) < 4096
    assert torch.equal(pickle.loads(packed).take([row]), before)


def test_a_full_disk_is_told_before_anything_is_kept(index, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda place: usage)
    net = network()
    with pytest.raises(DataError, match=r"the features \(0.00 GB\) can't be kept .*: 0.00 GB are free. Type"):
        cached(index, tmp_path, net).train_dataloader()
    assert net.seen == 5
    assert not (caches(tmp_path)[0] / "features.bin").exists()


def test_a_disk_that_fills_up_on_the_way_loses_no_finished_work(index, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    net = network()
    width = net.frozen_features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).nbytes
    first = int(index.rows("train").min())
    resource.setrlimit(resource.RLIMIT_FSIZE, ((first + 7) * width, limits[1]))
    try:
        with pytest.raises(DataError, match=r"the features .* can't be kept .*: File too large"):
            cached(index, tmp_path, net).train_dataloader()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = network()
    assert len(everything(cached(index, tmp_path, again).eval_dataloader("train"))) == 18
    assert again.seen == 13


def test_a_damaged_list_of_rows_is_an_error_that_says_what_to_remove(index, tmp_path):
    list(cached(index, tmp_path, network()).eval_dataloader("val"))
    (caches(tmp_path)[0] / "rows.u8").write_bytes(b"\1")
    with pytest.raises(DataError, match=r"rows.u8 is damaged: remove .*, and it is built again"):
        cached(index, tmp_path, network()).eval_dataloader("val")


def test_a_cache_says_of_what_it_is(index, tmp_path):
    net = network()
    list(cached(index, tmp_path, net).eval_dataloader("val"))
    described = json.loads((caches(tmp_path)[0] / "cache.json").read_text())
    assert described["of"]["weights"] == net.cache_key()
    assert described["of"]["index"] == index.edition
    assert described["dtype"] == "float32"


def test_an_augmentation_that_draws_is_refused(index, tmp_path):
    augment = Augment(after_crop=[v2.RandomHorizontalFlip()])
    with pytest.raises(ConfigError, match="augment draws another one in each epoch: type augment=none"):
        cached(index, tmp_path, network(), augment=augment)


def test_a_network_of_which_nothing_is_frozen_is_refused(index, tmp_path):
    with pytest.raises(ConfigError, match=r"nothing of TimmBackbone is frozen .*model.net.freeze=true"):
        cached(index, tmp_path, network(freeze=False)).eval_dataloader("val")
    plain = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="and Linear has none"):
        cached(index, tmp_path, network(), network=plain)


def test_images_of_different_sizes_are_kept_where_their_features_have_one_shape(index, tmp_path):
    spec = InputSpec(size=(32, 32), resize="shortest")  # without a crop
    root, path = index.location(int(index.rows("val")[1]))
    Image.new("RGB", (64, 32), (200, 30, 30)).save(root / path)
    net = network()
    found = everything(cached(build_index(root), tmp_path, net, spec=spec).eval_dataloader("val"))
    assert {tuple(value.shape) for value in found.values()} == {(next(iter(found.values())).shape[0],)}
    assert len(found) == 6
