"""Which parts of a vision-language model train: what goes together, and what does not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import get_args

from ..backbones.whole_models import Dtype
from .network import Part


def part_problems(
    parts: Mapping[str, str],
    dtype: str,
    quantization: str | None,
    float32: Collection[str] = ("projector",),
) -> list[str]:
    """What is wrong with arguments that every vision-language model has, with what to type instead.

    parts: `vision`, `language` and so on, with whether each is frozen, has adapters or is trained; adapters
    are for `language` alone. float32: parts that are of this type whatever the dtype, where they train.
    """
    problems = []
    if dtype not in get_args(Dtype):
        problems.append(f"unknown value model.net.dtype={dtype}: {', '.join(get_args(Dtype))}")
    for name, value in parts.items():
        choices = [one for one in get_args(Part) if name == "language" or one != "lora"]
        if value == "lora" and name != "language":
            problems.append(
                f"model.net.{name}=lora: adapters are for the language model; type model.net.{name}=frozen, "
                "or trained"
            )
        elif value not in choices:
            problems.append(f"unknown value model.net.{name}={value}: {', '.join(choices)}")
        elif value == "trained" and dtype == "bfloat16" and name not in float32:
            problems.append(
                f"model.net.dtype=bfloat16 is for what is frozen, and model.net.{name}=trained: small steps "
                "are lost in it; type model.net.dtype=float32"
            )
    if quantization is not None and parts["language"] != "lora":
        problems.append(
            f"model.net.quantization={quantization} is for adapters on a language model, and "
            f"model.net.language={parts['language']}: type model.net.language=lora, or "
            "model.net.quantization=null"
        )
    return problems


def length_problems(
    max_length: int | None, max_target_token_length: int, *, places: int, image: int
) -> list[str]:
    """What is wrong with lengths in tokens, for a language model of `places` and images of `image` tokens."""
    problems = []
    if max_target_token_length < 2:
        problems.append(
            f"model.net.max_target_token_length={max_target_token_length} leaves no room for an answer: the "
            "mark of its end is a token too; type model.net.max_target_token_length=64"
        )
    if max_length is not None and not image + 3 < max_length <= places:
        problems.append(
            f"model.net.max_length={max_length} is out of range: an image takes {image} tokens, and the "
            f"language model has {places} positions; type model.net.max_length=null for all of them"
        )
    return problems
