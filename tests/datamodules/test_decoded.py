import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tapetum.datamodules import reading
from tapetum.datamodules.decoded import DecodedCache, decoded_cache
from tapetum.datamodules.reading import ImageReader
from tapetum.errors import ConfigError, DataError, ImageError
from tapetum.images.augment import Augment
from tapetum.images.geometry import InputSpec
from tapetum.images.sources import read_bytes
from tapetum.indexes.table import Index
from torchvision.transforms import v2

from datamodules.detection_data import SPEC, build_index, data_module
from layouts import make_folder

AUGMENT = Augment(after_crop=[v2.RandomHorizontalFlip(), v2.ColorJitter(0.5)], enlarge=8, crop="random")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", splits={"train": 9, "val": 3, "test": 4}, size=32)


@pytest.fixture
def index(root):
    return build_index(root)


def cache_of(index, tmp_path, *, spec=SPEC, augment=None, **more) -> DecodedCache:
    return decoded_cache(ImageReader(index), spec, augment or Augment(), cache=tmp_path / "cache", **more)


def kept(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "decoded").iterdir() if path.is_dir())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_cached_pixels_are_the_live_ones_bit_for_bit(index, tmp_path, workers, resize):
    spec = InputSpec(size=(24, 20), resize=resize, interpolation="bicubic")
    live = data_module(index, tmp_path, spec=spec, augment=AUGMENT)
    cached = data_module(index, tmp_path, spec=spec, augment=AUGMENT, cache="decoded", num_workers=workers)
    pairs = [(live.train_dataloader(), cached.train_dataloader())]
    pairs.append((live.eval_dataloader("test"), cached.eval_dataloader("test")))
    for expected, found in pairs:
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one["images"], other["images"])
            assert torch.equal(one["index"], other["index"])


def test_images_are_decoded_once(index, root, tmp_path):
    expected = cache_of(index, tmp_path).image(0)
    for file in root.rglob("*.jpg"):
        file.unlink()
    assert torch.equal(cache_of(index, tmp_path).image(0), expected)


def test_a_batch_cannot_change_the_cache(index, tmp_path):
    cache = cache_of(index, tmp_path)
    before = cache.image(0).clone()
    cache.image(0).zero_()
    assert torch.equal(cache.image(0), before)


def test_a_changed_file_another_size_and_another_rule_have_caches_of_their_own(index, root, tmp_path):
    cache_of(index, tmp_path)
    cache_of(build_index(root), tmp_path)
    assert len(kept(tmp_path)) == 1  # an index built again is the same
    cache_of(index, tmp_path, augment=Augment(enlarge=8, crop="random"))
    cache_of(index, tmp_path, spec=InputSpec(size=(24, 24), resize="pad"))
    cache_of(index, tmp_path, spec=InputSpec(size=(24, 24), resize="squash", interpolation="nearest"))
    assert len(kept(tmp_path)) == 4
    file = next(root.rglob("*.jpg"))
    os.utime(file, ns=(time.time_ns(), time.time_ns() + 1))
    cache_of(build_index(root), tmp_path)
    assert len(kept(tmp_path)) == 5


def test_an_interrupted_build_leaves_nothing_and_does_not_wait_for_the_rest(tmp_path, monkeypatch):
    index = build_index(make_folder(tmp_path / "many", splits={"train": 400, "test": 1}, size=16))
    seen, read = [], []
    # Looks on: every image is still read.
    monkeypatch.setattr(reading, "read_bytes", lambda *a, **k: (read.append(a), read_bytes(*a, **k))[1])

    def interrupt(done: int, total: int) -> None:
        seen.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_of(index, tmp_path, progress=interrupt)
    assert seen == [64]
    assert len(read) < len(index)  # threads are a little ahead, the more the busier the machine is
    assert kept(tmp_path) == []
    finished = cache_of(index, tmp_path, progress=lambda done, total: seen.append(done))
    assert finished.image(801).shape == (3, 24, 24)
    assert seen[-1] == len(index)


def test_a_killed_build_is_not_taken_for_a_cache(index, tmp_path):
    code = (
        "import os, pickle, signal, sys; from pathlib import Path;"
        "from tapetum.datamodules.decoded import decoded_cache; from tapetum.images.augment import Augment;"
        "from tapetum.datamodules.reading import ImageReader;"
        "index, spec, cache = pickle.load(open(sys.argv[1], 'rb'));"
        "kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL);"
        "decoded_cache(ImageReader(index), spec, Augment(), cache=cache, progress=kill)"
    )
    (tmp_path / "arguments").write_bytes(pickle.dumps((index, SPEC, tmp_path / "cache")))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "arguments")], check=False)
    assert done.returncode == -9
    assert [name for name in kept(tmp_path) if not name.endswith(".tmp")] == []
    cache = cache_of(index, tmp_path)
    live = data_module(index, tmp_path).eval_dataloader("train").dataset
    for row in range(len(index)):
        assert torch.equal(cache.image(row), live.resized(row))


def test_bad_images_are_carried_with_their_reasons(index, tmp_path):
    empty, whole = index.rows("train")[:2].tolist()
    root, path = index.location(empty)
    (root / path).write_bytes(b"")
    for _ in range(2):  # built, then read
        cache = cache_of(index, tmp_path)
        assert cache.bad == {empty: "the file is empty (0 bytes)"}
        with pytest.raises(ImageError, match=r"^the file is empty \(0 bytes\)$"):
            cache.image(empty)
    assert cache.image(whole).shape == (3, 24, 24)
    with pytest.raises(DataError, match=r"0000.jpg can't be used: the file is empty \(0 bytes\)"):
        list(data_module(index, tmp_path / "cache", cache="decoded").eval_dataloader("train"))


def test_cache_pickles_without_its_pixels(index, tmp_path):
    cache = cache_of(index, tmp_path)
    expected = cache.image(3)
    packed = pickle.dumps(cache)
    assert len(packed) < 4096
    assert torch.equal(pickle.loads(packed).image(3), expected)


@pytest.mark.parametrize("spec", [
    InputSpec(size=None, resize="none", crop=(16, 16)),
    InputSpec(size=(24, 20), resize="shortest", crop=(20, 20)),
    InputSpec(size=(48, 48), resize="tile", crop=(48, 48)),
])  # fmt: skip
def test_images_of_one_size_are_kept_under_a_rule_that_makes_none(index, tmp_path, spec):
    live, cached = (data_module(index, tmp_path, spec=spec, cache=cache) for cache in ("none", "decoded"))
    for one, other in zip(cached.eval_dataloader("train"), live.eval_dataloader("train"), strict=True):
        assert torch.equal(one["images"], other["images"])


@pytest.mark.parametrize(("resize", "size", "instead"), [
    ("none", None, "type data.cache=none$"),
    ("shortest", (24, 24), "type data.cache=none, or model.geometry.resize=squash$"),
])  # fmt: skip
def test_sizes_that_stay_different_are_refused(index, tmp_path, resize, size, instead):
    root, path = index.location(5)
    Image.new("RGB", (40, 32)).save(root / path)
    with pytest.raises(ConfigError, match=rf"rule '{resize}' makes .*{path} .* and others .*: {instead}"):
        cache_of(index, tmp_path, spec=InputSpec(size=size, resize=resize))
    assert kept(tmp_path) == []


def test_an_index_that_does_not_know_its_files_is_refused(index, tmp_path):
    blind = Index(index.table, index.roots, index.fingerprint)
    with pytest.raises(DataError, match="needs an Index that knows when its files"):
        cache_of(blind, tmp_path)


def test_a_full_disk_is_told_before_anything_is_decoded(index, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(
            DataError, match=r"decoded images \(0.00 GB\) can't be kept below .*: File too large"
        ):
            cache_of(index, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert kept(tmp_path) == []
