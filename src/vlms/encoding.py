"""Conversations as token ids: which tokens are answers is read off the whole text, tokenised at once.

An answer that is tokenised apart from what stands before it has other tokens than in its place (a
SentencePiece has one for ` real` and another for `real`), so that a model would be taught, or asked for, what
it never says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Conversation = Sequence[Mapping[str, str]]
"""`role` (system, user or assistant) and `content` of each message, see `indexes.messages`."""

IGNORED = -100
"""The label of what is not learnt."""
_KEPT = 8192  # texts whose tokens are remembered


class Encoder(Protocol):
    """What a network makes of conversations on the way to it: its `encode_fn`, picklable, without weights."""

    def __call__(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        """To learn from: `input_ids`, `attention_mask` and `labels` int64 [N, T], padded on the right.

        labels are those of the place itself, IGNORED outside answers and their end tokens. `truncated` int64
        [N] is 1 where an answer was cut. What else the network wants to know comes along.
        """

    def prompts(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        """The same up to where the last answer begins, without labels."""

    def candidates(self, conversation: Conversation, answers: Sequence[str]) -> list[list[int]]:
        """The tokens of each answer behind a conversation's prompt; see `told_apart`."""

    def lengths(self, conversations: Sequence[Conversation]) -> NDArray[np.int64]:
        """int64 [N]: tokens that would be learnt from, images included."""

    def decode(self, ids: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """Texts of ids [N, T], special tokens dropped, white space at the ends too."""


class Tokens(NamedTuple):
    """ids, and for each whether it belongs to an answer."""

    ids: list[int]
    answer: list[bool]


def tokens_of(
    tokenizer: PreTrainedTokenizerBase, text: str, answers: Sequence[tuple[int, int]], *, special: bool
) -> Tokens:
    """A text's tokens; those that reach into one of `answers` (from, to in characters) are an answer's.

    special: whether the names of special tokens in the text are these tokens, or text like any other.
    A token that is begun before an answer and ends in it (a space, mostly) belongs to the answer.
    """
    ids, spans = _tokenized(tokenizer, text, special)
    inside = [any(begin < end and stop > start for start, end in answers) for begin, stop in spans]
    return Tokens(list(ids), inside)


@lru_cache(_KEPT)
def _tokenized(
    tokenizer: PreTrainedTokenizerBase, text: str, special: bool
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Ids, and where each is in the text. Questions come again and again, and a call takes 60 us."""
    found = tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=not special,
        return_offsets_mapping=True,
        truncation=False,
        verbose=False,
    )
    return tuple(found["input_ids"]), tuple(found["offset_mapping"])


def told_apart(answers: Sequence[Sequence[int]], end: int) -> list[list[int]]:
    """Candidates as they are scored: with the end token where one is the beginning of another.

    Elsewhere the tokens of the answers themselves tell them apart, and an answer of one token is scored by
    the logits behind the prompt alone.
    Raises ConfigError for two that have the same tokens.
    """
    rows = [list(one) for one in answers]
    for number, one in enumerate(rows):
        if not one:
            raise ConfigError(f"answer {number + 1} of model.answers has no token in this tokenizer")
        if one in rows[:number]:
            raise ConfigError(
                f"answers {rows.index(one) + 1} and {number + 1} of model.answers have the same tokens: name "
                "two that this tokenizer tells apart"
            )
    begins = any(a is not b and b[: len(a)] == a for a in rows for b in rows)
    return [[*one, end] for one in rows] if begins else rows


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """int64 [N, T], padded on the right with `value`."""
    longest = max((len(row) for row in rows), default=0)
    out = torch.full((len(rows), longest), value, dtype=torch.long)
    for number, row in enumerate(rows):
        out[number, : len(row)] = torch.tensor(row, dtype=torch.long)
    return out


def mask_of(rows: Sequence[Sequence[int]]) -> Tensor:
    """int64 [N, T]: 1 on the tokens of `padded(rows)`."""
    return padded([[1] * len(row) for row in rows], 0)


def pad_id(tokenizer: PreTrainedTokenizerBase, key: str) -> int:
    """What stands behind a text's end: the tokenizer's padding, or else its end token.

    key: of the config, where the tokenizer's model is named. Raises ConfigError where it has neither.
    """
    found: Any = tokenizer.pad_token_id
    found = tokenizer.eos_token_id if found is None else found
    if found is None:
        raise ConfigError(
            f"the tokenizer of {key} has neither a pad_token nor an eos_token, so that no answer could end: "
            "name them in its tokenizer_config.json"
        )
    return int(found)


def check_labels(labels: Sequence[Sequence[int]], conversations: Sequence[Conversation]) -> None:
    """Raise DataError for a conversation of which nothing would be learnt."""
    for row, conversation in zip(labels, conversations, strict=True):
        if all(label == IGNORED for label in row):
            answer = conversation[-1]["content"] if conversation else ""
            raise DataError(
                f"the answer {answer[:60]!r} to {_asked(conversation)!r} has no token to learn from: give it "
                "words, or remove its row"
            )


def room_for(prompt: int, answer: int, longest: int | None, conversation: Conversation) -> None:
    """Raise DataError where prompt and answer, in tokens, do not fit into `longest`: nothing is cut off."""
    if longest is not None and prompt + answer > longest:
        raise DataError(
            f"the prompt {_asked(conversation)!r} takes {prompt} tokens and its answer {answer}, and there "
            f"is room for {longest}: the answer would be cut off. Shorten the prompt, show a smaller image, "
            f"or type model.net.max_length={prompt + answer} if the language model has so many positions"
        )


def _asked(conversation: Conversation) -> str:
    asked = [message["content"] for message in conversation if message["role"] == "user"]
    return asked[-1][:60] if asked else ""
