"""Conversations as an InstructBLIP reads them: the language model's ids, and the Q-Former's of the question.

As transformers' InstructBlipProcessor has it: the tokens of the image, the mark of a beginning, the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, DataError
from .encoding import (
    IGNORED,
    Conversation,
    check_labels,
    mask_of,
    pad_id,
    padded,
    room_for,
    tokens_of,
    told_apart,
)
from .pseudo_word import Marked, with_word, without_word

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TAG = re.compile(r"<image>\s*")


@dataclass(frozen=True)
class InstructBlipEncoder:
    """An `Encoder` for questions about one image; it adds `qformer_input_ids` and `qformer_attention_mask`.

    What was said is one text, turns joined by a space, without the tag of the image and the white space
    behind it; only the last answer is learnt. The Q-Former is asked what the user said, without answers.

    tokenizer, questions: of the language model and of the Q-Former. image_id: stands where the image's
    vectors come to stand. queries: of those there are.
    max_target_token_length: most tokens of an answer, its end included. longest: of prompt and answer
    together. longest_question: of the Q-Former's text.
    word: a pseudo-word of the user's, and word_ids: its id in the language model and in the Q-Former.
    Raises ConfigError for a tokenizer without a mark of an end.
    """

    tokenizer: PreTrainedTokenizerBase
    questions: PreTrainedTokenizerBase
    image_id: int
    queries: int
    max_target_token_length: int
    longest: int
    longest_question: int
    word: str | None = None
    word_ids: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.tokenizer.eos_token_id is None:
            raise ConfigError(
                "the tokenizer of model.net.backbone has no eos_token, so that no answer could end: name it "
                "in its tokenizer_config.json"
            )

    @property
    def eos_id(self) -> int:
        """The token that ends every answer."""
        found: Any = self.tokenizer.eos_token_id
        return int(found)

    @property
    def pad_id(self) -> int:
        """What stands behind a text's end: the end again where the tokenizer has no padding."""
        return pad_id(self.tokenizer, "model.net.backbone")

    def __call__(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        """See `Encoder`. Raises DataError for what there is nothing to learn from, or no room for."""
        rows, labels, cut = [], [], []
        for conversation in conversations:
            prompt, whole = self._prompt_and_answer(conversation)
            answer = [*whole[: self.max_target_token_length - 1], self.eos_id]
            rows.append([*prompt, *answer])
            labels.append([*[IGNORED] * len(prompt), *answer])
            cut.append(int(len(whole) >= self.max_target_token_length))
        return {
            **self._padded(rows),
            "labels": padded(labels, IGNORED),
            "truncated": torch.tensor(cut, dtype=torch.long),
            **self._questions(conversations),
        }

    def prompts(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        """See `Encoder`. A conversation may end with a question."""
        rows = []
        for conversation in conversations:
            row = self._ids(self._before(conversation))
            room_for(len(row), 1, self.longest, conversation)
            rows.append(row)
        return {**self._padded(rows), **self._questions(conversations)}

    def candidates(self, conversation: Conversation, answers: Sequence[str]) -> list[list[int]]:
        """See `Encoder`."""
        before = self._before(conversation)
        return told_apart([self._behind(before, answer) for answer in answers], self.eos_id)

    def lengths(self, conversations: Sequence[Conversation]) -> NDArray[np.int64]:
        """See `Encoder`."""
        pairs = [self._prompt_and_answer(conversation) for conversation in conversations]
        longest = self.max_target_token_length
        return np.array([len(prompt) + min(len(answer) + 1, longest) for prompt, answer in pairs], np.int64)

    def decode(self, ids: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """See `Encoder`."""
        rows: list[list[int]] = ids.tolist() if isinstance(ids, Tensor) else [list(row) for row in ids]
        texts: list[str] = self.tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [text.strip() for text in texts]

    @cached_property
    def _begin(self) -> list[int]:
        """What the language model's tokenizer puts in front of a text."""
        return _marks(self.tokenizer)[0]

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """What the Q-Former's tokenizer puts around a text."""
        return _marks(self.questions)

    # --- the language model's text ---

    def _prompt_and_answer(self, conversation: Conversation) -> tuple[list[int], list[int]]:
        """Ids in front of the answer, and the answer's without its end."""
        if not conversation or conversation[-1]["role"] != "assistant":
            raise DataError(
                "a conversation does not end with an answer of the assistant's: there is nothing to learn"
            )
        before = self._before(conversation)
        prompt = self._ids(before)
        answer = self._behind(before, conversation[-1]["content"])
        check_labels([[*[IGNORED] * len(prompt), *answer]], [conversation])
        room_for(len(prompt), min(len(answer) + 1, self.max_target_token_length), self.longest, conversation)
        return prompt, answer

    def _before(self, conversation: Conversation) -> Marked:
        """What was said up to the last answer."""
        turns = (
            conversation[:-1] if conversation and conversation[-1]["role"] == "assistant" else conversation
        )
        shown = sum(turn["content"].count("<image>") for turn in conversation)
        if shown != 1:
            asked = next((turn["content"] for turn in turns if turn["role"] == "user"), "")
            raise DataError(
                f"InstructBLIP is asked about one image, and the conversation {asked[:60]!r} shows {shown}: "
                + ("put <image> in front of the question" if not shown else "for several: model=qwen_vl_lora")
            )
        return self._joined(turns)

    def _joined(self, turns: Conversation) -> Marked:
        """Turns as one text; a pseudo-word is one where the user says it."""
        text, places = "", []
        for turn in turns:
            said = Marked(_TAG.sub("", turn["content"]).strip(), [])
            if self.word is not None and turn["role"] == "user":
                said = without_word(said.text, self.word)
            if not said.text and not said.places:
                continue
            text += " " if text and said.text else ""
            places += [len(text) + place for place in said.places]
            text += said.text
        if self.word is not None and not places:
            raise DataError(
                f"the question {text[:60]!r} is without {self.word!r}, the word that is learnt: write it "
                f"where it is to stand, such as model.prompt='Is this photo real {self.word}?', or name "
                "another as model.net.pseudo_word"
            )
        return Marked(text, places)

    def _ids(self, before: Marked) -> list[int]:
        """Ids of a prompt: image, mark of a beginning, text."""
        found = tokens_of(self.tokenizer, before.text, [], special=False).ids
        text = with_word(self.tokenizer, before, found, self.word_ids[0])
        return [*[self.image_id] * self.queries, *self._begin, *text]

    def _behind(self, before: Marked, answer: str) -> list[int]:
        """An answer's ids behind a prompt."""
        said = f"{before.text} {answer.strip()}" if before.text and answer.strip() else answer.strip()
        begin = len(before.text)
        whole = tokens_of(self.tokenizer, said, [(begin, len(said))], special=False)
        ids = [token for token, inside in zip(whole.ids, whole.answer, strict=True) if inside]
        alone = tokens_of(self.tokenizer, before.text, [], special=False).ids
        if answer.strip() and [*alone, *ids] != whole.ids:
            raise DataError(
                f"the answer {answer[:60]!r} behind {before.text[-60:]!r} begins with a token that belongs "
                "to the question as well: end the question with a full stop or a question mark"
            )
        return ids

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        return {"input_ids": padded(rows, self.pad_id), "attention_mask": mask_of(rows)}

    # --- the Q-Former's text ---

    def _questions(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        rows = [self._question(conversation) for conversation in conversations]
        fill: Any = self.questions.pad_token_id
        return {"qformer_input_ids": padded(rows, fill or 0), "qformer_attention_mask": mask_of(rows)}

    def _question(self, conversation: Conversation) -> list[int]:
        asked = self._joined([turn for turn in conversation if turn["role"] == "user"])
        found = tokens_of(self.questions, asked.text, [], special=False).ids
        start, end = self._around
        row = [*start, *with_word(self.questions, asked, found, self.word_ids[1]), *end]
        if len(row) > self.longest_question:
            raise DataError(
                f"the question {asked.text[:60]!r} takes {len(row)} tokens of the Q-Former, which has places "
                f"for {self.longest_question}: ask shorter, nothing is cut off"
            )
        return row


def _marks(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What a tokenizer puts in front of a text, and behind it.

    It is not asked which marks it has: the published one has `</s>` for both ends, and puts it in front.
    """
    plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []
