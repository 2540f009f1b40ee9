from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tapetum.backbones import clip, stages, tiny
from tapetum.backbones.frozen import FrozenFeatures
from tapetum.detectors.clip import ClipFinetune, ClipLinear, ClipLoRA, ClipZeroShot, two_way
from tapetum.detectors.prompt import ClipPrompt
from tapetum.errors import ConfigError
from tapetum.optim.groups import parameter_groups
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

TIMM = "timm/test_vit"
SPLIT = [
    (ClipLinear, {}),
    (ClipFinetune, {"last_blocks": 2}),
    (ClipLoRA, {"last_blocks": 2}),
    (ClipLoRA, {}),
    (ClipZeroShot, {}),
    (ClipPrompt, {}),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return str(tiny.clip(tmp_path_factory.mktemp("clip") / "tiny"))


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=generator)


def pixels(directory, images):
    """Images as transformers' own processor hands them to CLIP."""
    processor = CLIPImageProcessorPil.from_pretrained(directory)
    return processor(images=list(images), return_tensors="pt")["pixel_values"]


def text_features(directory, prompts):
    tokens = CLIPTokenizer.from_pretrained(directory)(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = CLIPModel.from_pretrained(directory).get_text_features(**tokens).pooler_output
    return F.normalize(found, dim=1)


def shaken(net):
    """Fresh adapters and heads of one class change little: give them weights that do."""
    generator = torch.Generator().manual_seed(2)
    for name, value in net.named_parameters():
        if "lora_" in name and value.requires_grad:
            value.data += torch.randn(value.shape, generator=generator) * 0.1
    return net


# --- against transformers ---


def test_zero_shot_is_the_difference_of_clips_own_logits(directory, images):
    net = ClipZeroShot(backbone=directory, pretrained=True, templates=["a photo of a {} image."])
    model = CLIPModel.from_pretrained(directory)
    tokens = CLIPTokenizer.from_pretrained(directory)(
        ["a photo of a real image.", "a photo of a generated image."], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(pixel_values=pixels(directory, images), **tokens).logits_per_image
        assert net(images) == pytest.approx((logits[:, 1] - logits[:, 0]).numpy(), abs=1e-4)
    assert net(images).dtype == torch.float32
    assert net(images).shape == (3,)


def test_several_prompts_of_a_class_are_averaged_as_unit_vectors(directory, images):
    net = ClipZeroShot(
        backbone=directory,
        pretrained=True,
        templates=["a {} photo.", "an image that is {}"],
        real=["real", "camera"],
        generated=["fake"],
    )
    prompts = [f"a {n} photo." for n in ("real", "camera")] + [
        f"an image that is {n}" for n in ("real", "camera")
    ]
    real = F.normalize(text_features(directory, prompts).mean(0), dim=0)
    fake = F.normalize(text_features(directory, ["a fake photo.", "an image that is fake"]).mean(0), dim=0)
    assert torch.allclose(net.text_features, torch.stack([real, fake]), atol=1e-6)


def test_text_features_follow_weights_that_are_loaded_and_the_device_type(directory):
    net = ClipZeroShot(backbone=directory, pretrained=False)
    other = ClipZeroShot(backbone=directory, pretrained=True)
    assert not torch.allclose(net.text_features, other.text_features, atol=1e-3)
    net.load_state_dict(other.state_dict())
    assert torch.allclose(net.text_features, other.text_features, atol=1e-6)
    assert net.to(torch.float64).text_features.dtype == torch.float64


def test_the_head_sees_clips_image_features(directory, images):
    net = ClipLinear(backbone=directory, pretrained=True, hidden=16)
    with torch.no_grad():
        features = CLIPModel.from_pretrained(directory).get_image_features(pixels(directory, images))
    assert torch.allclose(net.frozen_features(images), features.pooler_output, atol=1e-5)
    linear = ClipLinear(backbone=directory, pretrained=True).eval()
    weight, bias = linear.head[1].weight, linear.head[1].bias
    expected = features.pooler_output @ weight.T + bias
    assert torch.allclose(linear(images), expected.squeeze(1), atol=1e-5)


@pytest.mark.parametrize("variant", ["lora", "dora", "rslora"])
def test_fresh_adapters_change_nothing_and_merged_ones_stay(directory, images, variant):
    net = ClipLoRA(backbone=directory, pretrained=True, variant=variant).eval()
    with torch.no_grad():
        plain = CLIPModel.from_pretrained(directory).get_image_features(pixels(directory, images))
        features = stages.above(stages.stages(net.backbone), net.normalize(images), 0)
        assert torch.allclose(features, plain.pooler_output, atol=1e-5)
        shaken(net)
        moved = net(images)
        assert not torch.allclose(moved, net.head(plain.pooler_output).squeeze(1), atol=1e-3)
        net.merge()
        assert torch.allclose(net(images), moved, atol=1e-5)
    assert not [name for name in net.state_dict() if "lora" in name]
    assert net.stored_elsewhere() == frozenset()


# --- what trains, and where the graph starts ---


def blocks_in_graph(net, images):
    """Names of the parameters that backward reaches, and the saved tensors of the graph, in bytes."""
    saved = []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t)
    with keep:
        loss = net(images).sum()
    loss.backward()
    return {name for name, value in net.named_parameters() if value.grad is not None}, sum(saved)


def depth(loss):
    """Nodes of an autograd graph."""
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [after for after, _ in node.next_functions]
    return len(seen)


def test_the_graph_of_lora_starts_at_the_first_adapted_block(directory, images):
    nets = {
        count: ClipLoRA(backbone=directory, pretrained=True, last_blocks=count).train() for count in (1, 2, 4)
    }
    nodes = {count: depth(net(images).sum()) for count, net in nets.items()}
    saved = {count: blocks_in_graph(net, images)[1] for count, net in nets.items()}
    # The same number of nodes a block, so nothing below the first adapted one takes part.
    assert nodes[4] - nodes[2] == pytest.approx(2 * (nodes[2] - nodes[1]), abs=4)
    assert saved[4] - saved[2] == pytest.approx(2 * (saved[2] - saved[1]), rel=0.2)
    features = nets[2].frozen_features(images)
    assert not features.requires_grad
    assert features.shape == (3, 17, 32)
    with torch.no_grad():
        vision = CLIPModel.from_pretrained(directory).vision_model
        hidden = vision(pixels(directory, images), output_hidden_states=True).hidden_states
    assert torch.allclose(features, hidden[2], atol=1e-5)


def test_only_adapters_and_head_train_and_only_they_leave_eval(directory, images):
    net = ClipLoRA(backbone=directory, pretrained=True, last_blocks=1, dropout=0.5).train()
    reached, _ = blocks_in_graph(net, images)
    assert reached == {name for name, value in net.named_parameters() if value.requires_grad}
    assert all("lora_" in name or name.startswith("head.") for name in reached)
    assert {name.split(".layers.")[1][0] for name in reached if "lora_" in name} == {"3"}
    training = {name for name, module in net.named_modules() if module.training and "backbone." in name}
    assert training
    assert all(".lora_" in name or name.endswith("_proj") for name in training)
    shaken(net)
    assert not torch.equal(net(images), net(images))  # dropout in the adapters
    net.eval()
    assert torch.equal(net(images), net(images))


def test_a_frozen_tower_stays_in_eval_and_out_of_the_graph(directory, images):
    net = ClipLinear(backbone=directory, pretrained=True).train()
    assert not any(module.training for module in net.backbone.modules())
    assert blocks_in_graph(net, images)[0] == {"head.1.weight", "head.1.bias"}
    assert set(net.state_dict()) - net.stored_elsewhere() == {"head.1.weight", "head.1.bias"}


def test_the_last_blocks_train_with_what_follows_them(directory, images):
    net = ClipFinetune(backbone=directory, pretrained=True, last_blocks=1).train()
    reached, _ = blocks_in_graph(net, images)
    assert reached == {name for name, value in net.named_parameters() if value.requires_grad}
    starts = {name.split("layers.3.")[0] for name in reached if "layers." in name}
    assert starts == {"backbone.vision_model.encoder."}
    assert {"backbone.visual_projection.weight", "backbone.vision_model.post_layernorm.weight"} <= reached
    assert set(net.state_dict()) - net.stored_elsewhere() == reached
    whole = ClipFinetune(backbone=directory, pretrained=True)
    assert all(value.requires_grad for value in whole.parameters())
    assert whole.stored_elsewhere() == frozenset()


def test_lower_blocks_learn_at_a_decayed_rate(directory):
    net = ClipFinetune(backbone=directory, pretrained=True, layer_decay=0.5)
    groups = parameter_groups(
        net, lr=1.0, weight_decay=0.1, backbone=net.backbone_parameters(), backbone_lr=0.1
    )
    rate = {id(value): group["lr"] for group in groups for value in group["params"]}
    named = {name: rate[id(value)] for name, value in net.named_parameters()}
    for name, found in named.items():
        if "layers." in name:
            expected = 0.1 * 0.5 ** (4 - int(name.split("layers.")[1][0]))
        elif name.startswith("head."):
            expected = 1.0
        elif "post_layernorm" in name or "projection" in name:
            expected = 0.1
        else:
            expected = 0.1 * 0.5**5
        assert found == pytest.approx(expected), name
    assert len({group["name"] for group in groups}) == len(groups)
    assert len(rate) == len(list(net.parameters()))
    assert {g["weight_decay"] for g in groups if g["name"].endswith("no_decay")} == {0.0}


# --- features that are kept ---


@pytest.mark.parametrize(("network", "arguments"), SPLIT)
def test_forward_is_its_two_halves(directory, images, network, arguments):
    net = shaken(network(backbone=directory, pretrained=True, **arguments)).eval()
    assert isinstance(net, FrozenFeatures)
    features = net.frozen_features(images)
    assert not features.requires_grad
    assert torch.equal(net.forward_features(features), net(images))
    float_images = images.float() / 255
    assert torch.allclose(net(float_images), net(images), atol=1e-4)


@pytest.mark.parametrize(("network", "arguments"), SPLIT)
def test_the_key_is_that_of_the_frozen_weights(directory, images, network, arguments):
    net = network(backbone=directory, pretrained=True, **arguments)
    key = net.cache_key()
    assert key == network(backbone=directory, pretrained=True, **arguments).cache_key()
    trained = copy.deepcopy(net)
    for value in trained.parameters():
        if value.requires_grad:
            value.data += 1
    assert trained.cache_key() == key
    assert torch.equal(trained.frozen_features(images), net.frozen_features(images))
    frozen = copy.deepcopy(net)
    next(v for n, v in frozen.named_parameters() if n.endswith("class_embedding")).data += 1
    assert frozen.cache_key() != key
    assert not torch.equal(frozen.frozen_features(images), net.frozen_features(images))


def test_another_cut_is_another_key(directory):
    cuts = [ClipLoRA(backbone=directory, pretrained=True, last_blocks=n).cache_key() for n in (1, 2, 3)]
    assert len({*cuts, ClipLinear(backbone=directory, pretrained=True).cache_key()}) == 4


def test_linear_zero_shot_and_prompt_share_their_features(directory):
    keys = {
        net(backbone=directory, pretrained=True).cache_key() for net in (ClipLinear, ClipZeroShot, ClipPrompt)
    }
    assert len(keys) == 1


def test_a_wholly_trained_tower_has_no_features_to_keep(directory, images):
    net = ClipFinetune(backbone=directory, pretrained=True)
    with pytest.raises(ConfigError, match=r"data\.cache=none"):
        net.cache_key()
    with pytest.raises(ConfigError, match=r"data\.cache=none"):
        net.frozen_features(images)


# --- other towers, shapes, bad input ---


def test_towers_of_timm_serve_as_well(images):
    import timm

    reference = timm.create_model("test_vit", num_classes=0).eval()
    for network, arguments in (
        (ClipLinear, {}),
        (ClipFinetune, {"last_blocks": 1}),
        (ClipLoRA, {"target_modules": ["qkv"], "last_blocks": 1}),
    ):
        net = network(backbone=TIMM, pretrained=False, **arguments).eval()
        side = net.input_spec.output_size
        batch = torch.nn.functional.interpolate(images.float() / 255, size=side)
        state = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): value
            for name, value in net.backbone.state_dict().items()
            if "lora_" not in name
        }
        reference.load_state_dict(state)
        with torch.no_grad():
            expected = net.head(reference(net.normalize(batch))).squeeze(1)
            assert torch.allclose(net(batch), expected, atol=1e-5)
            assert torch.equal(net.forward_features(net.frozen_features(batch)), net(batch))


@pytest.mark.parametrize(
    ("network", "arguments"), [*SPLIT, (ClipFinetune, {}), (ClipLoRA, {"variant": "dora"})]
)
def test_published_clips_are_counted_without_weights_and_network(network, arguments, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with torch.device("meta"):
        net = network(backbone="openai/clip-vit-large-patch14", pretrained=True, **arguments)
    assert net(torch.empty(2, 3, 224, 224, device="meta")).shape == (2,)


@pytest.mark.parametrize("network", [ClipZeroShot, ClipPrompt])
def test_autocast_does_not_round_the_cosines(directory, images, network):
    net = network(backbone=directory, pretrained=True).eval()
    features = net.frozen_features(images)
    words = net.text_features if network is ClipZeroShot else net.text_features().detach()
    cosines = F.cosine_similarity(features.double().unsqueeze(1), words.double(), dim=2)
    expected = net.clip.logit_scale.detach().double().exp() * (cosines[:, 1] - cosines[:, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = two_way(features, words, net.clip.logit_scale)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected.float(), atol=1e-3)


def test_k_classes_give_k_outputs(directory, images):
    assert ClipLoRA(backbone=directory, pretrained=True, classes=4)(images).shape == (3, 4)


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (ClipLinear, {"classes": 0}, "classes=0"),
        (ClipFinetune, {"last_blocks": 5}, "has 4: 1 to 4"),
        (ClipFinetune, {"last_blocks": 0}, "last_blocks=0"),
        (ClipFinetune, {"layer_decay": 0.0}, "layer_decay=0.0"),
        (ClipLoRA, {"last_blocks": 9}, "1 to 4"),
        (ClipLoRA, {"target_modules": ["query"]}, r"'query'.*there are k_proj \(4\)"),
        (ClipLoRA, {"target_modules": ["qproj"]}, "did you mean"),
        (ClipLoRA, {"target_modules": []}, "empty"),
        (ClipLoRA, {"rank": 0}, "rank=0"),
        (ClipLoRA, {"dropout": 1.0}, "dropout=1.0"),
        (ClipLoRA, {"target_modules": ["visual_projection"], "last_blocks": 1}, "in those blocks"),
        (ClipZeroShot, {"templates": ["a photo"]}, r"no \{\}"),
        (ClipZeroShot, {"templates": []}, "templates"),
        (ClipZeroShot, {"real": []}, "class names"),
        (ClipZeroShot, {"templates": ["{} " + "of " * 80]}, r"83 tokens.*longer than the 77"),
        (ClipZeroShot, {"backbone": TIMM}, "without its text tower"),
    ],
)
def test_bad_arguments_are_named(directory, network, arguments, message):
    with pytest.raises(ConfigError, match=message):
        network(**{"backbone": directory, "pretrained": True, **arguments})


def test_images_of_another_size_are_refused(directory):
    with pytest.raises(ConfigError, match="takes images of 32x32 pixels, not 64x64"):
        ClipLinear(backbone=directory, pretrained=True)(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_a_convolutional_network_of_timm_is_sent_to_its_own_model():
    with pytest.raises(ConfigError, match="model=timm_backbone"):
        ClipLinear(backbone="timm/test_resnet", pretrained=False)


def test_other_weights_of_the_architecture_can_be_given(directory, tmp_path, images):
    other = tiny.clip(tmp_path / "other", seed=1)
    net = ClipLinear(backbone=directory, pretrained=str(other))
    expected = clip.create_vision(str(other), pretrained=True).eval()(net.normalize(images)).image_embeds
    assert torch.allclose(net.frozen_features(images), expected, atol=1e-5)
