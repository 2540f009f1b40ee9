"""What holds for every convolutional published detector, as its config builds it."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tapetum.backbones.weights import load_weights
from tapetum.config.build import build
from tapetum.config.compose import compose
from tapetum.config.overrides import prepare as prepared
from tapetum.errors import CheckpointError
from tapetum.images.geometry import prepare
from tapetum.images.sources import read_image
from tapetum.runs.building import build_network, build_network_on_meta
from torchvision.transforms import CenterCrop, Resize

from detectors.conv_oracles import pixels
from layouts import make_image

# The published evaluation, in torchvision's words on a Pillow image.
GEOMETRY = {
    "cnndetection": CenterCrop(224),
    "freqnet": Resize((256, 256)),
    "ferretnet_s": CenterCrop((256, 256)),
    "ferretnet_b": CenterCrop((256, 256)),
    "ladeda": Resize((256, 256)),
    "tiny_ladeda": Resize((256, 256)),
    "safe": CenterCrop([256, 256]),
}
ARCHITECTURES = sorted(set(GEOMETRY) - {"ferretnet_b"})


def config(model, *overrides):
    return compose(prepared([f"model={model}", *overrides], multirun=False)).config


def network(model, *overrides):
    torch.manual_seed(0)
    return build_network(config(model, *overrides))


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_logits_are_the_same_for_bytes_and_floats_odd_sides_and_one_image_a_batch(model):
    net = network(model).eval()
    images = pixels(3, 39, 50)
    with torch.no_grad():
        together = net(images)
        alone = torch.cat([net(image[None]) for image in images])
        torch.testing.assert_close(net(images / 255), together, rtol=1e-5, atol=1e-5)
    assert (together.shape, together.dtype) == ((3,), torch.float32)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    assert len(together.unique()) == 3


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_k_way_heads_return_a_column_a_class(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = network(model, "model.net.classes=4")(pixels(2, 32, 32))
    assert (scores.shape, scores.dtype) == ((2, 4), torch.float32)


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_training_lowers_the_loss_and_reaches_every_parameter(model, tmp_path):
    files = [make_image(tmp_path / f"{n}.png", generated=bool(n % 2), seed=n, size=48) for n in range(8)]
    images = torch.stack([read_image(Path(), str(file)) for file in files])
    labels = torch.tensor([n % 2 for n in range(8)], dtype=torch.float32)
    net = network(model).train()
    steps, rate = (40, 2e-2) if model == "tiny_ladeda" else (6, 1e-3)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())
        optimizer.step()
    assert min(losses[-2:]) < 0.9 * losses[0]


@pytest.mark.parametrize("model", GEOMETRY)
@pytest.mark.parametrize("size", [(300, 411), (100, 301), (256, 256), (33, 20), (1, 1)])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pixels_from_a_file_are_those_of_the_published_evaluation_to_the_bit(model, size, suffix, tmp_path):
    picture = Image.fromarray(pixels(1, *size)[0].permute(1, 2, 0).numpy())
    picture.save(tmp_path / f"image{suffix}")
    expected = np.asarray(GEOMETRY[model](Image.open(tmp_path / f"image{suffix}").convert("RGB")))
    spec = build_network_on_meta(config(model)).input_spec
    image = read_image(tmp_path, f"image{suffix}")
    found = prepare(image, spec).permute(1, 2, 0).numpy()
    assert np.array_equal(found, expected)  # where the image is smaller than a crop, black around it


@pytest.mark.parametrize("model", ARCHITECTURES)
@pytest.mark.parametrize("wrapper", ["model", "model_state_dict", None])
def test_a_published_file_is_loaded_whole_whatever_it_is_wrapped_in(model, wrapper, tmp_path):
    published = network(model)
    with torch.no_grad():
        for value in published.state_dict().values():
            value.copy_(torch.rand_like(value, dtype=torch.float32))
    state = {f"module.{name}": value for name, value in published.state_dict().items()}
    beside = {"optimizer": {"state": {}}, "total_steps": 3, "args": argparse.Namespace(lr=1e-4)}
    torch.save({wrapper: state, **beside} if wrapper else state, tmp_path / "published.pth")
    net = network(model)
    load_weights(net, tmp_path / "published.pth")
    found = net.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in published.state_dict().items())


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_the_file_of_another_detector_is_refused_in_a_few_lines_and_changes_nothing(model, tmp_path):
    other = "safe" if model != "safe" else "npr"
    torch.save(network(other).state_dict(), tmp_path / "other.pth")
    net = network(model)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"other\.pth does not fit {type(net).__name__}") as caught:
        load_weights(net, tmp_path / "other.pth")
    lines = str(caught.value).splitlines()
    assert 3 <= len(lines) <= 5
    assert max(map(len, lines)) < 400
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_small_ferretnet_is_told_from_the_large_one_by_shape(tmp_path):
    torch.save({"model": network("ferretnet_b").state_dict()}, tmp_path / "ferretnet-b.pth")
    with pytest.raises(
        CheckpointError, match=r"of another shape: cbr1\.0\.weight \(48x3x3x3 in the file, 16x3"
    ):
        load_weights(network("ferretnet_s"), tmp_path / "ferretnet-b.pth")


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_the_network_exports_to_a_graph_with_the_same_logits(model):
    net = network(model).eval()
    images = pixels(2, 48, 40)
    with torch.no_grad():
        exported = torch.export.export(net, (images,)).module()
        torch.testing.assert_close(exported(images), net(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        ("cnndetection", {"lr": 1e-4, "weight_decay": 0.0}),
        ("freqnet", {"lr": 2e-4, "weight_decay": 0.0}),
        ("ferretnet_b", {"lr": 2e-4, "weight_decay": 5e-4, "betas": [0.937, 0.999]}),
        ("ladeda", {"lr": 2e-4, "weight_decay": 0.0}),
        ("safe", {"lr": 5e-3, "weight_decay": 0.01}),
    ],
)
def test_the_optimizer_is_the_published_one(model, optimizer):
    found = config(model)["optimizer"]
    assert found["_target_"] == ("torch.optim.AdamW" if model == "safe" else "torch.optim.Adam")
    assert {name: found[name] for name in optimizer} == optimizer


def test_safe_is_trained_with_its_label_smoothing():
    assert build(config("safe")["model"]["loss"]).label_smoothing == 0.1


@pytest.mark.parametrize("model", GEOMETRY)
def test_nothing_is_chosen_on_the_test_split_unlike_ferretnets_checkpoint(model):
    found = config(model)
    assert found["train"]["monitor"].startswith("val/")
    assert found["callbacks"]["checkpoint"] is not None


def test_cnndetection_is_trained_on_a_resized_blurred_compressed_crop_in_that_order():
    augment = build(config("cnndetection")["augment"])
    assert [type(one).__name__ for one in augment.before_crop] == [
        "Resize",
        "RandomGaussianBlur",
        "RandomJpeg",
    ]
    spec = build_network_on_meta(config("cnndetection")).input_spec
    images = [augment(pixels(1, 300, 512)[0], spec, seed) for seed in range(4)]
    assert {tuple(image.shape) for image in images} == {(3, 224, 224)}
    assert augment.before_crop[0](pixels(1, 300, 512)[0]).shape == (3, 256, 436)


@pytest.mark.parametrize("model", ["safe", "ferretnet_s"])
@pytest.mark.parametrize("size", [(400, 300), (20, 31)])
def test_training_crops_are_of_the_evaluations_size_whatever_the_images(model, size):
    augment = build(config(model)["augment"])
    spec = build_network_on_meta(config(model)).input_spec
    images = [augment(pixels(1, *size)[0], spec, seed) for seed in range(6)]
    assert {tuple(image.shape) for image in images} == {(3, 256, 256)}
    assert len({image.numpy().tobytes() for image in images}) > 1
