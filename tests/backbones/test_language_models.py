from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tapetum.backbones import language_models, tiny
from tapetum.errors import CheckpointError, ConfigError

KINDS = ("qwen3", "gpt2")
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: getattr(tiny, kind)(root / kind) for kind in (*KINDS, "clip", "qwen_vl")}


def changed(directory, place, **config):
    shutil.copytree(directory, place)
    content = json.loads((place / "config.json").read_text()) | config
    (place / "config.json").write_text(json.dumps(content))
    return str(place)


def saved(place, kind, config, **figures):
    """A small random model of another type, as transformers writes it."""
    model = getattr(transformers, kind)(getattr(transformers, config)(**figures))
    model.save_pretrained(place)
    return str(place)


# --- tiny ones ---


@pytest.mark.parametrize(("kind", "parameters"), [("qwen3", 113_600), ("gpt2", 171_904)])
def test_transformers_alone_loads_a_tiny_language_model_whole(directories, kind, parameters):
    place = directories[kind]
    layout = {"config.json", "generation_config.json", "model.safetensors", "merges.txt", "vocab.json"}
    layout |= {"tokenizer.json", "tokenizer_config.json"}
    layout |= {"chat_template.jinja"} if kind == "qwen3" else set()
    assert {file.name for file in place.iterdir()} == layout
    model = transformers.AutoModelForCausalLM.from_pretrained(place).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    assert model.config.model_type == kind
    assert sum(value.numel() for value in model.parameters()) == parameters
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert len(tokenizer) == model.config.vocab_size
    assert len(tokenizer("a red square above two small blue circle")["input_ids"]) == 8
    assert tokenizer.pad_token == ("<|endoftext|>" if kind == "qwen3" else None)  # as Qwen3-Base and GPT-2
    ids = tokenizer("a red square", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0).shape[1] <= ids.shape[1] + 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_writes_the_same_tiny_language_model(directories, tmp_path, kind):
    torch.rand(3)
    before = torch.random.get_rng_state()
    again = getattr(tiny, kind)(tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), before)
    for file in directories[kind].iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file
    other = getattr(tiny, kind)(tmp_path / "other", seed=1) / "model.safetensors"
    assert other.read_bytes() != (directories[kind] / "model.safetensors").read_bytes()


# --- architectures ---


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [
        ("Qwen/Qwen3-0.6B-Base", 1024, 596_049_920),
        ("Qwen/Qwen3-1.7B-Base", 2048, 1_720_574_976),
        ("Qwen/Qwen3-4B-Base", 2560, 4_022_468_096),
        ("Qwen/Qwen3-8B-Base", 4096, 8_190_735_360),
        ("gpt2", 768, 124_439_808),
        ("openai-community/gpt2", 768, 124_439_808),
    ],
)
def test_published_models_are_known_without_a_network(name, width, parameters):
    with torch.device("meta"):
        model = language_models.create(name, pretrained=True)
    assert model.get_input_embeddings().embedding_dim == width
    assert sum(value.numel() for value in model.parameters()) == parameters
    if "Qwen" in name:
        assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 1000000}
        assert (model.config.max_position_embeddings, model.config.vocab_size) == (32768, 151936)


def test_a_directory_wins_over_the_hub_id_it_is_called_like(directories, tmp_path, monkeypatch):
    shutil.copytree(directories["gpt2"], tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    assert language_models.read_config("gpt2").n_embd == 64


@pytest.mark.parametrize(
    ("kind", "config", "figures"),
    [
        ("LlamaForCausalLM", "LlamaConfig", SMALL | {"intermediate_size": 32}),
        ("OPTForCausalLM", "OPTConfig", SMALL | {"ffn_dim": 32, "word_embed_proj_dim": 16}),
        ("Qwen2ForCausalLM", "Qwen2Config", SMALL | {"intermediate_size": 32, "num_key_value_heads": 1}),
    ],
)
def test_any_causal_language_model_of_transformers_is_taken_from_a_directory(tmp_path, kind, config, figures):
    place = saved(tmp_path / "model", kind, config, **figures)
    model = language_models.create(place, pretrained=True)
    expected = transformers.AutoModelForCausalLM.from_pretrained(place)
    assert type(model).__name__ == kind
    assert not model.training
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "config", "figures", "message"),
    [
        ("BertModel", "BertConfig", {"intermediate_size": 32}, r"model_type='bert' and .*\['BertModel'\]"),
        (
            "T5ForConditionalGeneration",
            "T5Config",
            {"d_model": 32, "num_layers": 1},
            r"no causal language model.*model_type='t5'",
        ),
        (
            "XLNetLMHeadModel",
            "XLNetConfig",
            {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32},
            r"what it says of a token depends on the tokens behind it",
        ),
        (
            "CohereForCausalLM",
            "CohereConfig",
            {"intermediate_size": 32, "num_key_value_heads": 1, "eos_token_id": 1},
            r"its logits are not its output embeddings times its last states",
        ),
        (
            "Gemma2ForCausalLM",
            "Gemma2Config",
            {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 16},
            r"its logits are capped",
        ),
    ],
)
def test_what_can_not_continue_a_prefix_is_named(tmp_path, kind, config, figures, message):
    shared = {
        name: value for name, value in SMALL.items() if "d_model" not in figures or name == "vocab_size"
    }
    place = saved(tmp_path / "model", kind, config, **shared, **figures)
    with pytest.raises(ConfigError, match=message) as caught:
        language_models.create(place, pretrained=True)
    assert f"model.net.language_model={place}" in str(caught.value)


def test_what_is_no_language_model_is_named(directories, tmp_path):
    (tmp_path / "empty").mkdir()
    foreign = {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}
    for place, message in (
        (
            directories["clip"],
            r"no causal language model: its config\.json says model_type='clip' and architectures",
        ),
        (directories["qwen_vl"], r"model_type='qwen2_5_vl'.*Name one such as Qwen/Qwen3-0\.6B-Base"),
        (tmp_path / "empty", r"is no language model: it has no config\.json"),
        ("nowhere", r"model\.net\.language_model=nowhere is neither a directory that exists nor the id"),
        (
            changed(directories["qwen3"], tmp_path / "own", **foreign),
            r"model_type='mine', and its code is its own",
        ),
        (
            changed(directories["qwen3"], tmp_path / "odd", hidden_size="wide"),
            r"the config\.json of model\.net\.language_model=.*odd is damaged: .*hidden_size",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            language_models.create(str(place), pretrained=True)


# --- weights ---


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_from_a_directory_a_file_or_parts(directories, tmp_path, kind):
    place = directories[kind]
    expected = transformers.AutoModelForCausalLM.from_pretrained(place)
    expected.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    empty = changed(place, tmp_path / "empty")
    (tmp_path / "empty" / "model.safetensors").unlink()
    for name, pretrained in (
        (place, True),
        (tmp_path / "parts", True),
        (empty, str(place)),
        (empty, str(place / "model.safetensors")),
    ):
        model = language_models.create(str(name), pretrained=pretrained)
        assert {value.dtype for value in model.parameters()} == {torch.float32}
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        for key, value in expected.state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key
    half = language_models.create(str(place), pretrained=True, dtype="bfloat16")
    assert all(
        torch.equal(half.state_dict()[key], value.bfloat16()) for key, value in expected.state_dict().items()
    )


def test_the_layouts_in_which_qwen3_and_gpt2_are_published_load(directories, tmp_path):
    # Qwen3-0.6B's file holds the tied output embeddings besides; GPT-2's names have no prefix, and masks.
    qwen = changed(directories["qwen3"], tmp_path / "qwen3")
    state = load_file(directories["qwen3"] / "model.safetensors")
    twice = state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()}
    save_file(twice, tmp_path / "qwen3" / "model.safetensors", metadata={"format": "pt"})
    gpt = changed(directories["gpt2"], tmp_path / "gpt2")
    state = load_file(directories["gpt2"] / "model.safetensors")
    plain = {name.removeprefix("transformer."): value for name, value in state.items()}
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 512, 512) for layer in range(2)}
    save_file(plain | masks, tmp_path / "gpt2" / "model.safetensors", metadata={"format": "pt"})
    for place, kind in ((qwen, "qwen3"), (gpt, "gpt2")):
        expected = language_models.create(str(directories[kind]), pretrained=True).state_dict()
        for pretrained in (True, f"{place}/model.safetensors"):
            found = language_models.create(place, pretrained=pretrained).state_dict()
            assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_random_weights_are_drawn_and_none_are_read_on_the_meta_device(directories):
    place = str(directories["qwen3"])
    torch.manual_seed(3)
    one, other = (language_models.create(place, pretrained=False) for _ in range(2))
    assert not torch.equal(one.state_dict()["model.embed_tokens.weight"], other.model.embed_tokens.weight)
    with torch.device("meta"):
        assert language_models.create(place, pretrained=True).device.type == "meta"


def test_weights_that_are_damaged_or_do_not_fit_are_named(directories, tmp_path, capfd):
    place, other = directories["qwen3"], str(directories["gpt2"])
    narrow = changed(place, tmp_path / "narrow", hidden_size=32)
    damaged = changed(place, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"abc")
    transformers.AutoModelForCausalLM.from_pretrained(place).save_pretrained(
        tmp_path / "parts", max_shard_size="100KB"
    )
    sorted((tmp_path / "parts").glob("*-of-*"))[1].unlink()
    bare = changed(place, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    capfd.readouterr()
    for name, pretrained, message in (
        (
            narrow,
            True,
            r"of another shape: model\.embed_tokens\.weight \(617x64 in the file, 617x32 in the model\)",
        ),
        (damaged, True, r"the weights in .*damaged cannot be read: .*header"),
        (str(tmp_path / "parts"), True, r"index\.json lists model-00002.*, which is not there"),
        (bare, True, r"bare holds no weights: none of model\.safetensors.*language_model_pretrained=false"),
        (
            str(place),
            other,
            r"does not fit Qwen3ForCausalLM:\n.*missing in the file.*\n.*unknown to the model",
        ),
        (str(place), f"{other}/model.safetensors", r"does not fit Qwen3ForCausalLM"),
        (
            str(place),
            f"{other}/nothing",
            r"language_model_pretrained=.*nothing does not exist: give a weight",
        ),
    ):
        with pytest.raises(CheckpointError, match=message):
            language_models.create(name, pretrained=pretrained)
    assert capfd.readouterr().err == "", "what transformers says of it would be said twice"


# --- tokenizers ---


def test_a_tokenizer_is_that_of_transformers(directories):
    for kind in KINDS:
        expected = transformers.AutoTokenizer.from_pretrained(directories[kind])
        found = language_models.tokenizer(str(directories[kind]))
        assert type(found) is type(expected)
        assert found("Two red dogs, naïve 👩")["input_ids"] == expected("Two red dogs, naïve 👩")["input_ids"]


def test_a_tokenizer_that_is_absent_or_damaged_is_named(directories, tmp_path):
    place = changed(directories["gpt2"], tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"the tokenizer in .*model cannot be read: "):
        language_models.tokenizer(place)
    for name in ("tokenizer.json", "vocab.json"):
        (tmp_path / "model" / name).unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer: none of tokenizer\.json, vocab\.json"):
        language_models.tokenizer(place)
    with pytest.raises(CheckpointError, match=r"holds none of tokenizer\.json"):
        language_models.check_weights(place, True)


def test_the_old_tokenizer_files_say_the_same(directories, tmp_path):
    text = "a photo of a zebra, not généré"
    for kind in KINDS:
        place = changed(directories[kind], tmp_path / kind)
        expected = language_models.tokenizer(place)(text)["input_ids"]
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / kind / name).unlink()
        assert language_models.tokenizer(place)(text)["input_ids"] == expected


def test_without_a_network_the_error_says_what_to_type():
    for ask in (language_models.tokenizer, lambda name: language_models.create(name, pretrained=True)):
        with pytest.raises(CheckpointError) as caught:
            ask("Qwen/Qwen3-0.6B-Base")
        message = str(caught.value)
        assert "hf download Qwen/Qwen3-0.6B-Base" in message
        assert "tapetum tiny qwen3 tiny-qwen3      (then add model.net.language_model=tiny-qwen3)" in message
        assert "backbone" not in message


def test_check_weights_reads_nothing_and_finds_what_is_there(directories):
    for kind in KINDS:
        language_models.check_weights(str(directories[kind]), True)
    with pytest.raises(CheckpointError, match="hf download openai-community/gpt2"):
        language_models.check_weights("gpt2", True)
