"""What is asked of an image, and what a network makes of it on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, DataError
from ..indexes.messages import IMAGE
from ..indexes.table import Index
from ..metrics.answers import normalized

Conversation = list[dict[str, str]]
"""`role` and `content` of each message, see `indexes.messages`."""


class EncodeConversations(Protocol):
    """What a network makes of conversations: its `encode_fn`, picklable and without weights."""

    def __call__(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        """To learn from: `input_ids`, `attention_mask`, `labels` int64 [N, T], `truncated` int64 [N], …"""

    def prompts(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        """The same up to where the last answer begins, without labels."""

    def lengths(self, conversations: Sequence[Conversation]) -> NDArray[np.int64]:
        """int64 [N]: tokens that would be fed of each."""


@dataclass(frozen=True)
class Question:
    """What is asked of every image, and the answers: that of a real image, that of a generated one.

    Without answers it is asked and not judged. Raises ConfigError for a question without words, or answers
    that are not two different ones.
    """

    prompt: str
    answers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("prompt", self.prompt), *(("answers", one) for one in self.answers)):
            if not isinstance(value, str):
                raise ConfigError(
                    f"model.{name} has {value!r}, which is no text: put it in quotes, such as "
                    "\"model.answers=['yes','no']\""
                )
        problems = []
        if not self.prompt.strip():
            problems.append("model.prompt is empty: type a question, such as 'Is this image real?'")
        if len(self.answers) not in (0, 2):
            problems.append(
                f"model.answers={list(self.answers)} are {len(self.answers)}: two, that of a real image and "
                "that of a generated one, such as [real, fake]"
            )
        empty = [number for number, answer in enumerate(self.answers, start=1) if not answer.strip()]
        if empty:
            problems.append(f"answer {empty[0]} of model.answers is empty: a word each, such as [real, fake]")
        elif len({normalized(answer) for answer in self.answers}) < len(self.answers):
            problems.append(
                f"model.answers={list(self.answers)} are the same word: two that differ, such as [real, fake]"
            )
        if problems:
            raise ConfigError(problems)

    def asked(self) -> Conversation:
        """Without an answer."""
        content = self.prompt if IMAGE in self.prompt else f"{IMAGE}\n{self.prompt}"
        return [{"role": "user", "content": content}]

    def answered(self, label: int) -> Conversation:
        """With the answer for label 0 (real) or 1 (generated)."""
        return [*self.asked(), {"role": "assistant", "content": self.answers[label]}]


Conversations = Callable[[int], Conversation]
"""A row of the Index to what is said about it."""


@dataclass(frozen=True)
class OfMessages:
    """The conversation that a row of an Index has: its column `messages`."""

    messages: pa.ChunkedArray

    def __call__(self, row: int) -> Conversation:
        """Of one row."""
        found: Conversation = self.messages[row].as_py()
        return found


@dataclass(frozen=True)
class OfLabels:
    """One question, answered by each row's label; int64 [n], -1 for none."""

    question: Question
    labels: NDArray[np.int64]

    def __call__(self, row: int) -> Conversation:
        """Of one row; DataError where it has no label."""
        label = int(self.labels[row])
        if label not in (0, 1):
            raise DataError(
                f"row {row} of the index has the label {label}, and answers are learnt of 0 (real) and 1 "
                "(generated): give it one, or remove it"
            )
        return self.question.answered(label)


def conversations_of(index: Index, question: Question | None) -> Conversations:
    """The index's own, else the question with its labels' answers; ConfigError where it needs a question."""
    if "messages" in index.table.column_names:
        return OfMessages(index.table.column("messages"))
    if question is None or not question.answers:
        raise ConfigError(
            "these images have labels and no conversations, and there is no question to ask: type "
            "model.prompt='Is this image real or AI-generated? Answer with one word.' "
            "model.answers=[real,fake]"
        )
    labels = np.asarray(index.table.column("label").fill_null(-1).to_numpy(), dtype=np.int64)
    return OfLabels(question, labels)


@dataclass(frozen=True)
class ConversationColumns:
    """What a batch has of its conversations: `inputs`, `prompts`, `texts`, see `VLMBatch`.

    encode: None where nothing reads texts; `inputs` and `prompts` are then empty.
    """

    encode: EncodeConversations | None
    conversations: Conversations
    images: NDArray[np.int64]
    prompts: bool

    def __call__(self, keys: Sequence[tuple[int, int]]) -> Mapping[str, Any]:
        """keys: (epoch, row) of each row of the batch."""
        found = [self.conversations(row) for _, row in keys]
        batch: dict[str, Any] = {"inputs": {}, "texts": [one[-1]["content"] for one in found]}
        batch["image_counts"] = torch.from_numpy(self.images[[row for _, row in keys]])
        if self.prompts:
            batch["prompts"] = {}
        if found and self.encode is not None:
            batch["inputs"] = self.encode(found)
            if self.prompts:
                batch["prompts"] = self.encode.prompts(found)
        return batch


@dataclass(frozen=True)
class PromptColumns:
    """The prompts alone, as `inputs`: what the features of a frozen part may depend on."""

    encode: EncodeConversations
    conversations: Conversations

    def __call__(self, keys: Sequence[tuple[int, int]]) -> Mapping[str, Any]:
        """keys: (epoch, row) of each row of the batch."""
        found = [self.conversations(row) for _, row in keys]
        return {"inputs": self.encode.prompts(found) if found else {}}
