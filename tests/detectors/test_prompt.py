from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tapetum.backbones import tiny
from tapetum.detectors.clip import ClipZeroShot
from tapetum.detectors.prompt import ClipPrompt
from tapetum.errors import CheckpointError, ConfigError
from transformers import CLIPModel, CLIPTokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return str(tiny.clip(tmp_path_factory.mktemp("clip") / "tiny"))


@pytest.fixture
def images():
    return torch.randint(
        0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def coop(directory, ctx, names, position):
    """Text features by CoOp's own recipe: a prompt of X is tokenised, and embeddings of X are replaced."""
    model, tokenizer = CLIPModel.from_pretrained(directory), CLIPTokenizer.from_pretrained(directory)
    length = ctx.shape[-2]
    found = []
    for number, name in enumerate(names):
        vectors = ctx if ctx.ndim == 2 else ctx[number]
        prompt = " ".join(["a"] * length) + f" {name}."
        ids = tokenizer(prompt, padding="max_length", return_tensors="pt")["input_ids"]
        name_length = len(tokenizer(name, add_special_tokens=False)["input_ids"])
        table = model.text_model.embeddings.token_embedding.weight
        embedded = F.embedding(ids[0], table)
        prefix, suffix = embedded[:1], embedded[1 + length :]
        own, rest = suffix[:name_length], suffix[name_length:]
        half = length // 2
        parts = {
            "end": [prefix, vectors, suffix],
            "middle": [prefix, vectors[:half], own, vectors[half:], rest],
            "front": [prefix, own, vectors, rest],
        }[position]
        # The tower looks tokens up itself: give it a table in which every place has a token of its own.
        row = torch.cat(parts)
        numbered = torch.arange(len(row)).unsqueeze(0)
        end = int((ids[0] == tokenizer.eos_token_id).int().argmax())
        model.text_model.embeddings.token_embedding.weight = torch.nn.Parameter(row)
        model.text_model.eos_token_id = end
        found.append(model.get_text_features(input_ids=numbered).pooler_output)
        model = CLIPModel.from_pretrained(directory)
    return F.normalize(torch.cat(found), dim=1)


@pytest.mark.parametrize("position", ["front", "middle", "end"])
@pytest.mark.parametrize("class_specific", [False, True])
def test_prompts_are_put_together_as_coop_does(directory, position, class_specific):
    net = ClipPrompt(
        backbone=directory,
        pretrained=True,
        context_length=5,
        position=position,
        class_specific=class_specific,
        real="real photo",
        generated="zebra",  # several tokens, so the prompts differ in length
    )
    assert net.ctx.shape == ((2, 5, 32) if class_specific else (5, 32))
    expected = coop(directory, net.ctx, ("real photo", "zebra"), position)
    assert torch.allclose(net.text_features(), expected, atol=1e-5)


def test_words_start_where_zero_shot_is(directory, images):
    net = ClipPrompt(backbone=directory, pretrained=True, context="a photo of a")
    zero = ClipZeroShot(backbone=directory, pretrained=True, templates=["a photo of a {}."])
    assert net.ctx.shape == (4, 32)
    assert torch.allclose(net(images), zero(images), atol=1e-5)


def test_the_context_is_ten_random_vectors_by_default(directory):
    torch.manual_seed(0)
    net = ClipPrompt(backbone=directory, pretrained=True)
    assert net.ctx.shape == (10, 32)
    assert float(net.ctx.detach().std()) == pytest.approx(0.02, rel=0.15)
    assert abs(float(net.ctx.detach().mean())) < 0.005


def test_the_gradient_goes_to_the_context_alone(directory, images):
    net = ClipPrompt(backbone=directory, pretrained=True).train()
    net(images).sum().backward()
    reached = {name for name, value in net.named_parameters() if value.grad is not None}
    assert reached == {"ctx"} == {name for name, value in net.named_parameters() if value.requires_grad}
    assert net.ctx.grad.abs().sum() > 0
    assert not any(module.training for module in net.clip.modules())
    assert not net.frozen_features(images).requires_grad


def test_a_checkpoint_holds_the_context_alone(directory):
    net = ClipPrompt(backbone=directory, pretrained=True)
    assert set(net.state_dict()) - net.stored_elsewhere() == {"ctx"}
    assert ClipPrompt(backbone=directory, pretrained=False).stored_elsewhere() == frozenset()


def test_learning_the_context_lowers_the_loss(directory, images):
    torch.manual_seed(0)
    net = ClipPrompt(backbone=directory, pretrained=True).train()
    labels = torch.tensor([1.0, 0.0, 1.0])
    optimizer = torch.optim.AdamW([net.ctx], lr=1e-2)
    features = net.frozen_features(images)
    losses = []
    for _ in range(30):
        loss = F.binary_cross_entropy_with_logits(net.forward_features(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context_length": 3, "context": "a photo of a"}, "has 4 tokens, and their number is the length"),
        ({"context_length": 12, "context": "a photo of a"}, "leave context_length null"),
        ({"context_length": 0}, "context_length=0"),
        ({"context_length": 74}, "longer than the 77"),
        ({"context": "of " * 80}, "longer than the 77"),
        ({"context": "  "}, "has no words"),
        ({"position": "back"}, "front, middle, end"),
        ({"real": ""}, "has no name"),
        ({"backbone": "timm/test_vit"}, "without its text tower"),
    ],
)
def test_bad_arguments_are_named(directory, arguments, message):
    with pytest.raises(ConfigError, match=message):
        ClipPrompt(**{"backbone": directory, "pretrained": True, **arguments})


def test_words_without_a_tokenizer_give_the_two_commands(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with torch.device("meta"), pytest.raises(CheckpointError, match=r"hf download (?s:.*)tapetum tiny clip"):
        ClipPrompt(pretrained=True, context="a photo of a")
