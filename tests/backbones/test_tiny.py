from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from tapetum.backbones import tiny
from tapetum.errors import DataError
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Qwen2Tokenizer,
)

LAYOUT = {
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
}
QWEN_LAYOUT = LAYOUT | {"generation_config.json", "chat_template.jinja"}
QWEN_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TEXT = "Is this image real or fake? Answer with one word."


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def qwens(tmp_path_factory):
    root = tmp_path_factory.mktemp("qwen")
    return {name: tiny.qwen_vl(root / name, model_type=name) for name in QWEN_TYPES}


def test_transformers_loads_all_of_it(directory):
    assert {file.name for file in directory.iterdir()} == LAYOUT
    model, processor = CLIPModel.from_pretrained(directory), CLIPProcessor.from_pretrained(directory)
    images = list(torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8))
    inputs = processor(text=["a real photo", "a fake"], images=images, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert model(**inputs).logits_per_image.shape == (2, 2)
    assert sum(value.numel() for value in model.parameters()) < 100_000


def test_common_words_are_one_token_and_any_text_comes_back(directory):
    for load in (CLIPTokenizer, AutoTokenizer):
        tokenizer = load.from_pretrained(directory)
        assert len(tokenizer("a photo of a generated image.", add_special_tokens=False)["input_ids"]) == 7
        ids = tokenizer("ünknown zebra 7")["input_ids"]
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "ünknown zebra 7"
        assert tokenizer.unk_token_id not in ids[1:-1]


def test_the_old_tokenizer_files_say_the_same(directory, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    text = "a photo of a real zebra, not généré"
    one, other = CLIPTokenizer.from_pretrained(directory), CLIPTokenizer.from_pretrained(tmp_path)
    assert one(text)["input_ids"] == other(text)["input_ids"]


def test_a_seed_writes_the_same_bytes_in_every_process(directory, qwens, tmp_path):
    first = {"clip": (directory, LAYOUT), "qwen_vl": (qwens["qwen2_5_vl"], QWEN_LAYOUT)}
    elsewhere = tmp_path / "elsewhere"
    written = "; ".join(f"tiny.{kind}({str(elsewhere / kind)!r})" for kind in first)
    code = f"from tapetum.backbones import tiny; {written}"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    for kind, (one, layout) in first.items():
        before = torch.random.get_rng_state()
        again = getattr(tiny, kind)(tmp_path / kind)
        assert torch.equal(torch.random.get_rng_state(), before)
        for name in layout:
            assert (again / name).read_bytes() == (one / name).read_bytes(), name
            assert (elsewhere / kind / name).read_bytes() == (one / name).read_bytes(), name
        other = getattr(tiny, kind)(tmp_path / f"other {kind}", seed=1) / "model.safetensors"
        assert other.read_bytes() != (one / "model.safetensors").read_bytes()


@pytest.mark.parametrize("model_type", QWEN_TYPES)
def test_transformers_loads_all_of_a_qwen_vl_and_the_image_matters(qwens, model_type):
    place = qwens[model_type]
    assert {file.name for file in place.iterdir()} == QWEN_LAYOUT
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(place),
        AutoProcessor.from_pretrained(place),
    )
    assert model.config.model_type == model_type
    assert 200_000 < sum(value.numel() for value in model.parameters()) < 300_000
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TEXT}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt == (
        f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{TEXT}<|im_end|>\n<|im_start|>assistant\n"
    )
    logits = []
    for image in torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8):
        inputs = processor(text=[prompt], images=[image], return_tensors="pt")
        tokens = int(inputs["image_grid_thw"].prod()) // 4
        assert (inputs["input_ids"] == model.config.image_token_id).sum() == tokens == 6
        with torch.no_grad():
            logits.append(model(**inputs).logits[0, -1])
    assert (logits[0] - logits[1]).abs().max() > 0.1
    written = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert written.shape[1] <= inputs["input_ids"].shape[1] + 2


def test_a_qwen_tokenizer_has_common_words_marks_and_any_text(qwens):
    for load in (Qwen2Tokenizer, AutoTokenizer):
        tokenizer = load.from_pretrained(qwens["qwen2_5_vl"])
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(TEXT)["input_ids"])
        assert " ".join(tokens) == "Is Ġthis Ġimage Ġreal Ġor Ġfake ? ĠAnswer Ġwith Ġone Ġword ."
        text = "ünknown zebra 7\n"
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        marks = "<|im_start|><|im_end|><|vision_start|><|vision_end|><|image_pad|><|video_pad|><|endoftext|>"
        ids = tokenizer(marks)["input_ids"]
        assert len(ids) == len(set(ids)) == 7
        assert tokenizer.decode(ids, skip_special_tokens=True) == ""
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_nothing_is_overwritten_and_nothing_half_written_stays(directory, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="exists already and is not overwritten"):
        tiny.clip(directory)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(DataError, match="not overwritten"):
        tiny.clip(file)
    (tmp_path / "empty").mkdir()
    assert (tiny.clip(tmp_path / "empty") / "config.json").is_file()
    with pytest.raises(DataError, match="cannot be written"):
        tiny.clip(file / "below")
    monkeypatch.setattr(CLIPModel, "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(DataError, match="disk full"):
        tiny.clip(tmp_path / "full")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["empty", "file"]
