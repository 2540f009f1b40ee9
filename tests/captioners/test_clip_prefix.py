from __future__ import annotations

import peft
import pytest
import torch
import transformers
from tapetum.backbones import adapters, clip, language_models, tiny
from tapetum.backbones.freezing import frozen_parts, trainable_names, unfreeze
from tapetum.backbones.frozen import FrozenFeatures
from tapetum.backbones.generation import Generation
from tapetum.backbones.weights import load_state
from tapetum.captioners.clip_prefix import ClipPrefix
from tapetum.errors import CheckpointError, ConfigError
from tapetum.images.geometry import InputSpec
from tapetum.runs.gradual_unfreeze import thaws

TOKENS = 17  # of the tiny tower: 4 x 4 patches and the class token
TEXTS = ["a photo of a cat", "red", "two small dogs"]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("clip_prefix")
    return {kind: str(getattr(tiny, kind)(root / kind)) for kind in ("clip", "qwen3", "gpt2")}


def made(directories, language_model="qwen3", **more):
    given = {
        "backbone": directories["clip"],
        "pretrained": True,
        "language_model": directories[language_model],
        "language_model_pretrained": True,
        "adapter_layers": 2,
    }
    torch.manual_seed(0)
    return ClipPrefix(**(given | more))


def images(count=3, side=32):
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


def learn(network, pixels=None, texts=TEXTS):
    visual = network(images(len(texts)) if pixels is None else pixels)
    loss = network.loss(visual, network.encode_fn()(texts))
    loss.total.backward()
    return loss


# --- what it sees ---


def test_pooled_features_are_the_image_embeds_of_transformers_and_patches_its_last_states(directories):
    pixels = images()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(directories["clip"])
    model = transformers.CLIPModel.from_pretrained(directories["clip"]).eval()
    with torch.no_grad():
        given = processor(images=list(pixels), return_tensors="pt")
        embeds = model.get_image_features(**given).pooler_output
        states = model.vision_model(**given).last_hidden_state
        pooled = made(directories).frozen_features(pixels)
        patches = made(directories, visual="patches", prefix_length=TOKENS).frozen_features(pixels)
    torch.testing.assert_close(pooled, embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(patches, states, rtol=0, atol=1e-5)


def test_the_study_of_the_guide_is_512_features_to_one_vector_of_1024():
    with torch.device("meta"):
        network = ClipPrefix(pretrained=True, language_model_pretrained=True)
        assert network.frozen_features(images(2, 224).to("meta")).shape == (2, 512)
        assert network(images(2, 224).to("meta")).shape == (2, 1, 1024)
    shapes = [tuple(value.shape) for value in network.parameters() if value.requires_grad]
    assert shapes == [(512, 512), (512,), (1024, 512), (1024,)]
    assert network.input_spec == InputSpec((224, 224), "shortest", (224, 224), "bicubic")
    assert network.trained_parts() == {"vision": 0, "adapter": 787_968, "language model": 0}


@pytest.mark.parametrize("size", ["1.7B", "4B", "8B"])
def test_widths_are_those_of_the_models(size):
    with torch.device("meta"):
        network = ClipPrefix(
            backbone="openai/clip-vit-large-patch14",
            pretrained=True,
            language_model=f"Qwen/Qwen3-{size}-Base",
            language_model_pretrained=True,
            visual="patches",
            prefix_length=257,
        )
        visual = network(images(1, 224).to("meta"))
    assert visual.shape == (1, 257, {"1.7B": 2048, "4B": 2560, "8B": 4096}[size])


@pytest.mark.parametrize("language_model", ["qwen3", "gpt2"])
@pytest.mark.parametrize("adapter", ["linear", "mlp", "transformer"])
@pytest.mark.parametrize(("visual", "lengths"), [("pooled", (1, 5)), ("patches", (TOKENS, 5))])
def test_every_adapter_makes_a_prefix_that_learns(directories, language_model, adapter, visual, lengths):
    for length in lengths[: 1 if visual == "patches" and adapter != "transformer" else 2]:
        network = made(
            directories, language_model, adapter=adapter, visual=visual, prefix_length=length
        ).train()
        assert network(images()).shape == (3, length, 64)
        learn(network)
        left = [name for name, value in network.adapter.named_parameters() if value.grad is None]
        assert left == []
        assert {name for name, value in network.named_parameters() if value.grad is not None} == {
            f"adapter.{name}" for name, _ in network.adapter.named_parameters()
        }


def test_the_mlp_is_that_of_clipcap(directories):
    network = made(directories, prefix_length=10).eval()
    first, second = network.adapter.layers[0], network.adapter.layers[2]
    assert (first.in_features, first.out_features, second.out_features) == (24, 320, 640)
    features = torch.randn(2, 24)
    expected = second(torch.tanh(first(features))).reshape(2, 10, 64)
    assert torch.equal(network.forward_features(features), expected)


def test_images_change_what_is_written_and_uint8_is_float(directories):
    network = made(directories, prefix_length=4).eval()
    with torch.no_grad():
        network.adapter.layers[2].weight.mul_(20)
        pixels = images(6)
        found = network.generate(network(pixels), Generation(max_new_tokens=8))
        torch.testing.assert_close(network(pixels / 255), network(pixels), rtol=0, atol=1e-4)
    assert len(set(found.texts)) > 3


# --- what of it trains ---


PARTS = ("frozen", "lora", "trained")


@pytest.mark.parametrize("visual", ["pooled", "patches"])
@pytest.mark.parametrize("vision", PARTS)
@pytest.mark.parametrize("language", PARTS)
def test_each_part_trains_as_it_is_told_and_everything_that_trains_learns(
    directories, visual, vision, language
):
    network = made(
        directories, visual=visual, adapter="transformer", vision=vision, language=language
    ).train()
    with torch.no_grad():  # the second half of a fresh adapter hides the first one's gradient
        for name, value in network.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    learn(network)
    for prefix, part in (("vision.", vision), ("decoder.model.", language)):
        named = {name: value for name, value in network.named_parameters() if name.startswith(prefix)}
        trained = {name for name, value in named.items() if value.requires_grad}
        assert {name for name, value in named.items() if value.grad is not None} == trained
        if part == "lora":
            assert trained == {name for name in named if "lora_" in name} != set()
        else:
            above = {n for n in named if "post_layernorm" in n or "visual_projection" in n}
            unused = above if visual == "patches" else set()
            assert trained == (set() if part == "frozen" else set(named) - unused)
    assert network.trained_parts()["adapter"] > 0


def test_a_frozen_tower_keeps_nothing_for_the_way_back(directories):
    network = made(directories).train()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        network(images()).sum().backward()
    assert max(len(shape) for shape in saved) == 2  # [B, D]: no tokens
    assert all(value.grad is None for value in network.backbone_parameters())


def test_dropout_of_a_frozen_gpt2_stays_off_also_where_activations_are_computed_again(directories):
    for again in (False, True):
        network = made(directories, "gpt2", gradient_checkpointing=again).train()
        assert any(isinstance(one, torch.nn.Dropout) and one.p > 0 for one in network.decoder.modules())
        assert not any(one.training for one in network.decoder.modules() if isinstance(one, torch.nn.Dropout))
        pixels = images()
        assert learn(network, pixels).total == learn(network, pixels).total
        network.eval()
        assert not any(one.training for one in network.modules())


def test_dropout_of_adapters_is_on_in_training_and_only_there(directories):
    network = made(directories, language="lora", dropout=0.5, variant="dora").train()
    dropouts = [
        one for one in network.decoder.modules() if isinstance(one, torch.nn.Dropout) and one.p == 0.5
    ]
    assert dropouts
    assert all(one.training for one in dropouts)
    assert not any(one.training for one in network.eval().modules())


def test_adapters_of_the_language_model_leave_a_tower_with_the_same_names_alone(directories):
    network = made(directories, language="lora", target_modules=["q_proj", "v_proj"])
    names = [name for name, value in network.named_parameters() if "lora_" in name]
    assert len(names) == 2 * 2 * 2
    assert all(name.startswith("decoder.model.") for name in names)


def test_parts_unfreeze_by_and_by(directories):
    network = made(directories).train()
    parts = frozen_parts(network)
    assert set(parts) == {"vision", "decoder.model"}
    layer = [name for name in trainable_names(parts["decoder.model"]) if name.startswith("model.layers.1.")]
    unfreeze(parts["decoder.model"], layer)
    block = [name for name in trainable_names(parts["vision"]) if "encoder.layers.3." in name]
    unfreeze(parts["vision"], block)
    network.train()
    learn(network)
    learnt = {name for name, value in network.named_parameters() if value.grad is not None}
    expected = {f"decoder.model.{name}" for name in layer} | {f"vision.{name}" for name in block}
    assert learnt == expected | {f"adapter.{name}" for name, _ in network.adapter.named_parameters()}


def test_the_schedule_of_gradual_unfreezing_names_layers_of_both_parts(directories):
    network = made(directories, visual="patches", adapter="transformer")
    schedule = {2: ["decoder.model.model.layers.1", "vision.vision_model.encoder.layers.3"], 3: "all"}
    first, second = thaws(network, schedule)
    assert {".".join(name.split(".")[:5]) for name in first.names} == {
        "decoder.model.model.layers.1",
        "vision.vision_model.encoder.layers.3",
    }
    names = {*first.names, *second.names}
    assert "decoder.model.model.embed_tokens.weight" in names
    # What is behind the last block has no part in patches, and would never get a gradient.
    assert not [name for name in names if "post_layernorm" in name or "visual_projection" in name]
    with pytest.raises(
        ConfigError, match=r"several parts are frozen \(vision, decoder\.model\): name modules"
    ):
        thaws(network, {2: 1})


@pytest.mark.parametrize("language_model", ["qwen3", "gpt2"])
def test_captions_that_are_learnt_by_heart_are_written(directories, language_model):
    network = made(directories, language_model, language="trained", prefix_length=2)
    pixels = images(4)
    texts = ["a red square", "two small dogs", "a photo of a cat .", "blue"]
    optimizer = torch.optim.AdamW([v for v in network.parameters() if v.requires_grad], lr=5e-3)
    network.eval()  # without GPT-2's dropout
    with torch.no_grad():
        features = network.frozen_features(pixels)
        features = (features - features.mean(0)) / features.std(0)
    inputs = network.encode_fn()(texts)
    for _ in range(60):
        optimizer.zero_grad()
        loss = network.loss(network.forward_features(features), inputs)
        (loss.total / loss.count).backward()
        optimizer.step()
    with torch.no_grad():
        visual = network.forward_features(features)
    for strategy in ("greedy", "beam", "nucleus"):
        found = network.generate(visual, Generation(strategy=strategy))
        assert found.texts == texts
        assert found.lengths.tolist() == network.encode_fn().lengths(texts).tolist()


# --- what is kept ---


@pytest.mark.parametrize("visual", ["pooled", "patches"])
def test_features_are_the_lower_half_and_their_key_names_it(directories, visual, tmp_path):
    network = made(directories, visual=visual, adapter="transformer").eval()
    assert isinstance(network, FrozenFeatures)
    pixels = images()
    with torch.no_grad():
        features = network.frozen_features(pixels)
        assert torch.equal(network.forward_features(features), network(pixels))
        half = network.forward_features(features.half())
        torch.testing.assert_close(half, network(pixels), rtol=0.05, atol=0.01)
    key = network.cache_key()
    assert made(directories, "gpt2", visual=visual, adapter="transformer", prefix_length=3).cache_key() == key
    other = {"pooled": "patches", "patches": "pooled"}[visual]
    assert made(directories, visual=other, adapter="transformer").cache_key() != key
    elsewhere = {**directories, "clip": str(tiny.clip(tmp_path / "other", seed=1))}
    assert made(elsewhere, visual=visual, adapter="transformer").cache_key() != key


def test_a_tower_that_trains_has_no_features_to_keep(directories):
    network = made(directories, vision="trained")
    with pytest.raises(ConfigError, match=r"model\.net\.vision=frozen, or data\.cache=decoded"):
        network.cache_key()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {"adapter."}),
        ({"vision": "trained"}, {"adapter.", "vision."}),
        ({"language": "trained"}, {"adapter.", "decoder.model."}),
        ({"language": "lora"}, {"adapter.", "lora_"}),
        ({"pretrained": False}, {"adapter.", "vision."}),
        ({"language_model_pretrained": False}, {"adapter.", "decoder.model."}),
    ],
)
def test_a_checkpoint_holds_the_trained_parts_and_what_is_nowhere_else(directories, more, expected):
    network = made(directories, **more)
    state = network.state_dict()
    stored = set(state) - network.stored_elsewhere()
    assert stored == {name for name in state if any(part in name for part in expected)}


def test_stored_weights_and_those_from_elsewhere_rebuild_the_network(directories):
    one, other = made(directories, language="lora").eval(), made(directories, language="lora").eval()
    with torch.no_grad():
        for value in one.parameters():
            if value.requires_grad:
                value.normal_(std=0.1)
    stored = {name: value for name, value in one.state_dict().items() if name not in one.stored_elsewhere()}
    load_state(other, stored, source="it", elsewhere=other.stored_elsewhere())
    pixels, inputs = images(), one.encode_fn()(TEXTS)
    with torch.no_grad():
        assert torch.equal(one.loss(one(pixels), inputs).totals, other.loss(other(pixels), inputs).totals)


def test_the_adapter_of_a_wider_language_model_does_not_load(directories, tmp_path):
    wide = transformers.Qwen3Config.from_pretrained(directories["qwen3"], hidden_size=96)
    transformers.Qwen3ForCausalLM(wide).save_pretrained(tmp_path / "wide")
    transformers.AutoTokenizer.from_pretrained(directories["qwen3"]).save_pretrained(tmp_path / "wide")
    other = made({**directories, "wide": str(tmp_path / "wide")}, "wide")
    stored = {n: v for n, v in other.state_dict().items() if n not in other.stored_elsewhere()}
    network = made(directories)
    message = r"4 of another shape: adapter\.layers\.0\.weight \(48x24 in the file, 32x24 in the network\)"
    with pytest.raises(CheckpointError, match=message):
        load_state(network, stored, source="it", elsewhere=network.stored_elsewhere())


def test_peft_itself_loads_the_adapter_of_the_language_model(directories, tmp_path):
    network = made(directories, language="lora", vision="lora").eval()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "lora_" in name:
                value.normal_(std=0.1)
    state = {f"net.{name}": value for name, value in network.state_dict().items()}
    adapters.write_directory(tmp_path, network.peft_directory("net."), state)
    plain = transformers.AutoModelForCausalLM.from_pretrained(directories["qwen3"]).eval()
    loaded = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, network.decoder.model(ids).logits)
    assert made(directories).peft_directory() == {}
    assert next(iter(made(directories, vision="lora").peft_directory()["names"])).startswith("vision.")


# --- what does not fit ---


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prefix_length": 0}, r"model\.net\.prefix_length=0 is no length of a prefix: 1 to 257"),
        ({"prefix_length": 258}, r"model\.net\.prefix_length=258 is no length of a prefix: 1 to 257"),
        (
            {"visual": "patches", "prefix_length": 10},
            r"prefix_length=10 does not fit .*mlp makes one vector of each of the 17 tokens of this tower; "
            r"type model\.net\.prefix_length=17, or type model\.net\.adapter=transformer",
        ),
        ({"adapter": "resampler"}, r"unknown value model\.net\.adapter=resampler: linear, mlp, transformer"),
        ({"adapter": "transformer", "adapter_heads": 7}, r"adapter_heads=7 does not divide 64"),
        ({"adapter": "transformer", "adapter_layers": 0}, r"adapter_layers=0: 1 or more"),
        ({"visual": "cls"}, r"unknown value model\.net\.visual=cls: pooled, patches"),
        ({"vision": "freeze"}, r"unknown value model\.net\.vision=freeze: frozen, lora, trained"),
        ({"language": "trained", "language_model_dtype": "bfloat16"}, r"language_model_dtype=float32"),
        ({"max_caption_length": 1}, r"model\.net\.max_caption_length=1 leaves no room"),
        (
            {"max_caption_length": 1024},
            r"a prefix of 1 and a caption of up to 1024 tokens are 1025 positions, and the language model "
            r"has 1024: type model\.net\.max_caption_length=1023",
        ),
        ({"language": "lora", "target_modules": ["c_attn"]}, r"'c_attn', which is the end of no linear"),
    ],
)
def test_what_does_not_fit_is_said(directories, more, message):
    with pytest.raises(ConfigError, match=message):
        made(directories, **more)


def test_all_tokens_of_a_tower_with_more_than_a_prefix_may_have_need_the_transformer():
    with (
        torch.device("meta"),
        pytest.raises(ConfigError, match=r"each of the 577 tokens of this tower; type .*tr"),
    ):
        ClipPrefix(
            backbone="openai/clip-vit-large-patch14-336",
            pretrained=True,
            language_model_pretrained=True,
            visual="patches",
        )


def test_absent_weights_and_tokenizers_are_found_before_anything_is_read(directories):
    made(directories).check_weights()
    network = made(directories)
    network.language_model_name = directories["clip"].replace("clip", "absent")
    with pytest.raises(ConfigError, match=r"model\.net\.language_model=.*absent is neither a directory"):
        network.check_weights()
    with torch.device("meta"):
        network = ClipPrefix(
            backbone=directories["clip"],
            pretrained=True,
            language_model="gpt2",
            language_model_pretrained=True,
        )
    with pytest.raises(
        CheckpointError, match=r"hf download openai-community/gpt2.*\n.*\n.*language_model=tiny-q"
    ):
        network.check_weights()


def test_a_bfloat16_language_model_learns_and_writes_near_the_float32_one(directories):
    exact, half = made(directories), made(directories, language_model_dtype="bfloat16")
    assert {value.dtype for value in half.decoder.parameters()} == {torch.bfloat16}
    pixels = images()
    torch.testing.assert_close(learn(half, pixels).totals, learn(exact, pixels).totals, rtol=0.02, atol=0)
    assert half.adapter.layers[0].weight.grad.dtype == torch.float32
    assert len(half.generate(half(pixels), Generation(max_new_tokens=3)).texts) == 3


def test_the_clip_and_the_language_model_are_those_of_their_rooms(directories):
    network = made(directories)
    tower = clip.create_vision(directories["clip"], pretrained=True)
    model = language_models.create(directories["qwen3"], pretrained=True)
    for found, expected in ((network.vision, tower), (network.decoder.model, model)):
        assert all(torch.equal(found.state_dict()[n], v) for n, v in expected.state_dict().items())
