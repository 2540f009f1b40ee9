"""The likelihood of tokens from the states that predict them, with few logits in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_LOGITS_AT_ONCE = 2**22
"""Logits that exist at one time, of which each takes 12 bytes or more on the way back."""


@dataclass(frozen=True)
class TokenLoss:
    """totals: summed negative log-likelihood of each text, float32 [N]. counts: its tokens, int64 [N]."""

    totals: Tensor
    counts: Tensor

    @property
    def total(self) -> Tensor:
        """Of all texts, float32 scalar."""
        return self.totals.sum()

    @property
    def count(self) -> Tensor:
        """Of all texts, int64 scalar."""
        return self.counts.sum()


def token_loss(head: nn.Module, hidden: Tensor, labels: Tensor, there: Tensor) -> TokenLoss:
    """Of the tokens `labels` int64 [N, T] where `there` bool [N, T] says so.

    head: output embeddings, [words, W]. hidden: float [N, T, W], at each place the state from which its label
    is predicted.
    """
    each = nll(head, hidden[there], labels[there])
    placed = each.new_zeros(there.shape).masked_scatter(there, each)
    return TokenLoss(placed.sum(1), there.sum(1))


def nll(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """float32 [M] of hidden float [M, W] and labels int64 [M], `_LOGITS_AT_ONCE` at a time."""
    rows = max(1, _LOGITS_AT_ONCE // len(head.weight))  # type: ignore[arg-type]  # [words, W]
    parts = []
    for start in range(0, len(labels), rows):
        states, wanted = hidden[start : start + rows], labels[start : start + rows]
        if torch.is_grad_enabled() and len(labels) > rows:
            parts.append(
                checkpoint(_nll, head, states, wanted, use_reentrant=False, preserve_rng_state=False)
            )
        else:
            parts.append(_nll(head, states, wanted))
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _nll(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), labels, reduction="none")
