from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from tapetum.backbones import tiny
from tapetum.errors import DataError
from transformers import AutoTokenizer, CLIPModel, CLIPProcessor, CLIPTokenizer

LAYOUT = {
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip") / "tiny")


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


def test_a_seed_writes_the_same_bytes_in_every_process(directory, tmp_path):
    before = torch.random.get_rng_state()
    again = tiny.clip(tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), before)
    elsewhere = tmp_path / "elsewhere"
    code = f"from tapetum.backbones.tiny import clip; clip({str(elsewhere)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    for name in LAYOUT:
        assert (
            (again / name).read_bytes() == (directory / name).read_bytes() == (elsewhere / name).read_bytes()
        )
    other = tiny.clip(tmp_path / "other", seed=1) / "model.safetensors"
    assert other.read_bytes() != (directory / "model.safetensors").read_bytes()


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
