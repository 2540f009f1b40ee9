"""Tiny random models in the directory layout of the real ones: for trying things offline, and for tests."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError

_WORDS = (
    "a an the of in on with by from this that is was photo photograph picture image images drawing painting "
    "render real fake true authentic genuine natural camera generated artificial synthetic ai computer "
    "machine model diffusion gan made taken person cat dog car house bird . , ' ! ?"
)
_START, _END = "<|startoftext|>", "<|endoftext|>"


def clip(directory: str | Path, *, seed: int = 0, size: int = 32) -> Path:
    """Write a CLIP of 0.1 M random parameters that transformers' own CLIP classes load.

    Four vision and two text blocks, 32 wide; `size` pixels a side in patches of a quarter; 77 text positions;
    a byte-level BPE tokenizer to which common words are one token each. The same seed writes the same bytes.
    Raises DataError where `directory` is anything but empty or absent.
    """
    return _into(directory, lambda target: _write_clip(target, seed, size))


def _write_clip(target: Path, seed: int, size: int) -> None:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel
    from transformers.utils import logging

    vocabulary = _write_tokenizer(target)
    blocks = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    config = CLIPConfig(
        vision_config={**blocks, "num_hidden_layers": 4, "image_size": size, "patch_size": size // 4},
        text_config={
            **blocks,
            "num_hidden_layers": 2,
            "vocab_size": len(vocabulary),
            "bos_token_id": vocabulary[_START],
            "eos_token_id": vocabulary[_END],
            "pad_token_id": vocabulary[_END],
        },
        projection_dim=24,
        logit_scale_init_value=4.6052,  # ln 100, where OpenAI's training ends
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model.save_pretrained(target)
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(target)


def _write_tokenizer(target: Path) -> dict[str, int]:
    """CLIP's byte-level BPE: every byte, alone and at the end of a word, then merges, then the two marks."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    merges = _merges(_WORDS.split())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += list(dict.fromkeys("".join(pair) for pair in merges))
    tokens = [*dict.fromkeys(tokens), _START, _END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs: list[Any] = [*merges]  # their annotation says strings, the files hold pairs
    CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=77).save_pretrained(target)
    (target / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (target / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return vocabulary


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Merges, the most frequent pair first, until each word is one token (tokenizers' trainer breaks ties
    differently from process to process).
    """
    spelled = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for word in spelled for pair in pairwise(word)):
        pair = min(pairs, key=lambda one: (-pairs[one], one))
        merges.append(pair)
        for word in spelled:
            for place in reversed(range(len(word) - 1)):
                if tuple(word[place : place + 2]) == pair:
                    word[place : place + 2] = ["".join(pair)]
    return merges


def _into(directory: str | Path, write: Callable[[Path], None]) -> Path:
    """Write beside the place and rename, so that the directory is there whole or not at all."""
    place = Path(directory).expanduser()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise DataError(f"{place} exists already and is not overwritten: name a new or an empty directory")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as scratch:
            written = Path(scratch) / "model"
            written.mkdir()
            write(written)
            if place.is_dir():
                place.rmdir()
            written.rename(place)
    except OSError as error:
        raise DataError(f"{place} cannot be written: {error}") from error
    return place
