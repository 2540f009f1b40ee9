"""Tiny random models in the directory layout of the real ones: for trying things offline, and for tests."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..errors import ConfigError, DataError, did_you_mean

_WORDS = (
    "a an the of in on with by from this that is was photo photograph picture image images drawing painting "
    "render real fake true authentic genuine natural camera generated artificial synthetic ai computer "
    "machine model diffusion gan made taken person cat dog car house bird . , ' ! ?"
)
_EDITION = 1  # raised when the same call would write other bytes
_START, _END = "<|startoftext|>", "<|endoftext|>"

_MORE_WORDS = (
    "question answer one word yes no or what which how many is are there this do does color colour shape red "
    "green blue yellow black white circle square triangle left right above below large small two three four "
    "it you helpful assistant user system describe Is Answer What Describe"
)
_SHAPE_WORDS = (
    "purple cross grey gray brown pink orange background shapes circles squares triangles crosses "
    "Which How Are There Does Do Where where next behind under over first second same different"
)
_CHAT = ("<|im_start|>", "<|im_end|>")
_VISION = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")

_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""

QwenVL = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]


def clip(directory: str | Path, *, seed: int = 0, size: int = 32) -> Path:
    """Write a CLIP of 0.1 M random parameters that transformers' own CLIP classes load.

    Four vision and two text blocks, 32 wide; `size` pixels a side in patches of a quarter; 77 text positions;
    a byte-level BPE tokenizer to which common words are one token each. The same seed writes the same bytes.
    Raises DataError where `directory` is anything but empty or absent.
    """
    return _into(directory, lambda target: _write_clip(target, seed, size))


def qwen_vl(directory: str | Path, *, seed: int = 0, model_type: QwenVL = "qwen2_5_vl") -> Path:
    """Write a Qwen-VL of 0.2 M random parameters that transformers' own classes load.

    Four vision blocks, 32 wide, two language layers, 64 wide; patches and merging as in the published models,
    so that sides of images are multiples of 28 pixels (of 32 in Qwen3-VL); an image processor for 56x56 to
    224x224 pixels; a byte-level BPE tokenizer to which common words are one token each, with the marks of
    chat and vision, and a chat template. The same seed writes the same bytes.
    Raises DataError where `directory` is anything but empty or absent.
    """
    return _into(directory, lambda target: _write_qwen_vl(target, seed, model_type))


def instructblip(directory: str | Path, *, seed: int = 0) -> Path:
    """Write an InstructBLIP of 0.8 M random parameters that transformers' own classes load.

    A vision tower of three layers, a Q-Former and a Llama of two, all 96 wide; images of 48x48 pixels in
    patches of 8, and 8 tokens of each; 512 text positions; a byte-level BPE tokenizer to which common words
    are one token each, and a tokenizer of whole lower-case words for the Q-Former. Weights are drawn so wide
    that the image changes what is said of it. The same seed writes the same bytes.
    Raises DataError where `directory` is anything but empty or absent.
    """
    return _into(directory, lambda target: _write_instructblip(target, seed))


def qwen3(directory: str | Path, *, seed: int = 0) -> Path:
    """Write a Qwen3 of 0.1 M random parameters that transformers' own classes load.

    Two layers, 64 wide, 1024 positions, embeddings that are the output's too; a byte-level BPE tokenizer to
    which common words are one token each, with EOS and padding in one token, as Qwen3-Base has them. Weights
    are drawn so wide that a prefix changes what follows. The same seed writes the same bytes.
    Raises DataError where `directory` is anything but empty or absent.
    """
    return _into(directory, lambda target: _write_qwen3(target, seed))


def gpt2(directory: str | Path, *, seed: int = 0) -> Path:
    """Write a GPT-2 of 0.2 M random parameters that transformers' own classes load.

    Two layers, 64 wide, 512 learned positions; a byte-level BPE tokenizer like that of `qwen3`, with one mark
    for beginning and end and none for padding. The same seed writes the same bytes.
    Raises DataError where `directory` is anything but empty or absent.
    """
    return _into(directory, lambda target: _write_gpt2(target, seed))


def ready(kind: str) -> Path:
    """The tiny model of a kind in the cache folder ($TAPETUM_CACHE), written when it is first asked for.

    The same bytes on every machine, so that a config may name it. Raises ConfigError for an unknown kind.
    """
    kinds: dict[str, Callable[[Path], Path]] = {
        "clip": clip,
        "qwen_vl": qwen_vl,
        "instructblip": instructblip,
        "qwen3": qwen3,
        "gpt2": gpt2,
    }
    if kind not in kinds:
        near = did_you_mean(kind, kinds) or ":"
        raise ConfigError(f"unknown tiny model tiny:{kind}{near} there are {', '.join(kinds)}")
    cache = Path(os.environ.get("TAPETUM_CACHE") or "~/.cache/tapetum").expanduser()
    place = cache / "tiny" / f"{kind}-{_EDITION}"
    if not place.is_dir():
        try:
            with torch.device("cpu"):  # it may be asked for where shapes alone are wanted
                kinds[kind](place)
        except DataError:
            if not place.is_dir():  # else another process was faster
                raise
    return place


def _write_clip(target: Path, seed: int, size: int) -> None:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

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
    _save(lambda: CLIPModel(config), target, seed)
    CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(target)


def _write_tokenizer(target: Path) -> dict[str, int]:
    """CLIP's byte-level BPE: every byte, alone and at the end of a word, then merges, then the two marks."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    merges = _merges([[*word[:-1], f"{word[-1]}</w>"] for word in _WORDS.split()])
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += list(dict.fromkeys("".join(pair) for pair in merges))
    tokens = [*dict.fromkeys(tokens), _START, _END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs: list[Any] = [*merges]  # their annotation says strings, the files hold pairs
    CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=77).save_pretrained(target)
    _write_old_files(target, vocabulary, merges)
    return vocabulary


def _write_qwen_vl(target: Path, seed: int, model_type: QwenVL) -> None:
    import transformers

    vocabulary = _write_qwen_tokenizer(target)
    vision: dict[str, Any] = {"depth": 4, "num_heads": 4, "patch_size": 14, "initializer_range": 0.1}
    later = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64}
    sections: dict[str, Any] = {"mrope_section": [2, 3, 3]}  # of the 8 frequencies of a head of 16
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
    kind: Any = getattr(transformers, f"{names[model_type]}Config")
    model: Any = getattr(transformers, f"{names[model_type]}ForConditionalGeneration")
    if model_type == "qwen2_vl":
        vision |= {"embed_dim": 32, "mlp_ratio": 2, "hidden_size": 64}
    elif model_type == "qwen2_5_vl":
        vision |= {**later, "window_size": 56, "fullatt_block_indexes": [1, 3]}
    else:
        vision |= {**later, "patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [1]}
        sections["mrope_interleaved"] = True
    config = kind(
        vision_config=vision,
        text_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            **({"head_dim": 16} if model_type == "qwen3_vl" else {}),
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 1024,
            "initializer_range": 0.1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **sections},
            "bos_token_id": vocabulary[_END],
            "eos_token_id": vocabulary[_CHAT[1]],
            "pad_token_id": vocabulary[_END],
        },
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    _save(lambda: model(config), target, seed)
    half: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    prepares: Any = transformers.Qwen2VLImageProcessorPil(
        size={"shortest_edge": 56 * 56, "longest_edge": 224 * 224},
        patch_size=vision["patch_size"],
        **(half if model_type == "qwen3_vl" else {}),
    )
    prepares.save_pretrained(target)
    file = target / "preprocessor_config.json"  # on the hub it names the processor, too
    content = json.loads(file.read_text()) | {"processor_class": f"{names[model_type]}Processor"}
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


_INSTRUCTBLIP: dict[str, dict[str, Any]] = {
    "vision": {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 48,
        "patch_size": 8,
        "initializer_range": 0.1,
    },
    "qformer": {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "cross_attention_frequency": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 128,
        "initializer_range": 0.1,
    },
    "text": {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
    },
    "whole": {"num_query_tokens": 8},
}
"""Sizes of the tiny InstructBLIP, part by part."""


def _write_instructblip(target: Path, seed: int) -> None:
    from transformers import (
        BlipImageProcessorPil,
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
        InstructBlipQFormerConfig,
        InstructBlipVisionConfig,
        LlamaConfig,
    )

    from . import instructblip as instructblip_model

    tokenizer, words = _llama_tokenizer(), _word_tokenizer()
    queries = _INSTRUCTBLIP["whole"]["num_query_tokens"]
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**_INSTRUCTBLIP["vision"]),
        qformer_config=InstructBlipQFormerConfig(vocab_size=len(words), **_INSTRUCTBLIP["qformer"]),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **_INSTRUCTBLIP["text"],
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **_INSTRUCTBLIP["whole"],
    )

    def build() -> nn.Module:
        model = InstructBlipForConditionalGeneration(config)
        instructblip_model.open_eyes(model)
        return model

    _save(build, target, seed)
    side = _INSTRUCTBLIP["vision"]["image_size"]
    images = BlipImageProcessorPil(size={"height": side, "width": side})
    processor: Any = InstructBlipProcessor  # it has no annotations
    processor(images, tokenizer, words, num_query_tokens=queries).save_pretrained(target)


def _llama_tokenizer() -> Any:
    """A byte-level BPE that begins texts as a Llama's does, with a place for images."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = ("<s>", "</s>", "<pad>", "<image>")
    vocabulary, merges = _byte_level(_SHAPE_WORDS)
    for mark in marks:
        vocabulary[mark] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    build: Any = PreTrainedTokenizerFast  # it has no annotations
    return build(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        model_max_length=_INSTRUCTBLIP["text"]["max_position_embeddings"],
    )


def _word_tokenizer() -> Any:
    """Whole words in lower case, marked as BERT marks a text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    words = dict.fromkeys([*marks, *f"{_WORDS} {_MORE_WORDS} {_SHAPE_WORDS}".lower().split()])
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
    )
    build: Any = PreTrainedTokenizerFast  # it has no annotations
    return build(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=_INSTRUCTBLIP["qformer"]["max_position_embeddings"],
    )


def _write_qwen3(target: Path, seed: int) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    vocabulary = _write_qwen_tokenizer(target, end=_END)
    config = Qwen3Config(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        max_window_layers=2,
        initializer_range=0.1,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True,
        bos_token_id=vocabulary[_END],
        eos_token_id=vocabulary[_END],
    )
    _save(lambda: Qwen3ForCausalLM(config), target, seed)


def _write_gpt2(target: Path, seed: int) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    vocabulary, merges = _byte_level()
    vocabulary[_END] = len(vocabulary)
    pairs: list[Any] = [*merges]  # their annotation says strings, the files hold pairs
    GPT2Tokenizer(vocab=vocabulary, merges=pairs, model_max_length=512).save_pretrained(target)
    _write_old_files(target, vocabulary, merges)
    config = GPT2Config(
        vocab_size=len(vocabulary),
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=512,
        initializer_range=0.1,
        bos_token_id=vocabulary[_END],
        eos_token_id=vocabulary[_END],
    )
    _save(lambda: GPT2LMHeadModel(config), target, seed)


def _byte_level(more: str = "") -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a BPE: every byte, and words with and without a space before them."""
    from tokenizers.pre_tokenizers import ByteLevel

    words = list(dict.fromkeys(f"{_WORDS} {_MORE_WORDS} {more}".split()))
    merges = _merges([[*start, *word] for word in words for start in ("", "Ġ")])  # Ġ is the byte of a space
    tokens = [*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}, merges


def _write_qwen_tokenizer(target: Path, end: str = _CHAT[1]) -> dict[str, int]:
    """Qwen's byte-level BPE with its marks behind the words; a text ends with `end`."""
    from transformers import Qwen2Tokenizer

    vocabulary, merges = _byte_level()
    pairs: list[Any] = [*merges]  # their annotation says strings, the files hold pairs
    build: Any = Qwen2Tokenizer  # bytes need no unknown token, which its annotation asks for
    tokenizer = build(
        vocab=vocabulary,
        merges=pairs,
        unk_token=None,
        eos_token=end,
        pad_token=_END,
        additional_special_tokens=[*_CHAT, *_VISION],
        model_max_length=1024,
        chat_template=_CHAT_TEMPLATE,
    )
    tokenizer.save_pretrained(target)
    _write_old_files(target, vocabulary, merges)
    whole: dict[str, int] = tokenizer.get_vocab()
    return whole


def _save(build: Callable[[], nn.Module], target: Path, seed: int) -> None:
    """Config and weights of a model of transformers that is drawn from `seed`, without its progress bar."""
    from transformers.utils import logging

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = build()
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model.save_pretrained(target)
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _write_old_files(target: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """The tokenizer as the hub has it beside `tokenizer.json`."""
    (target / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (target / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _merges(spelled: list[list[str]]) -> list[tuple[str, str]]:
    """Merges, the most frequent pair first, until each word is one token (tokenizers' trainer breaks ties
    differently from process to process).

    spelled: words as lists of tokens; they are merged in place.
    """
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
