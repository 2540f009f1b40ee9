"""QLoRA (Dettmers et al. 2023): a frozen language model in four bits, by bitsandbytes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch

from ..errors import ConfigError
from .weights import building_on_meta

Quantization = Literal["nf4"]


def quantization_config(
    quantization: Quantization | None, dtype: str, *, pretrained: bool | str, keep: tuple[str, ...] = ()
) -> Any:
    """transformers' BitsAndBytesConfig for `whole_models.create`; None without quantization, and on meta.

    dtype: float32 or bfloat16, in which products are computed, and everything else stays.
    pretrained: of the weights that are to be quantized. keep: names of parts that are not.
    Raises ConfigError where there is nothing to quantize, no bitsandbytes, or no GPU, with what to type.
    """
    if quantization is None:
        return None
    if quantization not in get_args(Quantization):
        raise ConfigError(f"unknown value model.net.quantization={quantization}: nf4, or null for none")
    if pretrained is False:
        raise ConfigError(
            "model.net.quantization=nf4 rounds weights that are there, and model.net.pretrained=false draws "
            "them: type model.net.pretrained=true, or model.net.quantization=null"
        )
    problems = []
    if find_spec("bitsandbytes") is None:
        problems.append(
            "model.net.quantization=nf4 needs bitsandbytes, which is not installed: "
            'pip install "tapetum[qlora]"'
        )
    if not torch.cuda.is_available():
        problems.append(
            "model.net.quantization=nf4 needs a CUDA device, and there is none here: type "
            "model.net.quantization=null, and model.net.dtype=bfloat16 for half the memory of float32"
        )
    if problems:
        raise ConfigError(problems)
    if building_on_meta():
        return None
    from transformers import BitsAndBytesConfig

    make: Any = BitsAndBytesConfig  # it has no annotations
    return make(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=["lm_head", *keep],
    )
