"""How a language model writes: settings, and the draw of nucleus sampling as a function of the seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..errors import ConfigError

if TYPE_CHECKING:
    from transformers import GenerationConfig

Strategy = Literal["greedy", "beam", "nucleus"]


@dataclass(frozen=True)
class Generation:
    """How captions are written.

    max_new_tokens: most tokens, EOS included. min_length: tokens before EOS may come.
    strategy: `greedy`; `beam`, the best of `beams` by log-likelihood / length ** length_penalty; or
        `nucleus`, drawn from the likeliest tokens that make up `top_p` (Holtzman et al. 2020), at a
        `temperature`, and from `seed`.
    repetition_penalty: above 1 makes what the caption already holds less likely (Keskar et al. 2019).
    Raises ConfigError for values out of range, all of them together.
    """

    max_new_tokens: int = 32
    strategy: Strategy = "greedy"
    beams: int = 5
    length_penalty: float = 1.0
    top_p: float = 0.9
    temperature: float = 1.0
    seed: int = 0
    min_length: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        within = {
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more tokens, 32 is usual for a caption"),
            "strategy": (self.strategy in get_args(Strategy), f"one of {', '.join(get_args(Strategy))}"),
            "beams": (self.beams >= 1, "1 or more, 5 is usual"),
            "top_p": (0 < self.top_p <= 1, "above 0, and 1 for all tokens"),
            "temperature": (self.temperature > 0, "above 0; for the likeliest tokens strategy=greedy"),
            "seed": (self.seed >= 0, "a whole number from 0 on"),
            "min_length": (
                0 <= self.min_length < max(1, self.max_new_tokens),
                f"from 0 to below max_new_tokens={self.max_new_tokens}",
            ),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0, and 1 for none"),
        }
        problems = [
            f"model.generation.{name}={getattr(self, name)} is out of range: {range_}"
            for name, (fits, range_) in within.items()
            if not fits
        ]
        if problems:
            raise ConfigError(problems)

    def __str__(self) -> str:
        """What somebody wants to know who reads the texts."""
        how = {
            "greedy": "the likeliest token each time",
            "beam": f"the best of {self.beams} beams, length penalty {self.length_penalty:g}",
            "nucleus": f"drawn from the likeliest {self.top_p:g} at temperature {self.temperature:g}, "
            f"seed {self.seed}",
        }[self.strategy]
        least = f"{self.min_length} to " if self.min_length else "up to "
        said = f"written in {least}{self.max_new_tokens} tokens, {how}"
        if self.repetition_penalty != 1:
            said += f", repetition penalty {self.repetition_penalty:g}"
        return said


class Generated(NamedTuple):
    """texts: B captions. tokens: int64 [B, T], padded behind EOS. lengths: int64 [B], EOS included."""

    texts: list[str]
    tokens: Tensor
    lengths: Tensor


def up_to_the_end(
    tokens: Tensor, decode: Callable[[list[list[int]]], list[str]], *, eos_id: int, pad_id: int
) -> Generated:
    """What transformers' `generate` returned, int64 [B, T] without the prompts, cut behind each row's EOS.

    decode: ids to texts.
    """
    ends = tokens == eos_id
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, tokens.shape[1])
    tokens = tokens[:, : int(lengths.max())]
    behind = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
    tokens = tokens.masked_fill(behind, pad_id)
    ids = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    return Generated(decode(ids), tokens, lengths)


def transformers_config(generation: Generation, *, eos_id: int, pad_id: int) -> GenerationConfig:
    """The same for transformers' `generate`, with nothing left to a model's own defaults.

    Nucleus sampling stands there as greedy: `NucleusDraw` makes the drawn token the only one.
    """
    from transformers import GenerationConfig

    make: Any = GenerationConfig  # it has no annotations
    config: GenerationConfig = make(
        max_new_tokens=generation.max_new_tokens,
        min_new_tokens=generation.min_length or None,
        do_sample=False,
        num_beams=generation.beams if generation.strategy == "beam" else 1,
        length_penalty=generation.length_penalty,
        early_stopping=False,
        repetition_penalty=generation.repetition_penalty,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        bos_token_id=None,
        use_cache=True,
    )
    return config


class NucleusDraw:
    """A logits processor of transformers that draws: all but the drawn token get -inf.

    The random number of a row comes from the seed, the row's tokens so far and its likeliest next one. Over
    seeds each caption is an exact sample; given the seed it depends on its image alone, not on the rest of
    the batch, the device or torch's own generator.
    """

    def __init__(self, top_p: float, temperature: float, seed: int) -> None:
        self.top_p, self.temperature, self.seed = top_p, temperature, seed

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: int64 [B, t], the captions so far. scores: logits float [B, V] -> the same shape."""
        likely, places = (
            (scores.float() / self.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        )
        below = likely.cumsum(-1) - likely  # of a token: what the likelier ones have together
        mass = likely.masked_fill(below >= self.top_p, 0.0).sum(-1, keepdim=True)
        numbers = [self._uniform(row) for row in torch.cat([input_ids, places[:, :1]], dim=1).tolist()]
        aim = torch.tensor(numbers, dtype=torch.float32).to(mass)[:, None] * mass
        drawn = places.gather(-1, (below <= aim).sum(-1, keepdim=True) - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)

    def _uniform(self, tokens: list[int]) -> float:
        """In [0, 1), from a hash."""
        digest = hashlib.blake2b(repr((self.seed, tokens)).encode(), digest_size=3).digest()
        return int.from_bytes(digest) / 2**24
