"""Pixel LLM: shapes as its guide gives them, both halves trained, the image in every word."""

import pickle

import pytest
import torch
from tapetum.backbones.generation import Generation
from tapetum.captioners.pixel_llm import PixelLLM
from tapetum.errors import ConfigError

from modules.captioning_parts import network

IMAGES = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_guides_shape_is_196_patches_of_width_512():
    with torch.device("meta"):
        net = PixelLLM()
    visual = net(torch.zeros(2, 3, 224, 224, dtype=torch.uint8, device="meta"))
    assert visual.shape == (2, 196, 512)
    assert net.decoder.plain.get_input_embeddings().weight.shape == (50_000, 512)
    assert net.encode_fn() is None


@pytest.mark.parametrize("stem", ["patches", "convolutions"])
def test_everything_trains(stem):
    net = network(stem=stem).train()
    found = net.loss(net(IMAGES), net.encode_fn()(["a red square", "a dog", "nothing at all"]))
    found.total.backward()
    without = [name for name, value in net.named_parameters() if value.grad is None]
    assert without == []
    assert net(IMAGES).shape == (3, 4, 16)


def test_images_in_0_to_1_are_those_in_0_to_255():
    net = network().eval()
    assert torch.allclose(net(IMAGES), net(IMAGES / 255), atol=1e-5)


def test_what_is_said_depends_on_the_image():
    net = network().eval()
    inputs = net.encode_fn()(["a red square"] * 3)
    totals = net.loss(net(IMAGES), inputs).totals
    assert len({round(float(value), 4) for value in totals}) == 3


def test_activations_may_be_computed_again():
    inputs = network().encode_fn()(["a red square", "a dog", "nothing at all"])
    grads = []
    for again in (False, True):
        net = network(gradient_checkpointing=again).train()
        net.loss(net(IMAGES), inputs).total.backward()
        grads.append(torch.cat([value.grad.flatten() for value in net.parameters()]))
    assert torch.allclose(grads[0], grads[1], atol=1e-5)


def test_captions_end_and_the_encoder_travels():
    net = network().eval()
    texts = net.generate(net(IMAGES), Generation(max_new_tokens=5)).texts
    assert len(texts) == 3
    again = pickle.loads(pickle.dumps(net.encode_fn()))
    assert torch.equal(again(["a dog"])["input_ids"], net.encode_fn()(["a dog"])["input_ids"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 20}, r"model\.net\.size=20 is no multiple of model\.net\.patch_size=8: type .*size=16"),
        ({"width": 17}, r"model\.net\.width=17 is no multiple of model\.net\.heads=2"),
        ({"dropout": 1.0}, r"model\.net\.dropout=1\.0 is no share"),
        ({"stem": "magic"}, r"model\.net\.stem=magic: patches, convolutions"),
        ({"stem": "convolutions", "size": 24, "patch_size": 12}, r"patch_size=12 is no power of two"),
    ],
)
def test_shapes_that_do_not_fit_are_said(arguments, message):
    with pytest.raises(ConfigError, match=message):
        network(**arguments)


def test_longer_captions_than_were_learnt_are_refused():
    with pytest.raises(ConfigError, match=r"model\.generation\.max_new_tokens=24"):
        network().check_generation(60)
