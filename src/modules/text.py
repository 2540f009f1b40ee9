"""Training what writes: a loss of tokens, and texts written and scored in validation; of every such task."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..backbones.generation import Generation
from ..errors import ConfigError
from ..indexes.table import Index
from .network import NetworkModule


class TextModule(NetworkModule, ABC):
    """A module whose network writes, and whose loss is the mean over the tokens of an optimizer step.

    generation: how texts are written, fields of `backbones.generation.Generation`.
    generate_every_n_epochs: validations in which texts are written and scored; 0 for none, loss and
        perplexity stay. generate_images: of so many validation images, the first ones; None for all.
    The rest is NetworkModule's.

    Accumulated batches and processes are one step: each batch gives the gradient of its sum (`learn`), and
    the step divides by the tokens of all of them.
    """

    cut_figure: str
    """The name under which texts that were too long are counted."""

    def __init__(
        self,
        net: nn.Module,
        *,
        generation: Mapping[str, Any] | None,
        generate_every_n_epochs: int,
        generate_images: int | None,
        optimizer: partial[Optimizer] | None,
        scheduler: partial[Any] | None,
        monitor: str,
        mode: Literal["min", "max"],
        geometry: Mapping[str, Any] | None,
        backbone_lr: float | None,
        channels_last: bool,
        log_every_n_steps: int,
        fit: bool,
    ) -> None:
        super().__init__(
            net,
            optimizer=optimizer,
            scheduler=scheduler,
            monitor=monitor,
            mode=mode,
            geometry=geometry,
            backbone_lr=backbone_lr,
            channels_last=channels_last,
            log_every_n_steps=log_every_n_steps,
            fit=fit,
        )
        if generate_every_n_epochs < 0:
            raise ConfigError(
                f"model.generate_every_n_epochs={generate_every_n_epochs}: 0 for never, 1 for each validation"
            )
        if generate_images is not None and generate_images < 1:
            raise ConfigError(f"model.generate_images={generate_images}: 1 or more, or null for all")
        self.generation = Generation(**(generation or {}))
        self.generate_every_n_epochs = generate_every_n_epochs
        self.generate_images = generate_images
        self._tokens: Tensor | None = None
        """Of the batches since the last optimizer step."""
        self._counted: list[Tensor] = []
        """float32 [3] of each batch: sum of the loss, tokens, texts that were too long."""
        self._sums = [0.0, 0.0, 0.0]
        """The same of the epoch."""
        self._last: int | None = None
        """The last validation row of which a text is written; None for all."""

    def learn(self, totals: Tensor, counts: Tensor, truncated: Tensor, rows: Tensor) -> Tensor:
        """What a training step returns: the sum over the batch's tokens.

        totals float32 [N], counts int64 [N]: of each text, its negative log-likelihood and its tokens.
        truncated: int64 [N], 1 where it was too long. rows: int64 [B] of the Index.
        """
        tokens = counts.sum()
        self._tokens = tokens if self._tokens is None else self._tokens + tokens
        loss = totals.sum()
        self._counted.append(torch.stack([loss.detach().float(), tokens.float(), truncated.sum().float()]))
        self.buffer.add(loss / tokens, rows, self.global_step)
        self.flush_when_due()
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """From the gradient of the sum to that of the mean over the tokens of all batches and processes.

        Lightning has divided by the batches of a step, and DDP by the processes.
        """
        if self._tokens is None:
            return
        tokens: Any = self._tokens
        if self.trainer.world_size > 1:
            tokens = self.trainer.strategy.reduce(tokens, reduce_op="sum")
        factor = self.trainer.accumulate_grad_batches * self.trainer.world_size / tokens
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        self._tokens = None

    def flush(self, step: int | None = None) -> None:
        """As NetworkModule, and count tokens and texts that were too long."""
        super().flush(step)
        if self._counted:
            counted = torch.stack(self._counted).sum(0).tolist()
            self._sums = [whole + part for whole, part in zip(self._sums, counted, strict=True)]
            self._counted = []

    def on_train_epoch_start(self) -> None:
        """A fresh epoch counts anew."""
        if self._sums_of_epoch != self.current_epoch:
            self._sums = [0.0, 0.0, 0.0]
        super().on_train_epoch_start()

    def train_figures(self) -> dict[str, float]:
        """train/loss, the mean over the epoch's tokens, and the texts that were cut; of all processes."""
        sums = self._sums
        if self.trainer.world_size > 1:
            own = torch.tensor(sums, dtype=torch.float64, device=self.device)
            sums = self.trainer.strategy.reduce(own, reduce_op="sum").tolist()
        total, tokens, cut = sums
        return {"train/loss": total / tokens if tokens else math.nan, self.cut_figure: cut}

    def on_validation_epoch_start(self) -> None:
        """Which texts will be written."""
        super().on_validation_epoch_start()
        if self.generate_images is not None and self.generates:
            self._last = int(self.index.rows("val")[: self.generate_images][-1])

    @property
    def index(self) -> Index:
        """Of the data that the module is trained on."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        index: Index = data.index
        return index

    @property
    def generates(self) -> bool:
        """Whether texts are written in this validation."""
        every = self.generate_every_n_epochs
        return bool(every) and (self.trainer.sanity_checking or (self.current_epoch + 1) % every == 0)

    def wanted(self, rows: Tensor) -> Tensor:
        """int64: places in a validation batch of the images that texts are written of."""
        if not self.generates:
            return torch.empty(0, dtype=torch.int64, device=rows.device)
        if self._last is None:
            return torch.arange(len(rows), device=rows.device)
        return torch.nonzero(rows <= self._last).flatten()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As NetworkModule, and the epoch's sums: of several processes, those of the one that writes."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["epoch_counts"] = list(self._sums)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As NetworkModule, and the epoch's sums."""
        super().on_load_checkpoint(checkpoint)
        self._sums = [float(value) for value in checkpoint["epoch_counts"]]


def mean_nll(seen: Mapping[str, Tensor]) -> float:
    """Negative log-likelihood a token, of `totals` float [n] and `tokens` int64 [n]."""
    return float(seen["totals"].cpu().double().sum() / int(seen["tokens"].sum()))


def perplexity(loss: float) -> float:
    """Of a mean negative log-likelihood; as large as a float can say."""
    return math.exp(min(loss, 700.0))


def all_written(own: dict[int, str], world: int) -> dict[int, str]:
    """The texts of all processes by row."""
    everyone: list[dict[int, str]] = [{} for _ in range(world)]
    torch.distributed.all_gather_object(everyone, own)
    return {row: text for part in everyone for row, text in part.items()}
