"""A learned word in a prompt: one vector in the place of a word's embedding, everything else frozen.

Chang et al. 2023 (AntifakePrompt), after Gal et al. 2022 (textual inversion). The word has the id behind the
last one of the embeddings that it is added to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from .encoding import tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class WithWord(nn.Module):
    """An embedding with one word more, which alone learns; it starts as the mean of all the others.

    vector: float32 [1, width].
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.vector = nn.Parameter(embedding.weight.detach().float().mean(0, keepdim=True))

    @property
    def weight(self) -> Tensor:
        """Of the words that were there, [words, width]."""
        return self.embedding.weight

    @property
    def num_embeddings(self) -> int:
        """Words that were there, and so the id of the learned one."""
        return self.embedding.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Width of a vector."""
        return self.embedding.embedding_dim

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [N, T], up to `num_embeddings` -> [N, T, width] in the type of the embedding."""
        there: Tensor = self.embedding(ids.clamp(max=self.num_embeddings - 1))
        learned = (ids == self.num_embeddings).unsqueeze(-1)
        return torch.where(learned, self.vector.to(there.dtype), there)


class Marked(NamedTuple):
    """A text without its pseudo-words, and the characters in front of which they stood."""

    text: str
    places: list[int]


def without_word(text: str, word: str) -> Marked:
    """Take a word out of a text, with the white space in front of it: to a model it is one with the word."""
    pieces = text.split(word)
    kept = pieces[0]
    places: list[int] = []
    for piece in pieces[1:]:
        kept = kept.rstrip()
        places.append(len(kept))
        kept += piece if kept else piece.lstrip()
    return Marked(kept, places)


def with_word(tokenizer: PreTrainedTokenizerBase, marked: Marked, ids: Sequence[int], word: int) -> list[int]:
    """The ids of a marked text with the word's at its places.

    A token that runs across a place stands behind the word.
    """
    found = list(ids)
    for place in reversed(marked.places):
        behind = tokens_of(tokenizer, marked.text, [(place, len(marked.text))], special=False).answer
        found.insert(behind.count(False), word)
    return found
