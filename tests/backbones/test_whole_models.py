from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from tapetum.backbones import quantization, qwen_vl_models, tiny, whole_models
from tapetum.backbones.repository import Kind
from tapetum.errors import CheckpointError, ConfigError, DataError

KIND = Kind("Qwen3", "Qwen/Qwen3-0.6B-Base", "qwen3")

_LOAD = """
import re, sys, threading, time
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM
from tapetum.backbones import whole_models
from tapetum.backbones.repository import Kind

directory = Path(sys.argv[1])
config = Qwen3Config.from_pretrained(directory)
kind = Kind("Qwen3", "Qwen/Qwen3-0.6B-Base", "qwen3")

def ours():
    return whole_models.create(
        Qwen3ForCausalLM, config, str(directory), kind, pretrained=True, dtype="bfloat16"
    )

def naive():
    model = Qwen3ForCausalLM._from_config(config, dtype=torch.float32)
    for file in directory.glob("*.safetensors"):
        model.load_state_dict(load_file(file), strict=False)
    return model.bfloat16()

def held():  # MiB that nobody but this process has: pages of a mapped file are the system's to drop
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**10

def watch():
    while not done.is_set():
        peak[0] = max(peak[0], held())
        time.sleep(0.001)

for load in (ours, naive):
    before = held()
    peak, done = [before], threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    model = load()
    done.set()
    thread.join()
    assert all(value.dtype == torch.bfloat16 for value in model.parameters())
    weights = sum(value.numel() * 2 for value in model.parameters()) / 2**20
    print((peak[0] - before) / weights)
    del model
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """150 MiB of float32 in shards."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    directory = tmp_path_factory.mktemp("large")
    config = Qwen3Config(
        vocab_size=20000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=7,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    model.to_empty(device="cpu")
    for value in model.parameters():
        value.data.fill_(0.01)
    model.tie_weights()
    model.save_pretrained(directory, max_shard_size="20MB")
    assert len(list(directory.glob("*.safetensors"))) > 4
    return directory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_second_copy_of_the_weights_is_ever_in_memory(large):
    run = subprocess.run(
        [sys.executable, "-c", _LOAD, str(large)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    ours, naive = map(float, run.stdout.split())
    assert ours < 1.35
    assert naive > 1.8  # what the figure above is worth


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return tiny.qwen3(tmp_path_factory.mktemp("small") / "qwen3")


def create(directory, **arguments):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    given = {"pretrained": True, **arguments}
    config = Qwen3Config.from_pretrained(directory)
    return whole_models.create(Qwen3ForCausalLM, config, str(directory), KIND, **given)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_those_of_transformers_in_the_type_that_is_asked_for(small, dtype):
    from transformers import Qwen3ForCausalLM

    expected = Qwen3ForCausalLM.from_pretrained(small, dtype=getattr(torch, dtype)).state_dict()
    model = create(small, dtype=dtype)
    assert not model.training
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    single = create(small, pretrained=str(small / "model.safetensors"), dtype=dtype).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in single.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_weights_are_made_on_the_device_of_the_context(small):
    with torch.device("cuda:0"):
        model = create(small, dtype="bfloat16")
    assert {value.device for value in model.parameters()} == {torch.device("cuda:0")}
    expected = create(small, dtype="bfloat16").state_dict()
    assert all(torch.equal(value.cpu(), expected[name]) for name, value in model.state_dict().items())


def test_on_meta_nothing_is_read(small):
    with torch.device("meta"):
        model = create(small, quantization_config=object())
    assert all(value.is_meta for value in model.parameters())


def test_a_part_that_is_missing_names_its_index(large, tmp_path):
    for file in large.iterdir():
        if "00003-of" not in file.name:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(CheckpointError, match=r"lists model-00003-of-\d+\.safetensors, which is not there"):
        create(tmp_path)


def test_files_of_a_model_are_copied_as_they_are(small, tmp_path):
    copies = whole_models.copy_files(str(small), KIND, tmp_path / "adapter")
    assert "tokenizer.json" in {file.name for file in copies}
    assert all(file.read_bytes() == (small / file.name).read_bytes() for file in copies)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        whole_models.copy_files(str(small), KIND, tmp_path / "file")


# --- Qwen-VL as a whole ---


def test_published_figures_make_models_of_the_published_sizes(tmp_path, monkeypatch):
    """Parameters as the hub counts them in the published files."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    sizes = {
        "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
        "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616,
        "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
        "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
        "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
        "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
        "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    }
    assert qwen_vl_models.PUBLISHED.keys() == sizes.keys()
    for name, size in sizes.items():
        with torch.device("meta"):
            model = qwen_vl_models.create(name, pretrained=True)
        assert sum(value.numel() for value in model.parameters()) == size
        config = model.config
        assert sum(config.text_config.rope_parameters["mrope_section"]) == 64  # of a head of 128
        assert config.image_token_id == 151655


def test_the_tokenizer_of_another_model_is_refused(tmp_path):
    directory = tiny.qwen_vl(tmp_path / "qwen")
    other = tiny.gpt2(tmp_path / "gpt2")
    for file in directory.glob("*token*"):
        file.unlink()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((other / name).read_bytes())
    with pytest.raises(ConfigError, match=r"have no mark of an image at \d+"):
        qwen_vl_models.tokenizer(str(directory))


def test_a_chat_template_in_a_file_of_its_own_is_read(tmp_path):
    directory = tiny.qwen_vl(tmp_path / "qwen")
    (directory / "chat_template.jinja").unlink()
    assert qwen_vl_models.tokenizer(str(directory)).chat_template is None
    (directory / "chat_template.json").write_text('{"chat_template": "{{ messages }}"}')
    assert qwen_vl_models.tokenizer(str(directory)).chat_template == "{{ messages }}"


# --- four bits ---


def test_nothing_is_quantized_unless_it_is_asked_for():
    assert quantization.quantization_config(None, "float32", pretrained=False) is None


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is here")
def test_what_four_bits_need_is_named():
    with pytest.raises(ConfigError) as caught:
        quantization.quantization_config("nf4", "bfloat16", pretrained=True)
    assert 'pip install "tapetum[qlora]"' in str(caught.value)
    assert torch.cuda.is_available() or "needs a CUDA device" in str(caught.value)
    with torch.device("meta"), pytest.raises(ConfigError):  # what counts and checks says so, too
        quantization.quantization_config("nf4", "bfloat16", pretrained=True)
