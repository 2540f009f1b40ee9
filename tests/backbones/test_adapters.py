from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tapetum.backbones import adapters, clip, tiny
from tapetum.errors import ConfigError
from torch import nn
from transformers import CLIPModel, InstructBlipForConditionalGeneration

VARIANTS = ["lora", "dora", "rslora"]
TARGETS = ["q_proj", "v_proj"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return str(tiny.clip(tmp_path_factory.mktemp("clip") / "tiny"))


def adapted(directory, **arguments):
    tower = clip.create_vision(directory, pretrained=True)
    model = adapters.adapt(tower, **{"targets": TARGETS, "dropout": 0.0, "name": directory, **arguments})
    generator = torch.Generator().manual_seed(0)
    for value in model.parameters():
        if value.requires_grad:
            value.data += torch.randn(value.shape, generator=generator) * 0.1
    return model


def features(model, pixels):
    with torch.no_grad():
        return model(pixel_values=pixels).image_embeds


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_is_unmerged_and_without_adapters(directory, variant):
    model, pixels = adapted(directory, variant=variant).eval(), torch.randn(2, 3, 32, 32)
    before = features(model, pixels)
    plain = adapters.merged(model)
    assert torch.allclose(features(plain, pixels), before, atol=1e-5)
    assert plain.state_dict().keys() == clip.create_vision(directory, pretrained=True).state_dict().keys()


@pytest.mark.parametrize(("variant", "scale"), [("lora", 6 / 4), ("rslora", 6 / 2)])
def test_the_update_is_b_a_times_the_scale(directory, variant, scale):
    model = adapted(directory, rank=4, alpha=6, variant=variant)
    layer = model.get_base_model().vision_model.encoder.layers[1].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (a.shape, b.shape) == ((4, 32), (32, 4))
    x = torch.randn(5, 32)
    expected = x @ (layer.base_layer.weight + scale * b @ a).T + layer.base_layer.bias
    assert torch.allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layers", [None, [2, 3]])
def test_peft_itself_loads_the_directory_onto_a_plain_clip(directory, tmp_path, variant, layers):
    model, pixels = adapted(directory, variant=variant, layers=layers).eval(), torch.randn(2, 3, 32, 32)
    described = adapters.description(model, "net.backbone.")
    weights = {f"net.backbone.{name}": value for name, value in model.state_dict().items()}
    adapters.write_directory(tmp_path / "adapter", described, weights)
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    loaded = PeftModel.from_pretrained(clip.create_vision(directory, pretrained=True), tmp_path / "adapter")
    assert torch.allclose(features(loaded.eval(), pixels), features(model, pixels), atol=1e-6)
    assert loaded.peft_config["default"].base_model_name_or_path == directory
    if layers is not None:  # the text tower has two blocks, so only the image tower's are adapted
        whole = PeftModel.from_pretrained(CLIPModel.from_pretrained(directory), tmp_path / "adapter")
        with torch.no_grad():
            found = whole.get_image_features(pixels).pooler_output
        assert torch.allclose(found, features(model, pixels), atol=1e-5)


def test_peft_writes_the_same_names_and_config(directory, tmp_path):
    import json

    from safetensors.torch import load_file

    model = adapted(directory, layers=[3])
    adapters.write_directory(tmp_path / "ours", adapters.description(model, ""), model.state_dict())
    model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    ours, theirs = (load_file(tmp_path / one / "adapter_model.safetensors") for one in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (
        json.loads((tmp_path / one / "adapter_config.json").read_text()) for one in ("ours", "theirs")
    )
    ours["target_modules"], theirs["target_modules"] = (
        sorted(ours["target_modules"]),
        sorted(theirs["target_modules"]),
    )
    assert {key: ours.get(key) for key in theirs if key != "auto_mapping"} == {
        key: value for key, value in theirs.items() if key != "auto_mapping"
    }


def test_the_table_counts_what_trains(directory):
    model = adapted(directory, rank=2, targets=["q_proj", "fc1"], layers=[1, 3])
    assert adapters.trained(model) == [("q_proj", 2, 2 * 2 * (32 + 32)), ("fc1", 2, 2 * 2 * (32 + 64))]
    total = sum(row.parameters for row in adapters.trained(model))
    assert total == sum(value.numel() for value in model.parameters() if value.requires_grad)


def test_any_network_can_be_adapted():
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(3))

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    net = Blocks()
    expected = net(torch.ones(1, 4)).detach()
    model = adapters.adapt(net, targets=["0"], rank=2, layers=[2], pattern="blocks")
    assert torch.equal(model(torch.ones(1, 4)).detach(), expected)
    assert all(".blocks.2." in name for name, value in model.named_parameters() if value.requires_grad)


def test_dropout_and_training_mode_stay_inside_the_adapters(directory):
    model = adapted(directory, dropout=0.5).train()
    adapters.keep_base_in_eval(model)
    layer = model.get_base_model().vision_model.encoder.layers[0].self_attn.q_proj
    assert layer.training
    assert layer.lora_dropout["default"].training
    assert not layer.base_layer.training
    assert not model.get_base_model().vision_model.encoder.layers[0].mlp.training


def test_unknown_targets_say_what_there_is(directory):
    tower = clip.create_vision(directory, pretrained=True)
    with pytest.raises(ConfigError, match=r"'c_attn'.*k_proj \(4\), v_proj \(4\).*visual_projection \(1\)"):
        adapters.adapt(tower, targets=["q_proj", "c_attn"])
    with pytest.raises(ConfigError, match="in those blocks"):
        adapters.adapt(tower, targets=["visual_projection"], layers=[1])
    assert not any("lora" in name for name in tower.state_dict())


def test_peft_agrees_on_where_the_adapters_are(directory):
    reference = get_peft_model(
        clip.create_vision(directory, pretrained=False),
        LoraConfig(target_modules=r".*layers\.[23]\.self_attn\.(q|v)_proj", r=8),
    )
    assert adapted(directory, layers=[2, 3]).state_dict().keys() == reference.state_dict().keys()


# --- within a part of a larger model ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return str(tiny.instructblip(tmp_path_factory.mktemp("instructblip") / "tiny"))


def within(directory, **arguments):
    model = InstructBlipForConditionalGeneration.from_pretrained(directory)
    given = {"targets": TARGETS, "dropout": 0.0, "name": directory, "within": "language_model", **arguments}
    torch.manual_seed(0)
    adapted = adapters.adapt(model, **given)
    for value in adapted.parameters():
        if value.requires_grad:
            value.data += torch.randn(value.shape) * 0.1
    return adapted


def answered(model):
    """Logits of one image, to see that two models are the same."""
    generator = torch.Generator().manual_seed(1)
    config = getattr(model, "config", None) or model.base_model.config
    ids = torch.cat([torch.full((1, 8), config.image_token_id), torch.arange(300, 308)[None]], dim=1)
    with torch.no_grad():
        return model(
            pixel_values=torch.randn(1, 3, 48, 48, generator=generator),
            qformer_input_ids=torch.arange(4, 9)[None],
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
        ).logits


def test_adapters_stay_within_a_part(whole):
    every = within(whole, targets=["q_proj", "o_proj", "down_proj"], layers=[1])
    where = {name.partition(".lora_")[0] for name, value in every.named_parameters() if value.requires_grad}
    layer = "base_model.model.language_model.model.layers.1"
    assert where == {f"{layer}.self_attn.q_proj", f"{layer}.self_attn.o_proj", f"{layer}.mlp.down_proj"}
    reference = get_peft_model(
        InstructBlipForConditionalGeneration.from_pretrained(whole),
        LoraConfig(target_modules=r"language_model\..*\.[qv]_proj"),
    )
    assert within(whole).state_dict().keys() == reference.state_dict().keys()


def test_targets_outside_a_part_are_refused_with_where_they_are(whole):
    with pytest.raises(
        ConfigError, match=r"'qkv', which is in the vision tower, .* the language model: there"
    ):
        within(whole, targets=["q_proj", "qkv"])
    with pytest.raises(ConfigError, match=r"'attention.query', which is in the Q-Former"):
        within(whole, targets=["attention.query"])
    with pytest.raises(ConfigError, match=r"which is in the projector.*q_proj \(2\), k_proj \(2\)"):
        within(whole, targets=["language_projection"])
    with pytest.raises(ConfigError, match="'c_attn', which is the end of no linear layer's name"):
        within(whole, targets=["c_attn"])
    with pytest.raises(ConfigError, match=r"'k_proj', .* in those blocks"):
        within(whole, targets=["k_proj"], layers=[7])


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft_itself_loads_saved_modules_and_merged_they_compute_the_same(whole, tmp_path, variant):
    model = within(whole, saved=["language_projection"], variant=variant).eval()
    described = adapters.description(model, "net.model.")
    weights = {f"net.model.{name}": value for name, value in model.state_dict().items()}
    adapters.write_directory(tmp_path, described, weights)
    base = InstructBlipForConditionalGeneration.from_pretrained(whole)
    before = answered(base)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.allclose(answered(loaded), answered(model), atol=1e-6)
    assert not torch.allclose(answered(model), before, atol=0.1)
    expected = answered(model)
    plain = adapters.merged(model)
    assert torch.allclose(answered(plain), expected, atol=1e-5)
    assert plain.state_dict().keys() == InstructBlipForConditionalGeneration(plain.config).state_dict().keys()


def test_saved_modules_are_in_the_table_and_train_while_all_else_is_in_eval(whole):
    model = within(whole, saved=["language_projection"]).train()
    adapters.keep_base_in_eval(model)
    projector = model.get_base_model().language_projection
    assert projector.modules_to_save["default"].training
    assert not projector.original_module.training
    assert not model.get_base_model().qformer.training
    rows = adapters.trained(model)
    assert ("language_projection", 1, 96 * 96 + 96) in rows
    assert sum(row.parameters for row in rows) == sum(
        value.numel() for value in model.parameters() if value.requires_grad
    )
