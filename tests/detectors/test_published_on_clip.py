"""What holds for every published detector on CLIP, as its config builds it and as a user types it."""

from __future__ import annotations

import functools
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import tapetum
import torch
from PIL import Image
from tapetum.backbones import tiny
from tapetum.backbones.frozen import FrozenFeatures
from tapetum.backbones.weights import load_weights
from tapetum.cli import main
from tapetum.config.build import build
from tapetum.config.compose import compose
from tapetum.config.overrides import prepare as prepared
from tapetum.errors import CheckpointError
from tapetum.images.geometry import prepare
from tapetum.images.sources import read_image
from tapetum.runs.building import build_network, build_network_on_meta, parameter_counts
from torchvision.transforms import CenterCrop, Compose, Lambda, Resize

from detectors.conv_oracles import pixels
from layouts import make_folder

MODELS = ("univfd", "rine_1class", "rine_2class", "rine_4class", "rine_ldm", "effort", "c2p_clip")
DISTINCT = ("univfd", "rine_2class", "effort", "c2p_clip")


def tiled(image):
    """Repeated whole until both sides have 256 pixels (Effort's `translate_duplicate`)."""
    width, height = image.size
    if min(width, height) >= 256:
        return image
    columns, rows = -(-256 // width), -(-256 // height)
    wide = Image.new("RGB", (columns * width, rows * height))
    for x in range(columns):
        for y in range(rows):
            wide.paste(image, (x * width, y * height))
    return wide


# The published evaluation, in torchvision's words on a Pillow image.
GEOMETRY = {
    "univfd": CenterCrop(224),
    "rine_2class": CenterCrop(224),
    "rine_ldm": Lambda(lambda image: image),
    "effort": Compose([Lambda(tiled), CenterCrop(224)]),
    "c2p_clip": Compose([Resize(224), CenterCrop(224)]),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data") / "photos", splits={"train": 8, "val": 4, "test": 4})


@functools.cache
def on_meta(model):
    """The network as its config has it, on ViT-L/14; building it takes a second."""
    return build_network_on_meta(config(model))


def config(model, *overrides):
    return compose(prepared([f"model={model}", *overrides], multirun=False)).config


def network(model, directory, *overrides):
    torch.manual_seed(0)
    return build_network(config(model, f"model.net.backbone={directory}", *overrides))


def published(model, directory, file):
    """A file with the names that the model's files have, and values of its own; the file."""
    state = network(model, directory).state_dict()
    generator = torch.Generator().manual_seed(5)
    moved = {name: v + 0.01 * torch.randn(v.shape, generator=generator) for name, v in state.items()}
    if model == "univfd":
        moved = {name.removeprefix("fc."): v for name, v in moved.items() if name.startswith("fc.")}
    if model.startswith("rine"):
        moved = {name: v for name, v in moved.items() if not name.startswith("clip.")}
    torch.save(moved, file)
    return file


@pytest.mark.parametrize(
    ("model", "total", "trainable"),
    [
        ("univfd", 303_966_977, 769),
        ("rine_1class", 314_487_809, 10_521_601),
        ("rine_2class", 304_249_217, 283_009),
        ("rine_4class", 310_289_409, 6_323_201),
        ("rine_ldm", 314_487_809, 10_521_601),
        ("effort", 303_377_505, 24 * 4 * 2049 + 1025),
        ("c2p_clip", 303_966_977, 769),
    ],
)
def test_parameters_on_vit_l_14_are_the_published_ones(model, total, trainable):
    net = build_network_on_meta(config(model, "model.fit=true"))
    assert parameter_counts(net) == (total, trainable)


@pytest.mark.parametrize("model", GEOMETRY)
@pytest.mark.parametrize("size", [(300, 411), (100, 301), (255, 256), (33, 20), (1, 1)])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pixels_from_a_file_are_those_of_the_published_evaluation_to_the_bit(model, size, suffix, tmp_path):
    picture = Image.fromarray(pixels(1, *size)[0].permute(1, 2, 0).numpy())
    picture.save(tmp_path / f"image{suffix}")
    expected = np.asarray(GEOMETRY[model](Image.open(tmp_path / f"image{suffix}").convert("RGB")))
    spec = on_meta(model).input_spec
    found = prepare(read_image(tmp_path, f"image{suffix}"), spec).permute(1, 2, 0).numpy()
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("model", DISTINCT)
@pytest.mark.parametrize("wrapper", ["model", "state_dict", None])
def test_a_published_file_is_loaded_whatever_it_is_wrapped_in(model, directory, wrapper, tmp_path):
    state = torch.load(published(model, directory, tmp_path / "a.pth"))
    state = {f"module.{name}": value for name, value in state.items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "b.pth")
    one, other = network(model, directory).eval(), network(model, directory).eval()
    load_weights(one, tmp_path / "a.pth")
    load_weights(other, tmp_path / "b.pth")
    images = pixels(3, 32, 32)
    assert torch.equal(one(images), other(images))
    assert len(one(images).unique()) == 3


@pytest.mark.parametrize("model", DISTINCT)
def test_the_file_of_another_detector_is_refused_in_a_few_lines_and_changes_nothing(
    model, directory, tmp_path
):
    other = published("effort" if model != "effort" else "rine_2class", directory, tmp_path / "other.pth")
    net = network(model, directory)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"other\.pth does not fit {type(net).__name__}") as caught:
        load_weights(net, other)
    lines = str(caught.value).splitlines()
    assert 3 <= len(lines) <= 5
    assert max(map(len, lines)) < 500
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("model", DISTINCT)
def test_the_network_exports_to_a_graph_with_the_same_logits(model, directory, tmp_path):
    net = network(model, directory).eval()
    load_weights(net, published(model, directory, tmp_path / "a.pth"))
    images = pixels(2, 32, 32)
    with torch.no_grad():
        exported = torch.export.export(net, (images,)).module()
        torch.testing.assert_close(exported(images), net(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["univfd", "rine_2class", "rine_ldm"])
def test_what_is_kept_of_a_frozen_tower_gives_the_same_logits(model, directory, tmp_path):
    net = network(model, directory).eval()
    load_weights(net, published(model, directory, tmp_path / "a.pth"))
    assert isinstance(net, FrozenFeatures)
    images = pixels(3, 33, 40) if model == "rine_ldm" else pixels(3, 32, 32)
    features = net.frozen_features(images)
    assert not features.requires_grad
    assert torch.equal(net.forward_features(features), net(images))
    other = network(model, directory)
    assert other.cache_key() == net.cache_key()
    with torch.no_grad():
        next(part for name, part in other.named_parameters() if "layer_norm2" in name).add_(0.1)
    assert other.cache_key() != net.cache_key()


@pytest.mark.parametrize(
    ("model", "target", "optimizer"),
    [
        ("univfd", "AdamW", {"lr": 1e-4, "weight_decay": 0.0}),
        ("rine_1class", "Adam", {"lr": 1e-3, "weight_decay": 0.0}),
        ("effort", "AdamW", {"lr": 2e-4, "weight_decay": 0.0}),
    ],
)
def test_the_optimizer_is_the_published_one(model, target, optimizer):
    found = config(model)["optimizer"]
    assert found["_target_"] == f"torch.optim.{target}"
    assert {name: found[name] for name in optimizer} == optimizer


def test_xi_of_each_training_set_is_the_published_one():
    losses = {one: build(config(f"rine_{one}")["model"]["loss"]) for one in ("1class", "2class", "4class")}
    assert {one: loss.xi for one, loss in losses.items()} == {"1class": 0.1, "2class": 0.2, "4class": 0.2}
    assert {loss.temperature for loss in losses.values()} == {0.07}


@pytest.mark.parametrize(
    ("model", "before"),
    [
        ("univfd", ["Resize", "RandomGaussianBlur", "RandomJpeg"]),
        ("rine_4class", ["RandomGaussianBlur", "RandomJpeg"]),
        ("effort", []),
    ],
)
@pytest.mark.parametrize("size", [(300, 512), (20, 31)])
def test_training_crops_are_of_the_towers_size_after_the_published_degradations(model, before, size):
    augment = build(config(model)["augment"])
    assert [type(one).__name__ for one in augment.before_crop] == before
    spec = on_meta(model).input_spec
    images = [augment(pixels(1, *size)[0], spec, seed) for seed in range(6)]
    assert {tuple(image.shape) for image in images} == {(3, 224, 224)}
    assert len({image.numpy().tobytes() for image in images}) > 1


@pytest.mark.parametrize("model", ["rine_1class", "univfd"])
def test_jpeg_qualities_are_drawn_from_the_whole_range_unlike_rines(model):
    jpeg = build(config(model)["augment"]).before_crop[-1]
    assert tuple(jpeg.quality) == (30, 100)


# -- as a user types it -------------------------------------------------------------------------------------


@pytest.fixture
def plain(directory, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TAPETUM_OUTPUTS", str(tmp_path / "outputs"))
    return [f"model.net.backbone={directory}", "accelerator=cpu", "data.num_workers=0"]


@pytest.mark.parametrize("model", ["univfd", "rine_2class", "rine_ldm", "effort", "c2p_clip"])
def test_published_weights_are_evaluated_and_predict_the_same(model, plain, directory, folder, tmp_path):
    file = published(model, directory, tmp_path / "published.pth")
    words = [f"model={model}", f"weights={file}", *plain]
    assert main(["evaluate", *words, "data=folder", f"data.root={folder}"]) == 0
    evaluated = json.loads(next((tmp_path / "outputs").rglob("metrics.json")).read_text())
    assert 0 <= evaluated["test/accuracy"] <= 1
    assert main(["predict", str(folder / "test"), str(tmp_path / "out.json"), *words]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())
    assert list(rows[0]) == ["path", "logit", "probability", "verdict", "band"]
    net = network(model, directory).eval()
    load_weights(net, file)
    for row in rows:
        image = prepare(read_image(folder, row["path"]), net.input_spec)[None]
        with torch.no_grad():
            assert row["logit"] == pytest.approx(net(image).item(), abs=1e-5)


@pytest.mark.parametrize("model", ["rine_ldm", "c2p_clip"])
def test_what_is_published_for_prediction_is_refused_without_weights(model, plain, folder, capsys):
    assert main(["evaluate", f"model={model}", *plain, "data=folder", f"data.root={folder}"]) == 1
    assert "none were loaded: type weights=FILE" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["univfd", "rine_2class", "effort"])
def test_a_trained_run_is_read_back_as_it_was_and_holds_no_frozen_weight(
    model, plain, directory, folder, tmp_path
):
    words = ["data=folder", f"data.root={folder}", "trainer.max_epochs=1", "data.batch_size=8"]
    assert main(["train", f"model={model}", *plain, *words]) == 0
    run = next((tmp_path / "outputs").rglob("metrics.json")).parent
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    net = network(model, directory)
    trained = {f"net.{name}" for name, value in net.named_parameters() if value.requires_grad}
    assert {name for name in state if name.startswith("net.")} == trained
    tested = pq.read_table(run / "predictions" / "test.parquet")
    found = tapetum.load(run).predict([folder / path for path in tested["path"].to_pylist()])
    np.testing.assert_allclose(found["logit"].to_numpy(), tested["logit"].to_numpy(), atol=1e-5)
