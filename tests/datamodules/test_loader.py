import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from tapetum.datamodules.detection import labels
from tapetum.errors import DataError
from tapetum.images.augment import Augment, sample_seed
from tapetum.images.geometry import InputSpec, prepare
from tapetum.images.sources import read_image
from tapetum.indexes import folder
from tapetum.indexes.build import build
from tapetum.indexes.table import Index
from torchvision.transforms import v2

from datamodules.detection_data import SPEC, build_index, data_module
from layouts import make_folder, make_image

AUGMENT = Augment(after_crop=[v2.RandomHorizontalFlip(), v2.ColorJitter(0.5)], enlarge=8, crop="random")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", splits={"train": 9, "val": 3, "test": 4}, size=32)


@pytest.fixture
def index(root):
    return build_index(root)


def assert_same_batches(found, expected) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert torch.equal(one[name], value), name


def epoch_of(loader, epoch: int) -> list:
    loader.batch_sampler.sampler.set_epoch(epoch)
    return list(loader)


def damage(index, row: int, content: bytes = b"not an image") -> Path:
    root, path = index.location(row)
    (root / path).write_bytes(content)
    return root / path


def test_batch_is_the_file_through_geometry_and_augmentation(index, tmp_path):
    (batch, *_) = epoch_of(data_module(index, tmp_path, augment=AUGMENT).train_dataloader(), 3)
    for image, row, label in zip(batch["images"], batch["index"].tolist(), batch["labels"], strict=True):
        place, path = index.location(row)
        resized = AUGMENT.resize(read_image(place, path), SPEC)
        assert torch.equal(image, AUGMENT(resized, SPEC, sample_seed(5, 3, row)))
        assert int(label) == ("ai_generated" in path)
    assert batch["generators"].tolist() == [
        label - 1 for label in batch["labels"].tolist()
    ]  # null on real rows
    assert batch["images"].dtype == torch.uint8
    assert batch["images"].shape == (4, 3, 24, 24)


def test_workers_change_no_bit_in_two_epochs(index, tmp_path):
    alone = data_module(index, tmp_path, augment=AUGMENT).train_dataloader()
    shared = data_module(index, tmp_path, augment=AUGMENT, num_workers=2).train_dataloader()
    epochs = [epoch_of(alone, epoch) for epoch in (0, 1)]
    pixels = [
        {int(row): image for b in e for row, image in zip(b["index"], b["images"], strict=True)}
        for e in epochs
    ]
    assert any(not torch.equal(pixels[0][row], pixels[1][row]) for row in pixels[0].keys() & pixels[1].keys())
    for epoch, expected in enumerate(epochs):
        assert_same_batches(epoch_of(shared, epoch), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_state_counts_what_was_handed_out_and_a_restored_loader_gives_the_rest(index, tmp_path, workers):
    expected = [epoch_of(data_module(index, tmp_path, augment=AUGMENT).train_dataloader(), e) for e in (1, 2)]
    first = data_module(index, tmp_path, augment=AUGMENT, num_workers=workers).train_dataloader()
    first.batch_sampler.sampler.set_epoch(1)
    begun = iter(first)
    assert_same_batches([next(begun), next(begun)], expected[0][:2])
    state = first.state_dict()
    assert state == {"epoch": 1, "batches": 2}

    restored = data_module(index, tmp_path, augment=AUGMENT, num_workers=workers).train_dataloader()
    restored.load_state_dict(state)
    assert restored.state_dict() == state
    assert_same_batches(epoch_of(restored, 1), expected[0][2:])
    assert restored.state_dict() == {"epoch": 1, "batches": 4}
    assert_same_batches(epoch_of(restored, 2), expected[1])


def test_state_of_a_finished_epoch_does_not_shorten_the_next(index, tmp_path):
    loader = data_module(index, tmp_path).train_dataloader()
    loader.load_state_dict({"epoch": 0, "batches": 4})
    assert len(epoch_of(loader, 1)) == 4


def test_an_abandoned_epoch_leaves_nothing_in_the_workers(index, tmp_path):
    expected = epoch_of(data_module(index, tmp_path).train_dataloader(), 1)
    loader = data_module(index, tmp_path, num_workers=2).train_dataloader()
    next(iter(loader))
    assert_same_batches(epoch_of(loader, 1), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_each_row_once_in_order_without_augmentation(index, tmp_path, workers):
    loader = data_module(index, tmp_path, augment=AUGMENT, num_workers=workers).eval_dataloader("test")
    for _ in range(2):
        batches = list(loader)
        assert torch.cat([batch["index"] for batch in batches]).tolist() == index.rows("test").tolist()
        place, path = index.location(int(batches[-1]["index"][-1]))
        assert torch.equal(batches[-1]["images"][-1], prepare(read_image(place, path), SPEC))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_named_with_its_reason_and_what_to_type(index, tmp_path, workers):
    file = damage(index, int(index.rows("val")[1]))
    with pytest.raises(DataError) as caught:
        list(data_module(index, tmp_path, num_workers=workers).val_dataloader())
    message = str(caught.value)
    assert message == (
        f"image {file} can't be used: not a JPEG, PNG, WebP, BMP or TIFF file: it begins with "
        "b'not an image'. Mend or remove it, or leave such images out (they are counted and listed in the "
        "run) with data.on_bad_image=skip"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_transform_that_returns_nonsense_is_named(index, tmp_path, workers):
    augment = Augment(after_crop=[v2.Grayscale()])
    with pytest.raises(DataError, match=r"^the transform Grayscale.* returned uint8 \[1, 24, 24\], expected"):
        list(data_module(index, tmp_path, num_workers=workers, augment=augment).train_dataloader())


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_listed_and_never_replaced(index, tmp_path, workers):
    whole = list(data_module(index, tmp_path).train_dataloader())
    row = int(whole[1]["index"][2])
    damage(index, row, b"")
    data = data_module(index, tmp_path, num_workers=workers, on_bad_image="skip")
    left = list(data.train_dataloader())
    assert data.bad == {row: "the file is empty (0 bytes)"}
    kept = torch.tensor([0, 1, 3])
    expected = [whole[0], {name: value[kept] for name, value in whole[1].items()}, *whole[2:]]
    assert_same_batches(left, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_bad_images_is_handed_out_empty(index, tmp_path, workers):
    rows = index.rows("val").tolist()
    for row in rows[:5]:
        damage(index, row)
    data = data_module(index, tmp_path, num_workers=workers, on_bad_image="skip")
    first, second = data.val_dataloader()
    assert first["images"] == []
    assert [len(first[name]) for name in ("index", "labels", "generators")] == [0, 0, 0]
    assert second["index"].tolist() == rows[5:]
    assert sorted(data.bad) == rows[:5]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_different_sizes_come_as_a_list(index, tmp_path, workers):
    rows = index.rows("test").tolist()
    root, path = index.location(rows[1])
    Image.new("RGB", (40, 20)).save(root / path, quality=95)
    data = data_module(index, tmp_path, spec=InputSpec(size=None, resize="none"), num_workers=workers)
    first, second = data.eval_dataloader("test")
    assert [tuple(image.shape) for image in first["images"]] == [(3, 32, 32), (3, 20, 40), *[(3, 32, 32)] * 3]
    assert second["images"].shape == (3, 3, 32, 32)


def test_dataset_survives_pickling_to_a_worker(index, tmp_path):
    dataset = data_module(index, tmp_path, augment=AUGMENT).train_dataloader().dataset
    keys = [(0, 1), (4, 2)]
    expected, found = (one.__getitems__(keys).batch for one in (dataset, pickle.loads(pickle.dumps(dataset))))
    assert_same_batches([found], [expected])


def shares_of(index, tmp_path, sampler: str) -> dict[tuple[int, int], float]:
    loader = data_module(index, tmp_path, sampler=sampler).train_dataloader()
    counts: dict[tuple[int, int], int] = {}
    columns = data_module(index, tmp_path).columns()
    for epoch in range(80):
        loader.batch_sampler.sampler.set_epoch(epoch)
        for row in loader.batch_sampler.sampler.order():
            key = (int(columns["labels"][row]), int(columns["generators"][row]))
            counts[key] = counts.get(key, 0) + 1
    return {key: count / sum(counts.values()) for key, count in counts.items()}


@pytest.fixture
def uneven(tmp_path) -> Index:
    """20 real images, 3 of generator a and 9 of generator b."""

    root = tmp_path / "uneven"
    for kind, count in (("real", 20), ("generated/a", 3), ("generated/b", 9)):
        for number in range(count):
            make_image(root / "train" / kind / f"{number}.png", generated=kind != "real", seed=number, size=8)
    layout = partial(folder.index, real=["real"], generated=["generated"], generator="subfolder")
    return build(layout, root=root, val_fraction=0, seed=0, cache=None, name="uneven")


def test_class_balanced_draws_as_many_generated_as_real(uneven, tmp_path):
    shares = shares_of(uneven, tmp_path, "class_balanced")
    assert shares[0, -1] == pytest.approx(0.5, abs=0.03)
    assert shares[1, 0] == pytest.approx(0.5 * 3 / 12, abs=0.03)


def test_generator_balanced_draws_half_real_and_the_generators_equally(uneven, tmp_path):
    shares = shares_of(uneven, tmp_path, "generator_balanced")
    expected = {(0, -1): 0.5, (1, 0): 0.25, (1, 1): 0.25}
    assert shares == {key: pytest.approx(share, abs=0.03) for key, share in expected.items()}


def test_generator_balanced_needs_both_classes(index, tmp_path):
    real = index.table.filter(labels(index) == 0)
    only = type(index)(real, index.roots, index.fingerprint)
    with pytest.raises(DataError, match=r"data.sampler=generator_balanced needs real and generated images"):
        data_module(only, tmp_path, sampler="generator_balanced").train_dataloader()


def test_no_validation_split_gives_no_loader(tmp_path):
    make_folder(tmp_path / "train only", splits={"train": 4})
    index = build_index(tmp_path / "train only", val_fraction=0)
    assert data_module(index, tmp_path).val_dataloader() == []
