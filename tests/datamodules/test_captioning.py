"""Batches of captions: every image once, which caption and when as a function of seed and epoch alone."""

import logging
import pickle

import numpy as np
import pytest
import torch
from tapetum.datamodules.captions import CaptionDraw
from tapetum.datamodules.length_batches import LengthBatchSampler
from tapetum.datamodules.samplers import EpochBatchSampler, EpochSampler, Shard
from tapetum.errors import ConfigError, DataError
from tapetum.images.augment import Augment
from torchvision.transforms import v2

from modules.captioning_parts import SAID, captioner, data_for, index_of


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return index_of(tmp_path_factory.mktemp("captions") / "root")


@pytest.fixture(scope="module")
def module():
    return captioner()


def batches(loader, epoch=0):
    loader.batch_sampler.sampler.set_epoch(epoch)
    return list(loader)


def captions_of(index, rows):
    return [index.table.column("captions")[int(row)].as_py() for row in rows]


def test_an_epoch_has_every_image_once_with_one_of_its_captions(index, module, tmp_path):
    data = data_for(index, module, tmp_path)
    found = batches(data.train_dataloader())
    rows = np.concatenate([batch["index"].numpy() for batch in found])
    assert sorted(rows) == index.rows("train").tolist()
    for batch in found:
        assert batch["images"].shape == (4, 3, 16, 16)
        assert batch["owners"].tolist() == [0, 1, 2, 3]
        for text, known in zip(batch["texts"], captions_of(index, batch["index"]), strict=True):
            assert text in known
        decoded = module.net.encode_fn().decode(batch["inputs"]["input_ids"])
        assert decoded == batch["texts"]


def test_the_caption_drawn_changes_with_the_epoch_and_the_seed_alone(index, module, tmp_path):
    def drawn(epoch, seed=0, workers=0):
        data = data_for(index, module, tmp_path, seed=seed, num_workers=workers)
        return {
            row: text
            for batch in batches(data.train_dataloader(), epoch)
            for row, text in zip(batch["index"].tolist(), batch["texts"], strict=True)
        }

    assert drawn(0) == drawn(0) == drawn(0, workers=2)
    assert drawn(0) != drawn(1)
    assert drawn(0) != drawn(0, seed=1)
    draw = CaptionDraw(index.table.column("captions"), "one", 0)
    row = int(index.rows("train")[0])
    counted = [draw.number(epoch, row, 5) for epoch in range(4000)]
    assert np.allclose(np.bincount(counted, minlength=5) / 4000, 0.2, atol=0.03)


def test_with_all_captions_an_image_stands_in_its_batch_once(index, module, tmp_path):
    data = data_for(index, module, tmp_path, captions="all")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for batch in loader:
            assert len(batch["images"]) == len(batch["index"])
            known = captions_of(index, batch["index"])
            assert batch["texts"] == [text for texts in known for text in texts]
            assert batch["owners"].tolist() == [n for n, texts in enumerate(known) for _ in texts]


def test_validation_looks_at_all_captions_whatever_is_learnt_from(index, module, tmp_path):
    data = data_for(index, module, tmp_path, captions="one")
    texts = [text for batch in data.val_dataloader() for text in batch["texts"]]
    assert sorted(texts) == sorted(text for texts in SAID["val"] for text in texts)


def test_captions_of_about_one_length_share_a_batch():
    rows = np.arange(1000)
    lengths = np.random.default_rng(0).integers(4, 60, 1000)

    def padded(sampler):
        longest = [max(lengths[row] for _, row in keys) * len(keys) for keys in sampler]
        return sum(longest) / sum(lengths)

    plain = EpochBatchSampler(EpochSampler(rows, seed=0), 8, Shard())
    sorted_ = LengthBatchSampler(EpochSampler(rows, seed=0), 8, Shard(), lambda epoch, rows: lengths[rows])
    assert padded(sorted_) < 1.1 < 1.5 < padded(plain)
    assert sorted(row for keys in sorted_ for _, row in keys) == rows.tolist()
    firsts = [lengths[keys[0][1]] for keys in sorted_]
    assert np.abs(np.corrcoef(firsts, np.arange(len(firsts)))[0, 1]) < 0.3  # not from short to long


def test_an_epoch_of_buckets_goes_on_where_it_stopped_and_is_shared_by_ranks():
    rows, lengths = np.arange(70), np.random.default_rng(1).integers(4, 60, 70)

    def sampler(shard=None, batch=4):
        made = LengthBatchSampler(
            EpochSampler(rows, seed=3), batch, shard or Shard(), lambda epoch, rows: lengths[rows]
        )
        made.sampler.set_epoch(2)
        return made

    whole = list(sampler())
    rest = sampler()
    rest.start = 5
    assert list(rest) == whole[5:]
    ranks = [list(sampler(Shard(rank, 2), batch=2)) for rank in range(2)]
    together = [sorted(a + b) for a, b in zip(*ranks, strict=True)]
    assert together == [sorted(keys) for keys in whole]


def test_a_batch_travels_to_a_worker_and_into_pinned_memory(index, module, tmp_path):
    data = data_for(index, module, tmp_path, captions="all")
    dataset = data.train_dataloader().dataset
    again = pickle.loads(pickle.dumps(dataset))
    keys = [(0, int(row)) for row in index.rows("train")[:3]]
    one, two = dataset.__getitems__(keys).batch, again.__getitems__(keys).batch
    assert one["texts"] == two["texts"]
    assert torch.equal(one["inputs"]["input_ids"], two["inputs"]["input_ids"])


def test_mirrored_images_are_warned_of(index, module, tmp_path, caplog):
    flip = Augment(before_crop=[v2.RandomHorizontalFlip()])
    with caplog.at_level(logging.WARNING, "tapetum"):
        data_for(index, module, tmp_path, augment=flip)
    assert "mirrors images (RandomHorizontalFlip), and captions say left and right" in caplog.text
    caplog.clear()
    data_for(index, module, tmp_path, augment=Augment(before_crop=[v2.RandomVerticalFlip()]))
    assert not caplog.text


def test_an_image_that_can_not_be_read_stops_or_is_counted(tmp_path, module):
    index = index_of(tmp_path / "root")
    (tmp_path / "root" / "train" / "03.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"03\.png can't be used"):
        list(data_for(index, module, tmp_path).train_dataloader())
    data = data_for(index, module, tmp_path, on_bad_image="skip")
    found = list(data.train_dataloader())
    assert sum(len(batch["index"]) for batch in found) == 11
    assert all(len(batch["texts"]) == len(batch["index"]) for batch in found)
    assert len(data.bad) == 1
    alone = data_for(index, module, tmp_path, on_bad_image="skip", batch_size=1, length_buckets=False)
    empty = [batch for batch in alone.train_dataloader() if not len(batch["index"])]
    assert len(empty) == 1
    assert (empty[0]["texts"], empty[0]["owners"].tolist()) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"captions": "some"}, "unknown value data.captions=some: one, all"),
        ({"sampler": "class_balanced"}, "data.sampler=class_balanced draws classes, and captions have none"),
    ],
)
def test_settings_that_can_not_be_meant_are_said(index, module, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        data_for(index, module, tmp_path, **arguments)
