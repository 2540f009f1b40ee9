"""RINE against a head in numpy on the blocks of transformers' and OpenAI's CLIP; its loss by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tapetum.backbones import tiny
from tapetum.backbones.stages import ClipStages
from tapetum.backbones.weights import load_weights
from tapetum.detectors.rine import RINE, block_tokens, ten_crops
from tapetum.detectors.univfd import UnivFD
from tapetum.errors import CheckpointError, ConfigError, ImageError
from tapetum.modules.supcon import ContrastiveDetectionModule, SupConCrossEntropy, supcon
from torchvision.transforms.functional import ten_crop

from detectors.clip_oracles import openai_encode_image, openai_names, pixel_values, whole_clip
from detectors.conv_oracles import pixels


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip") / "tiny")


def rine(directory, **arguments):
    torch.manual_seed(0)
    return RINE(**{"backbone": str(directory), "pretrained": True, "nproj": 2, "proj_dim": 16, **arguments})


def published(*, nproj, proj_dim, width=32, blocks=4):
    """A file as rine's own training stores it."""
    shapes = {"alpha": (1, blocks, proj_dim)}
    for number in range(nproj):
        shapes[f"proj1.{1 + 3 * number}.weight"] = (proj_dim, proj_dim if number else width)
        shapes[f"proj2.{1 + 3 * number}.weight"] = (proj_dim, proj_dim)
        shapes |= {f"proj{one}.{1 + 3 * number}.bias": (proj_dim,) for one in (1, 2)}
    for number, outputs in ((0, proj_dim), (3, proj_dim), (6, 1)):
        shapes |= {f"head.{number}.weight": (outputs, proj_dim), f"head.{number}.bias": (outputs,)}
    generator = torch.Generator().manual_seed(2)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def judged(state, tokens):
    """(logits, z) of class tokens [B, blocks, width], in numpy, from a published file."""
    weights = {name: value.double().numpy() for name, value in state.items()}

    def layers(x, part, last_is_linear=False):
        names = sorted({int(name.split(".")[1]) for name in weights if name.startswith(f"{part}.")})
        for number in names:
            x = x @ weights[f"{part}.{number}.weight"].T + weights[f"{part}.{number}.bias"]
            if not (last_is_linear and number == names[-1]):
                x = np.maximum(x, 0)
        return x

    h = layers(tokens.double().numpy(), "proj1")
    importance = np.exp(weights["alpha"]) / np.exp(weights["alpha"]).sum(axis=1, keepdims=True)
    z = layers((importance * h).sum(axis=1), "proj2")
    return layers(z, "head", last_is_linear=True)[:, 0], z


def test_class_tokens_are_those_of_layer_norm_2_in_transformers_own_forward(directory):
    reference, seen = whole_clip(directory), []
    for block in reference.vision_model.encoder.layers:
        block.layer_norm2.register_forward_hook(lambda _, __, output: seen.append(output[:, 0]))
    images = pixel_values(pixels(3, 32, 32))
    with torch.no_grad():
        reference.vision_model(pixel_values=images)
        found = block_tokens(ClipStages(rine(directory).clip), images)
    torch.testing.assert_close(found, torch.stack(seen, dim=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("nproj", "proj_dim"), [(1, 8), (2, 32), (4, 16)])
def test_logits_of_a_published_file_are_those_of_the_paper(directory, tmp_path, nproj, proj_dim):
    state = published(nproj=nproj, proj_dim=proj_dim)
    torch.save(state, tmp_path / "model_4class_trainable.pth")
    net = rine(directory, nproj=nproj, proj_dim=proj_dim)
    load_weights(net, tmp_path / "model_4class_trainable.pth")
    images = pixels(3, 32, 32)
    openai = openai_names(whole_clip(directory).state_dict())
    _, tokens = openai_encode_image(openai, pixel_values(images), heads=4)
    with torch.no_grad():
        found = net.eval()(images)
    expected, _ = judged(state, tokens)
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_published_file_is_not_put_on_a_random_tower(directory, tmp_path):
    torch.save(published(nproj=2, proj_dim=16), tmp_path / "rine.pth")
    with pytest.raises(CheckpointError, match=r"the trained part of RINE alone \(15 of"):
        load_weights(rine(directory, pretrained=False), tmp_path / "rine.pth")


def test_the_file_of_another_setting_is_refused_and_changes_nothing(directory, tmp_path):
    torch.save(published(nproj=4, proj_dim=16), tmp_path / "rine.pth")
    net = rine(directory)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"8 unknown to the network: proj1\.7\.weight") as caught:
        load_weights(net, tmp_path / "rine.pth")
    assert len(str(caught.value).splitlines()) == 3
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_file_with_a_part_of_the_tower_is_refused(directory, tmp_path):
    net = rine(directory)
    state = net.state_dict()
    del state["clip.visual_projection.weight"]
    torch.save(state, tmp_path / "rine.pth")
    with pytest.raises(CheckpointError, match=r"1 missing in the file: clip\.visual_projection\.weight"):
        load_weights(net, tmp_path / "rine.pth")


@pytest.mark.parametrize("size", [(32, 32), (39, 50), (64, 33)])
def test_ten_crops_are_torchvisions_and_the_logit_is_their_mean(directory, size):
    images = pixels(2, *size)
    found = ten_crops(images, 32)
    for image, crops in zip(images, found, strict=True):
        expected = {crop.numpy().tobytes() for crop in ten_crop(image, [32, 32])}
        assert {crop.numpy().tobytes() for crop in crops} == expected
    net, ten = rine(directory).eval(), rine(directory, ten_crop=True).eval()
    ten.load_state_dict(net.state_dict())
    with torch.no_grad():
        expected = torch.stack([net(crops).mean() for crops in found])
        torch.testing.assert_close(ten(images), expected, rtol=1e-5, atol=1e-5)
    assert ten.input_spec.output_size is None


def test_ten_crops_are_refused_where_they_cannot_be(directory):
    net = rine(directory, ten_crop=True)
    with pytest.raises(ConfigError, match=r"train with model\.net\.ten_crop=false"):
        net(pixels(1, 40, 40))
    with pytest.raises(CheckpointError, match="none were loaded: type weights=FILE"):
        net.eval()(pixels(1, 40, 40))
    net.load_state_dict(net.state_dict())
    with pytest.raises(ImageError, match=r"an image of 40x31 pixels .* smaller than the ten crops of 32x32"):
        net(pixels(1, 40, 31))


def contrastive(z, labels, temperature):
    """L_out of Khosla et al., equation 2, one anchor at a time; an anchor without positives counts as 0."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        below = sum(np.exp(z[i] @ z[a] / temperature) for a in others)
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            total -= sum(np.log(np.exp(z[i] @ z[p] / temperature) / below) for p in positives) / len(
                positives
            )
    return total / len(z)


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
def test_the_loss_is_the_summed_cross_entropy_and_xi_times_the_contrastive_one(labels):
    generator = torch.Generator().manual_seed(0)
    z, logits = torch.randn(5, 7, generator=generator), torch.randn(5, generator=generator)
    targets = torch.tensor(labels)
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    entropy = -np.log(np.where(np.array(labels) == 1, p, 1 - p)).sum()
    expected = contrastive(z.double().numpy(), labels, 0.07)
    assert supcon(z, targets, temperature=0.07).item() == pytest.approx(expected, abs=1e-5)
    found = SupConCrossEntropy(xi=0.2)(logits, targets, z).item()
    assert found == pytest.approx(entropy + 0.2 * expected, rel=1e-5)


def test_a_batch_of_one_image_has_a_finite_loss_and_gradient():
    z = torch.randn(1, 4, requires_grad=True)
    supcon(z, torch.tensor([1]), temperature=0.07).backward()
    assert torch.isfinite(z.grad).all()


def test_the_loss_sees_the_vector_that_is_judged_and_reaches_every_trained_parameter(directory):
    net = rine(directory)
    module = ContrastiveDetectionModule(net, loss=SupConCrossEntropy(xi=5.0))
    module.on_fit_start()
    net.eval()
    images, labels = pixels(4, 32, 32), torch.tensor([0, 1, 0, 1])
    batch = {"images": images, "labels": labels, "index": torch.arange(4)}
    logits = module(images)
    loss = module.compute_loss(batch, logits)
    _, z = judged({n: v.detach() for n, v in net.state_dict().items()}, _tokens(net, images))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum")
    expected = entropy.item() + 5 * contrastive(z, labels.tolist(), 0.07)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    trained = {name for name, value in net.named_parameters() if value.requires_grad}
    assert trained == {name for name, value in net.named_parameters() if value.grad is not None}
    assert all(value.grad.abs().sum() > 0 for value in net.parameters() if value.requires_grad)
    assert not any(name.startswith("clip.") for name in trained)


def _tokens(net, images):
    return block_tokens(ClipStages(net.clip), pixel_values(images))


def test_a_network_without_representation_and_a_module_that_hands_none_on_are_told(directory):
    other = UnivFD(backbone=str(directory), pretrained=False)
    with pytest.raises(ConfigError, match=r"\(proj2\), which UnivFD has not"):
        ContrastiveDetectionModule(other, loss=SupConCrossEntropy(xi=0.1)).on_fit_start()
    with pytest.raises(ConfigError, match="ContrastiveDetectionModule"):
        SupConCrossEntropy(xi=0.1)(torch.zeros(2), torch.tensor([0, 1]))
    for wrong in ({"xi": -1.0}, {"xi": 0.1, "temperature": 0.0}):
        with pytest.raises(ConfigError, match=r"model\.loss\.(xi=-1|temperature=0)"):
            SupConCrossEntropy(**wrong)


def test_alpha_weighs_blocks_feature_by_feature_from_a_normal_start(directory):
    net = rine(directory, proj_dim=256)
    assert net.alpha.shape == (1, 4, 256)
    assert 0.9 < net.alpha.detach().std() < 1.1
    for wrong in ({"nproj": 0}, {"proj_dim": 0}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            rine(directory, **wrong)
