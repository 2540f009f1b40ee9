"""Conversations in a tokenizer's own chat template, with the places of images and answers in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, DataError
from .encoding import (
    IGNORED,
    Conversation,
    mask_of,
    pad_id,
    padded,
    room_for,
    tokens_of,
    told_apart,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TAG = "<image>"


@dataclass(frozen=True)
class ChatEncoder:
    """An `Encoder` for models that are asked in a chat template; picklable, without weights.

    Every turn of the assistant is learnt, up to and with the token that ends it. A line break right behind
    `<image>` belongs to the tag, as LLaVA writes it. The names of special tokens may not stand in a
    conversation, where they would be these tokens.

    tokenizer: with a chat template that shows an image as one token `image_id`.
    grid: rows and columns of the tokens that an image becomes.
    max_target_token_length: most tokens of an answer, its end included; longer ones are cut, keep their end
        and are counted in `truncated`. longest: most tokens of a conversation; a longer one is a DataError.
    key: of the config, where the model is named.
    Raises ConfigError for a tokenizer without a chat template, or with one of which answers can't be told.
    """

    tokenizer: PreTrainedTokenizerBase
    image_id: int
    grid: tuple[int, int]
    max_target_token_length: int = 64
    longest: int | None = None
    key: str = "model.net.backbone"
    _marks: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"the tokenizer of {self.key} has no chat_template, which says how it is to be asked: name "
                f"a model that was tuned to instructions (…-Instruct), or copy the chat_template.jinja of "
                f"the one it was made from into its directory"
            )
        if self.tokenizer.eos_token_id is None:
            raise ConfigError(
                f"the tokenizer of {self.key} has no eos_token, so that no answer could end: name it in its "
                f"tokenizer_config.json"
            )
        if self.max_target_token_length < 2:
            raise ConfigError(
                f"model.net.max_target_token_length={self.max_target_token_length} leaves no room for an "
                f"answer: its end is a token too; type model.net.max_target_token_length=64"
            )
        known: Mapping[int, Any] = self.tokenizer.added_tokens_decoder
        marks = tuple(token.content for token in known.values() if token.special)
        object.__setattr__(self, "_marks", marks)

    @property
    def eos_id(self) -> int:
        """The token that ends an answer."""
        found: Any = self.tokenizer.eos_token_id
        return int(found)

    @property
    def pad_id(self) -> int:
        """What stands behind a conversation's end."""
        return pad_id(self.tokenizer, self.key)

    def __call__(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        """See `Encoder`; and `image_grid` int64 [M, 2]: rows and columns of the tokens of every image."""
        rows = [self._row(conversation) for conversation in conversations]
        labels = [
            [token if learnt else IGNORED for token, learnt in zip(row.ids, row.learnt, strict=True)]
            for row in rows
        ]
        return {
            **self._batch([row.ids for row in rows], sum(row.images for row in rows)),
            "labels": padded(labels, IGNORED),
            "truncated": torch.tensor([int(row.cut) for row in rows], dtype=torch.long),
        }

    def prompts(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        """See `Encoder`: up to and with what the template writes before an answer; and `image_grid`."""
        rows = []
        for conversation in conversations:
            ids = self._prompt(conversation)
            room_for(len(ids), 1, self.longest, conversation)
            rows.append(ids)
        return self._batch(rows, sum(_images(_asked(one)) for one in conversations))

    def candidates(self, conversation: Conversation, answers: Sequence[str]) -> list[list[int]]:
        """See `Encoder`."""
        prompt, found = self._prompt(conversation), []
        for answer in answers:
            given = [*_asked(conversation), {"role": "assistant", "content": answer}]
            row = self._row(given, whole=True)
            if row.ids[: len(prompt)] != prompt:
                raise ConfigError(
                    f"the answer {answer[:60]!r} of model.answers grows together with what the chat template "
                    f"of {self.key} writes before it: begin it with a letter"
                )
            ids = row.ids[len(prompt) :]
            end = len(ids) - 1 - ids[::-1].index(self.eos_id)  # what the template writes behind it goes
            found.append(ids[:end])
        return told_apart(found, self.eos_id)

    def lengths(self, conversations: Sequence[Conversation]) -> NDArray[np.int64]:
        """See `Encoder`."""
        return np.array([len(self._row(one).ids) for one in conversations], dtype=np.int64)

    def decode(self, ids: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """See `Encoder`."""
        rows: list[list[int]] = ids.tolist() if isinstance(ids, Tensor) else [list(row) for row in ids]
        texts: list[str] = self.tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [text.strip() for text in texts]

    def _row(self, conversation: Conversation, *, whole: bool = False) -> _Row:
        """whole: whether answers keep all of their tokens."""
        self._check(_asked(conversation))
        self._check_answer(conversation)
        text = self._render(conversation, False)
        spans = [
            self._span(conversation, number, text)
            for number, message in enumerate(conversation)
            if message["role"] == "assistant"
        ]
        ids, learnt = tokens_of(self.tokenizer, text, spans, special=True)
        cut = False
        if not whole:
            ids, learnt, cut = self._shortened(ids, learnt)
        ids, learnt = self._expanded(ids, learnt, conversation)
        last = len(learnt) - 1 - learnt[::-1].index(True) if any(learnt) else -1
        answer = 0
        while last - answer >= 0 and learnt[last - answer]:
            answer += 1
        room_for(len(ids) - answer, answer, None if whole else self.longest, conversation)
        return _Row(ids, learnt, cut, _images(conversation))

    def _span(self, conversation: Conversation, number: int, text: str) -> tuple[int, int]:
        """Where in the rendered text the answer of message `number` stands, its end token included."""
        begun = self._render(conversation[:number], True)
        ended = text if number + 1 == len(conversation) else self._render(conversation[: number + 1], False)
        if not (text.startswith(ended) and ended.startswith(begun)):
            raise ConfigError(
                f"the chat template of {self.key} rewrites earlier turns once later ones follow, so that "
                f"what the model is asked is not what it learns from: give each question a conversation of "
                f"its own, or name a model whose template leaves earlier turns alone"
            )
        end: Any = self.tokenizer.eos_token
        behind = ended.rfind(end, len(begun))
        if behind < 0:
            raise ConfigError(
                f"the chat template of {self.key} ends no answer with the tokenizer's eos_token {end!r}, so "
                f"that the model would learn no end: set eos_token in tokenizer_config.json to the mark that "
                f"ends a turn"
            )
        return len(begun), behind + len(end)

    def _shortened(self, ids: list[int], learnt: list[bool]) -> tuple[list[int], list[bool], bool]:
        """Answers of more than `max_target_token_length` tokens lose those before their end token."""
        kept: list[int] = []
        length, cut = 0, False
        for place, answers in enumerate(learnt):
            length = length + 1 if answers else 0
            ends = answers and (place + 1 == len(learnt) or not learnt[place + 1])
            if length < self.max_target_token_length or ends:
                kept.append(place)
            else:
                cut |= True
        # `length` counts on in what is dropped, so that the end token alone is kept behind it.
        return [ids[place] for place in kept], [learnt[place] for place in kept], cut

    def _prompt(self, conversation: Conversation) -> list[int]:
        """What stands before the last answer, or what is asked where there is none yet."""
        asked = _asked(conversation)
        self._check(asked)
        ids, learnt = tokens_of(self.tokenizer, self._render(asked, True), [], special=True)
        return self._expanded(ids, learnt, asked)[0]

    def _expanded(
        self, ids: list[int], learnt: list[bool], conversation: Conversation
    ) -> tuple[list[int], list[bool]]:
        """With as many image tokens as an image has, where the template writes one."""
        shown, there = ids.count(self.image_id), _images(conversation)
        if shown != there:
            raise ConfigError(
                f"the chat template of {self.key} shows {shown} images of a conversation with {there}: it is "
                f"that of a language model without eyes; copy the chat_template.jinja of a Qwen-VL"
            )
        tokens = self.grid[0] * self.grid[1]
        counts = [tokens if one == self.image_id else 1 for one in ids]
        return (
            [one for one, count in zip(ids, counts, strict=True) for _ in range(count)],
            [one for one, count in zip(learnt, counts, strict=True) for _ in range(count)],
        )

    def _render(self, conversation: Conversation, asks: bool) -> str:
        messages = [
            {"role": message["role"], "content": _parts(message["content"])} for message in conversation
        ]
        render: Any = self.tokenizer.apply_chat_template  # its annotation knows no parts
        return str(render(messages, tokenize=False, add_generation_prompt=asks))

    def _check(self, asked: Conversation) -> None:
        """DataError for what is no question, with whatever was said before it."""
        roles = [message["role"] for message in asked]
        spoken = [role for role in roles if role != "system"]
        if not spoken or spoken[0] != "user" or spoken[-1] != "user":
            raise DataError(
                f"before its last answer a conversation has the roles {', '.join(roles) or 'of nobody'}, and "
                f"asks nothing: it begins with a user's question, and each answer follows one"
            )
        if not _images(asked):
            raise DataError(
                f"the conversation about {asked[-1]['content'][:60]!r} shows no image: put {_TAG} where "
                f"one stands"
            )
        for number, message in enumerate(asked):
            if message["role"] == "assistant":
                self._check_answer(asked[: number + 1])
            self._check_text(message)

    def _check_answer(self, conversation: Conversation) -> None:
        """DataError where the last message is no answer to learn from."""
        answer = conversation[-1] if conversation else {"role": "nobody", "content": ""}
        if answer["role"] != "assistant":
            raise DataError(
                f"a conversation ends with the {answer['role']} ({answer['content'][:60]!r}), and has no "
                f"answer to learn: its last message is the assistant's"
            )
        if not answer["content"].strip():
            asked = conversation[-2]["content"]
            raise DataError(
                f"the answer to {asked[:60]!r} is empty ({answer['content']!r}): give it words, or "
                f"remove its row"
            )
        if _TAG in answer["content"]:
            raise DataError(
                f"the answer {answer['content'][:60]!r} shows an image ({_TAG}), and answers are text alone: "
                f"move the tag into the question"
            )
        self._check_text(answer)

    def _check_text(self, message: Mapping[str, str]) -> None:
        for mark in self._marks:
            if mark in message["content"]:
                raise DataError(
                    f"the {message['role']}'s message {message['content'][:60]!r} holds {mark!r}, which is "
                    f"a mark of the chat template and not text: remove it (an image is shown by {_TAG})"
                )

    def _batch(self, rows: Sequence[Sequence[int]], images: int) -> dict[str, Tensor]:
        return {
            "input_ids": padded(rows, self.pad_id),
            "attention_mask": mask_of(rows),
            "image_grid": torch.tensor([self.grid] * images, dtype=torch.long).reshape(images, 2),
        }


class _Row(NamedTuple):
    """Of a conversation: tokens, which of them are learnt, whether an answer was cut, how many images."""

    ids: list[int]
    learnt: list[bool]
    cut: bool
    images: int


def _asked(conversation: Conversation) -> Conversation:
    """The conversation without its last answer, where it has one."""
    answered = bool(conversation) and conversation[-1]["role"] == "assistant"
    return conversation[:-1] if answered else conversation


def _parts(content: str) -> str | list[dict[str, str]]:
    """A message's content as chat templates want it: plain, or in parts where it shows images."""
    if _TAG not in content:
        return content
    parts: list[dict[str, str]] = []
    for number, text in enumerate(content.split(_TAG)):
        if number:
            parts.append({"type": "image"})
            text = text.removeprefix("\r").removeprefix("\n")
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def _images(conversation: Conversation) -> int:
    return sum(message["content"].count(_TAG) for message in conversation)
