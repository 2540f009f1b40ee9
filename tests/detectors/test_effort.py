"""Effort against plain CLIP, singular values by hand, and both layouts of its published files."""

from __future__ import annotations

import pytest
import torch
from tapetum.backbones import tiny
from tapetum.backbones.weights import load_weights
from tapetum.detectors.effort import Effort, SVDResidualLinear
from tapetum.errors import CheckpointError, ConfigError

from detectors.clip_oracles import jittered, pixel_values, whole_clip
from detectors.conv_oracles import pixels

PROJECTIONS = [f"{part}_proj" for part in ("q", "k", "v", "out")]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip") / "tiny")


def effort(directory, **arguments):
    torch.manual_seed(0)
    return Effort(**{"backbone": str(directory), "pretrained": True, **arguments}).eval()


def split(state, prefix, seed=3):
    """A plain image tower's tensors as Effort's training names them below `prefix`, after some training."""
    found = {}
    for name, value in state.items():
        if name.startswith("vision_model.") and any(f"self_attn.{one}.weight" in name for one in PROJECTIONS):
            u, s, v = torch.linalg.svd(value)
            layer = prefix + name.removeprefix("vision_model.").removesuffix("weight")
            found[f"{layer}weight_main"] = u[:, :-1] @ torch.diag(s[:-1]) @ v[:-1]
            found[f"{layer}S_residual"] = s[-1:]
            found[f"{layer}U_residual"] = u[:, -1:]
            found[f"{layer}V_residual"] = v[-1:]
        elif name.startswith("vision_model."):
            found[prefix + name.removeprefix("vision_model.")] = value
    return jittered(found, seed=seed)


def plain(state, prefix, directory):
    """transformers' CLIP whose attention has the products of a published file's factors."""
    clip = whole_clip(directory)
    weights = {}
    for name, value in state.items():
        own = f"vision_model.{name.removeprefix(prefix)}"
        if name.endswith("weight_main"):
            layer = name.removesuffix("weight_main")
            factors = [state[f"{layer}{one}_residual"].double() for one in "USV"]
            product = factors[0] @ torch.diag(factors[1]) @ factors[2]
            weights[own.removesuffix("_main")] = (value.double() + product).float()
        elif not name.endswith("_residual"):
            weights[own] = value
    missing, unexpected = clip.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not any(name.startswith("vision_model.") for name in missing)
    return clip


@pytest.mark.parametrize("pretrained", [True, False])
def test_before_training_it_is_plain_clip(directory, pretrained):
    net = effort(directory, pretrained=pretrained)
    clip, images = whole_clip(directory), pixels(3, 32, 32)
    if not pretrained:
        state = {name.removeprefix("model."): value for name, value in net.state_dict().items()}
        clip.load_state_dict(
            {n.replace("weight_main", "weight"): v for n, v in state.items() if "_residual" not in n},
            strict=False,
        )
    with torch.no_grad():
        features = clip.vision_model(pixel_values=pixel_values(images)).pooler_output
        expected = features @ net.fc.weight[0] + net.fc.bias
        found = net(images)
        torch.testing.assert_close(net(images / 255), found, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32


def test_what_trains_is_the_last_singular_triplet_of_each_projection(directory):
    net, clip = effort(directory), whole_clip(directory)
    for mine, theirs in zip(
        net.model.vision_model.encoder.layers, clip.vision_model.encoder.layers, strict=True
    ):
        for name in PROJECTIONS:
            layer, weight = getattr(mine.self_attn, name), getattr(theirs.self_attn, name).weight.double()
            values, vectors = torch.linalg.eigh(weight.T @ weight)
            assert layer.S_residual.item() == pytest.approx(values[0].clamp(min=0).sqrt().item(), abs=1e-4)
            cosine = (layer.V_residual[0].double() @ vectors[:, 0]).abs().item()
            assert cosine == pytest.approx(1, abs=1e-3)
            assert torch.linalg.matrix_rank(layer.weight_main, atol=1e-5) == 31
            whole = layer.weight_main + layer.U_residual @ torch.diag(layer.S_residual) @ layer.V_residual
            torch.testing.assert_close(whole.double(), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pretrained", [True, False])
def test_training_reaches_factors_and_head_and_nothing_else(directory, pretrained):
    net = effort(directory, pretrained=pretrained).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trained = {name for name, value in net.named_parameters() if value.requires_grad}
    assert trained == {name for name in before if "_residual" in name or name.startswith("fc.")}
    optimizer = torch.optim.AdamW([value for value in net.parameters() if value.requires_grad], lr=3e-2)
    losses = []
    for _ in range(12):
        labels = torch.tensor([0.0, 1.0, 0.0, 1.0])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(pixels(4, 32, 32)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trained
    assert net.stored_elsewhere() == (frozenset(before) - trained if pretrained else frozenset())


def test_a_layer_computes_what_it_replaces_whatever_its_shape_and_rank():
    for rows, columns, rank in ((8, 8, 8), (12, 5, 5), (5, 12, 5), (8, 8, 3), (1, 1, 1)):
        linear = torch.nn.Linear(columns, rows)
        if rank < min(rows, columns):
            linear.weight.data = torch.randn(rows, rank) @ torch.randn(rank, columns)
        x = torch.randn(4, 7, columns)
        torch.testing.assert_close(SVDResidualLinear(linear, split=True)(x), linear(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_published_file_with_both_towers_is_loaded_whole(directory, tmp_path, pretrained):
    clip = whole_clip(directory).state_dict()
    tower = split(clip, "model.vision_model.")
    unused = {f"model.{name}": value for name, value in clip.items() if not name.startswith("vision_model.")}
    unused["model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    fc = {"fc.weight": torch.randn(1, 32), "fc.bias": torch.randn(1)}
    torch.save(
        {"model": {**tower, **unused, **fc}, "optimizer": {}, "total_steps": 18000}, tmp_path / "a.pth"
    )
    net = effort(directory, pretrained=pretrained)
    load_weights(net, tmp_path / "a.pth")
    images = pixels(3, 32, 32)
    reference = plain(tower, "model.vision_model.", directory).vision_model
    with torch.no_grad():
        features = reference(pixel_values=pixel_values(images)).pooler_output
        torch.testing.assert_close(
            net(images), features @ fc["fc.weight"][0] + fc["fc.bias"], rtol=1e-5, atol=1e-5
        )


def test_the_file_of_its_deepfakebench_has_two_outputs(directory, tmp_path):
    tower = split(whole_clip(directory).state_dict(), "backbone.")
    head = {"head.weight": torch.randn(2, 32), "head.bias": torch.randn(2)}
    content = {f"module.{name}": value for name, value in {**tower, **head}.items()}
    torch.save(content, tmp_path / "sdv14.pth")
    net = effort(directory, pretrained=False, classes=2)
    load_weights(net, tmp_path / "sdv14.pth")
    images = pixels(3, 32, 32)
    with torch.no_grad():
        features = plain(tower, "backbone.", directory).vision_model(pixel_values(images)).pooler_output
        scores = features @ head["head.weight"].T + head["head.bias"]
        torch.testing.assert_close(net(images), scores[:, 1] - scores[:, 0], rtol=1e-5, atol=1e-5)
    with pytest.raises(CheckpointError, match=r"fc\.weight \(2x32 in the file, 1x32 in the network\)"):
        load_weights(effort(directory, pretrained=False), tmp_path / "sdv14.pth")


def test_a_plain_clip_is_refused(directory, tmp_path):
    state = {f"model.{name}": value for name, value in whole_clip(directory).state_dict().items()}
    torch.save(state, tmp_path / "clip.pth")
    with pytest.raises(
        CheckpointError, match=r"(?s)66 missing in the file: .*16 unknown to the network"
    ) as caught:
        load_weights(effort(directory), tmp_path / "clip.pth")
    assert len(str(caught.value).splitlines()) == 4


def test_images_of_another_size_and_no_outputs_are_told(directory):
    with pytest.raises(ConfigError, match=r"takes images of 32x32 pixels, not 40x32: .*a crop of \[32,32\]"):
        effort(directory)(pixels(1, 40, 32))
    with pytest.raises(ConfigError, match="classes=0 is no number of outputs"):
        effort(directory, classes=0)
    assert effort(directory, classes=3)(pixels(2, 32, 32)).shape == (2, 3)
