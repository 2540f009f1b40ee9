"""Nearest neighbours against scikit-learn's on transformers' CLIP, and runs whose checkpoint is the bank."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import tapetum
import torch
from scipy.spatial.distance import cdist
from sklearn.neighbors import KNeighborsClassifier
from tapetum.backbones import tiny
from tapetum.backbones.frozen import FeatureBank
from tapetum.backbones.weights import load_weights
from tapetum.cli import main
from tapetum.detectors.knn import ClipKNN
from tapetum.errors import CheckpointError, ConfigError, DataError
from tapetum.images.geometry import InputSpec

from detectors.clip_oracles import pixel_values, whole_clip
from detectors.conv_oracles import pixels
from layouts import make_folder


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data") / "photos", splits={"train": 8, "val": 4, "test": 4})


@pytest.fixture
def plain(directory, tmp_path, monkeypatch):
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("TAPETUM_CACHE", str(tmp_path / "cache"))
    return [f"model.net.backbone={directory}", "accelerator=cpu", "data.num_workers=0"]


def features(directory, images):
    with torch.no_grad():
        return whole_clip(directory).get_image_features(pixel_values=pixel_values(images)).pooler_output


def filled(directory, images, labels, **arguments):
    net = ClipKNN(backbone=str(directory), pretrained=True, **arguments).eval()
    net.remember(net.frozen_features(images), labels)
    return net


@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_the_logit_is_above_zero_where_most_of_the_k_nearest_are_generated(directory, k):
    known, asked = pixels(40, 32, 32), pixels(60, 32, 32, seed=1)
    labels = torch.tensor([number % 2 for number in range(40)])
    oracle = KNeighborsClassifier(n_neighbors=k, metric="cosine", algorithm="brute")
    oracle.fit(features(directory, known), labels)
    expected = oracle.predict(features(directory, asked))
    net = filled(directory, known, labels, k=k)
    with torch.no_grad():
        found = net(asked)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy() > 0, expected == 1)
    assert 0 < expected.sum() < 60


def test_with_one_neighbour_the_logit_is_the_difference_of_the_smallest_cosine_distances(directory):
    known, asked = pixels(12, 32, 32), pixels(5, 32, 32, seed=1)
    labels = torch.tensor([0, 0, 1, 1, 1, -1, 0, 1, 0, -1, 1, 0])  # -1: of an image that nobody has labelled
    bank, points = features(directory, known).numpy(), features(directory, asked).numpy()
    nearest = [cdist(points, bank[labels.numpy() == label], "cosine").min(axis=1) for label in (0, 1)]
    net = filled(directory, known, labels)
    assert (net.real.shape, net.generated.shape) == ((5, 24), (5, 24))
    torch.testing.assert_close(net.real.norm(dim=1), torch.ones(5))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = net.forward_features(net.frozen_features(asked))
    with torch.no_grad():
        found = net(asked)
    np.testing.assert_allclose(found.numpy(), nearest[0] - nearest[1], atol=1e-5)
    np.testing.assert_allclose(coarse.numpy(), found.numpy(), atol=0.02)


def test_a_bank_is_read_back_whole_into_an_empty_one(directory, tmp_path):
    net = filled(directory, pixels(10, 32, 32), torch.tensor([0, 1] * 5), k=3)
    assert isinstance(net, FeatureBank)
    held = {name: v for name, v in net.state_dict().items() if name not in net.stored_elsewhere()}
    assert set(held) == {"real", "generated"}
    torch.save({"state_dict": held}, tmp_path / "bank.pth")
    other = ClipKNN(backbone=str(directory), pretrained=True, k=3).eval()
    with pytest.raises(CheckpointError, match="the bank of ClipKNN is empty"):
        other(pixels(1, 32, 32))
    load_weights(other, tmp_path / "bank.pth")
    asked = pixels(4, 32, 32, seed=1)
    assert torch.equal(other(asked), net(asked))


def test_a_bank_of_another_clip_is_told_by_its_width(directory, tmp_path):
    torch.save({"real": torch.randn(5, 768), "generated": torch.randn(4, 768)}, tmp_path / "bank.pth")
    net = ClipKNN(backbone=str(directory), pretrained=True)
    with pytest.raises(CheckpointError, match=r"real \(5x768 in the file, 0x24 in the network\)"):
        load_weights(net, tmp_path / "bank.pth")


def test_what_cannot_vote_is_told(directory):
    for k in (0, 4):
        with pytest.raises(ConfigError, match=rf"model\.net\.k={k} .* 1, 3, 5, 9"):
            ClipKNN(backbone=str(directory), pretrained=True, k=k)
    with pytest.raises(DataError, match=r"1 real and 3 generated .* vote of 3: each class needs 2 at least"):
        filled(directory, pixels(4, 32, 32), torch.tensor([0, 1, 1, 1]), k=3)
    with pytest.raises(DataError, match=r"4 real and 0 generated .* images of both classes"):
        filled(directory, pixels(4, 32, 32), torch.zeros(4))


def test_images_are_cropped_as_by_univfd_or_prepared_as_by_the_clip(directory):
    published = ClipKNN(backbone=str(directory), pretrained=False, resize=False)
    assert published.input_spec == InputSpec(
        size=None, resize="none", crop=(32, 32), interpolation="bilinear"
    )
    own = ClipKNN(backbone=str(directory), pretrained=False)
    assert own.input_spec == InputSpec((32, 32), "shortest", (32, 32), "bicubic")


@pytest.mark.parametrize("words", [["model=univfd_knn"], ["model=clip_knn", "data.cache=features"]])
def test_a_run_is_filled_from_its_train_split_and_judges_other_data(words, plain, folder, tmp_path, capsys):
    line = [*words, *plain, "data=folder", f"data.root={folder}"]
    assert main(["train", *line]) == 0
    run = next((tmp_path / "outputs").rglob("metrics.json")).parent
    assert "bank: features of 8 real and 8 generated training images" in (run / "train.log").read_text()
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name: len(value) for name, value in state.items()} == {"net.real": 8, "net.generated": 8}
    tested = pq.read_table(run / "predictions" / "test.parquet")
    logits = tested["logit"].to_numpy()
    found = tapetum.load(run).predict([folder / path for path in tested["path"].to_pylist()])
    np.testing.assert_allclose(found["logit"].to_numpy(), logits, atol=1e-5)

    other = make_folder(tmp_path / "other", splits={"train": 3, "test": 2}, seed=7)
    assert main(["evaluate", str(run), "data=folder", f"data.root={other}"]) == 0
    assert main(["predict", str(run), str(folder / "test"), str(tmp_path / "out.json")]) == 0
    assert len(json.loads((tmp_path / "out.json").read_text())) == 8
    state_after = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state_after["net.real"], state["net.real"])

    assert main(["evaluate", *line]) == 0  # without a run: the bank is the train split of the data
    assert main(["evaluate", *line, f"weights={run}"]) == 0
    alone = [pq.read_table(file) for file in (tmp_path / "outputs").glob("*/*/*/predictions/test.parquet")]
    assert len(alone) == 3
    for one in alone:
        np.testing.assert_allclose(one["logit"].to_numpy(), logits, atol=1e-5)


def test_nothing_to_compare_with_is_told(plain, folder, tmp_path, capsys):
    words = ["model=clip_knn", *plain]
    assert main(["evaluate", *words, "data=folder", f"data.root={folder / 'test'}"]) == 1
    assert "there is none: name its folder with data.roots.train=DIR" in capsys.readouterr().err
    assert main(["predict", str(folder / "test"), str(tmp_path / "out.json"), *words]) == 1
    assert "the bank of ClipKNN is empty" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
