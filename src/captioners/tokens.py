"""Captions as token ids and back: what a captioner hands to the workers that load data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class CaptionEncoder:
    """Captions to ids for a language model that continues a visual prefix; without weights, and picklable.

    tokenizer: of transformers. No mark of a beginning is added, since the prefix stands there, and the names
        of special tokens are text like any other when a caption has them in it.
    max_caption_length: most tokens of a caption, EOS included.
    Raises ConfigError for a tokenizer without EOS, or a length that holds no token beside it.
    """

    tokenizer: PreTrainedTokenizerBase
    max_caption_length: int = 128

    def __post_init__(self) -> None:
        check_caption_length(self.max_caption_length)
        if self.tokenizer.eos_token_id is None:
            raise ConfigError(
                "the tokenizer of model.net.language_model has no eos_token, so that no caption could end: "
                "name it in its tokenizer_config.json"
            )

    @property
    def eos_id(self) -> int:
        """The token that ends every caption."""
        found: Any = self.tokenizer.eos_token_id
        return int(found)

    @property
    def pad_id(self) -> int:
        """What stands behind a caption's end: EOS again where the tokenizer has no pad token."""
        found: Any = self.tokenizer.pad_token_id
        return self.eos_id if found is None else int(found)

    @property
    def vocabulary(self) -> int:
        """One more than the highest id."""
        return max(len(self.tokenizer), self.pad_id + 1, self.eos_id + 1)

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts -> `input_ids` and `attention_mask` int64 [N, T], padded on the right; `truncated` int64 [N].

        Every row ends with EOS, also where the caption was too long and is cut (`truncated` is 1). The mask
        is 1 on tokens and EOS: it alone tells padding from an EOS with the same id.
        Raises DataError for a text without anything in it.
        """
        rows = self._ids(texts)
        kept = [row[: self.max_caption_length - 1] for row in rows]
        longest = max((len(row) for row in kept), default=0) + 1
        ids = torch.full((len(rows), longest), self.pad_id)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for number, row in enumerate(kept):
            ids[number, : len(row) + 1] = torch.tensor([*row, self.eos_id])
            mask[number, : len(row) + 1] = 1
        cut = [int(len(row) > len(short)) for row, short in zip(rows, kept, strict=True)]
        return {"input_ids": ids, "attention_mask": mask, "truncated": torch.tensor(cut, dtype=torch.long)}

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text that would be fed, int64 [N], EOS included and cut as `__call__` cuts."""
        whole = [len(row) + 1 for row in self._ids(texts)]
        return np.minimum(np.array(whole, dtype=np.int64), self.max_caption_length)

    def decode(self, ids: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """Ids [N, T] to texts: special tokens are dropped, white space at the ends too."""
        rows: list[list[int]] = ids.tolist() if isinstance(ids, Tensor) else [list(row) for row in ids]
        texts: list[str] = self.tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [text.strip() for text in texts]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        for text in texts:
            _check(text)
        rows: list[list[int]] = self.tokenizer(
            [text.strip() for text in texts],
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=False,
            verbose=False,
        )["input_ids"]
        for text, row in zip(texts, rows, strict=True):
            if not row:
                raise DataError(f"the caption {text!r} has no token in this tokenizer: remove it")
        return rows


def check_caption_length(length: int) -> None:
    """ConfigError for a length that holds no token beside EOS."""
    if length < 2:
        raise ConfigError(
            f"model.net.max_caption_length={length} leaves no room for a caption: the mark of its end is a "
            f"token too; type model.net.max_caption_length=128"
        )


def _check(text: str) -> None:
    """DataError for what is no caption; tokenizers themselves fail on half a surrogate pair."""
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"a caption is empty ({text!r}): a captioner learns from words; remove it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the caption {text[:60]!r} is no valid Unicode (character {error.start}): its file was read in "
            f"another encoding than it was written in; save it as UTF-8"
        ) from error
