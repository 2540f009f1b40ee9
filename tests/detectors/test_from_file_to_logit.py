"""Each convolutional detector as a user types it: a published file and images in, logits out.

Pillow reads and torchvision prepares the images of the oracle; what it computes of them is that of the
network's own tests.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tapetum.cli import main
from tapetum.config.compose import compose
from tapetum.config.overrides import prepare
from tapetum.runs.building import build_network
from torchvision.transforms import CenterCrop, PILToTensor, Resize

from detectors import test_ferretnet, test_freqnet, test_ladeda, test_npr, test_safe
from detectors.conv_oracles import lived_in, normalised

SIZES = {
    "small.png": (40, 61),
    "portrait.jpg": (301, 240),
    "landscape.jpg": (257, 400),
    "grey.png": (256, 256),
}


def resnet50(network, images):
    theirs = torchvision.models.resnet50(weights=None, num_classes=1)
    theirs.load_state_dict(network.state_dict(), strict=True)
    with torch.no_grad():
        return theirs.eval()(torch.tensor(normalised(images), dtype=torch.float32)).squeeze(1)


def two_scores(network, images):
    scores = test_safe.by_hand(network, images)
    return scores[:, 1] - scores[:, 0]


def mean_of_patches(by_hand, network, images):
    return by_hand(network, images).mean(dim=(1, 2))


# model: (how its published file wraps the tensors, the published evaluation on a Pillow image, the oracle)
PUBLISHED = {
    "cnndetection": ("model", CenterCrop(224), resnet50),
    "npr": (None, Resize((256, 256)), test_npr._by_hand),
    "freqnet": (None, Resize((256, 256)), test_freqnet.by_hand),
    "ferretnet_s": ("model", CenterCrop((256, 256)), test_ferretnet.by_hand),
    "ladeda": (None, Resize((256, 256)), partial(mean_of_patches, test_ladeda.ladeda_by_hand)),
    "tiny_ladeda": (None, Resize((256, 256)), partial(mean_of_patches, test_ladeda.tiny_by_hand)),
    "safe": ("model", CenterCrop([256, 256]), two_scores),
}

SLOW = {"freqnet", "ladeda"}  # by hand they take seconds an image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of all kinds of sides: smooth enough that a resize is no lottery, with noise on top."""
    place = tmp_path_factory.mktemp("photos")
    for number, (name, (height, width)) in enumerate(SIZES.items()):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        picture = Image.fromarray((smooth + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8))
        (picture.convert("L") if name.startswith("grey") else picture).save(place / name)
    return place


def trained(model):
    """The network as its config builds it, with running statistics and a head of some training."""
    torch.manual_seed(0)
    net = build_network(compose(prepare([f"model={model}"], multirun=False)).config)
    if model == "freqnet":
        with torch.no_grad():  # the published start, a standard normal, makes logits of any size
            for number in (1, 2, 3, 4):
                getattr(net, f"weight{number}").mul_((2 / getattr(net, f"weight{number}").shape[1]) ** 0.5)
                getattr(net, f"bias{number}").mul_(0.1)
    return lived_in(net)


@pytest.mark.parametrize("model", PUBLISHED)
def test_logits_of_a_published_file_are_those_of_the_original_from_the_image_on(model, photos, tmp_path):
    wrapper, geometry, by_hand = PUBLISHED[model]
    net = trained(model)
    state = net.state_dict()
    content = {wrapper: state, "optimizer": {}, "args": argparse.Namespace(lr=1e-4)} if wrapper else state
    zipped = model != "cnndetection"  # published before torch wrote zip archives
    torch.save(content, tmp_path / "published.pth", _use_new_zipfile_serialization=zipped)
    words = [f"model={model}", f"weights={tmp_path / 'published.pth'}", "accelerator=cpu"]
    assert main(["predict", str(photos), str(tmp_path / "out.json"), *words]) == 0
    rows = {row["path"].rpartition("/")[2]: row for row in json.loads((tmp_path / "out.json").read_text())}
    assert set(rows) == set(SIZES)
    for name, row in list(rows.items())[: 1 if model in SLOW else None]:
        assert list(row) == ["path", "logit", "probability", "verdict", "band"]
        image = PILToTensor()(geometry(Image.open(photos / name).convert("RGB")))
        expected = float(by_hand(net, image[None]))
        assert row["logit"] == pytest.approx(expected, abs=1e-4)
        assert row["probability"] == pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-4)
        assert row["verdict"] == ("generated" if expected > 0 else "real")
    assert len({row["logit"] for row in rows.values()}) == len(SIZES)
