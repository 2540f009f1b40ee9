"""Training a captioner: the loss of captions token by token, and a validation that writes some."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..backbones.generation import Generation
from ..datamodules.batches import CaptioningBatch
from ..errors import ConfigError, DataError
from ..indexes.table import Index
from ..metrics.captions import caption_metrics
from ..metrics.exact import exact_match
from .network import NetworkModule, gathered


class CaptioningModule(NetworkModule):
    """A network that says what is in an image, made trainable.

    net: images [B, C, H, W] → float [B, P, W], what its language model is shown before the first word; see
        `captioners`.
    generation: how captions are written, fields of `backbones.generation.Generation`.
    generate_every_n_epochs: validations in which captions are written and scored; 0 for none, loss and
        perplexity stay. generate_images: of so many validation images, the first ones; None for all.
    The rest is NetworkModule's.

    The loss is the mean over all caption tokens of an optimizer step, over accumulated batches and processes
    too: each step's gradient is that of the sum, divided by the tokens of all of them.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        generation: Mapping[str, Any] | None = None,
        generate_every_n_epochs: int = 1,
        generate_images: int | None = 200,
        optimizer: partial[Optimizer] | None = None,
        scheduler: partial[Any] | None = None,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        geometry: Mapping[str, Any] | None = None,
        backbone_lr: float | None = None,
        channels_last: bool = False,
        log_every_n_steps: int = 20,
        fit: bool = True,
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
        """float32 [3] of each batch: sum of the loss, tokens, captions that were too long."""
        self._sums = [0.0, 0.0, 0.0]
        """The same of the epoch."""
        self._seen: list[dict[str, Tensor]] = []
        self._written: dict[int, str] = {}
        self._last: int | None = None
        """The last validation row of which a caption is written; None for all."""

    # -- what a batch is worth ------------------------------------------------------------------------------

    def compute_loss(self, visual: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(float32 [N], int64 [N]) of float [N, P, W] and N captions: sum of the negative log-likelihoods of
        each caption's tokens, and how many these are. The method to override.
        """
        found = self.net.loss(visual, inputs)  # type: ignore[operator]  # every captioner has one
        return found.totals, found.counts

    def training_step(self, batch: CaptioningBatch, batch_idx: int) -> Tensor | None:
        """The sum over the batch's tokens, which `on_before_optimizer_step` divides; None without images."""
        if not len(batch["index"]):
            self.check_alone()
            return None
        totals, counts = self.compute_loss(self.outputs(batch)[batch["owners"]], batch["inputs"])
        tokens = counts.sum()
        self._tokens = tokens if self._tokens is None else self._tokens + tokens
        loss = totals.sum()
        parts = (loss.detach(), tokens, batch["inputs"]["truncated"].sum())
        self._counted.append(torch.stack([part.float() for part in parts]))
        self.buffer.add(loss / tokens, batch["index"], self.global_step)
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

    def validation_step(self, batch: CaptioningBatch, batch_idx: int) -> None:
        """Loss of all captions of each image, and a caption of one's own of some."""
        if not len(batch["index"]):
            return
        visual, owners = self.outputs(batch), batch["owners"]
        totals, counts = self.compute_loss(visual[owners], batch["inputs"])
        images = len(batch["index"])
        summed = torch.zeros(images, device=totals.device)
        tokens = torch.zeros(images, dtype=torch.int64, device=totals.device)
        self._seen.append(
            {
                "index": batch["index"],
                "totals": summed.index_add_(0, owners, totals),
                "tokens": tokens.index_add_(0, owners, counts),
            }
        )
        wanted = self._wanted(batch["index"]) if self._generates else torch.empty(0, dtype=torch.int64)
        if len(wanted):
            texts = self.net.generate(visual[wanted], self.generation).texts  # type: ignore[operator]
            self._written |= dict(zip(batch["index"][wanted].tolist(), texts, strict=True))

    @property
    def _generates(self) -> bool:
        every = self.generate_every_n_epochs
        return bool(every) and (self.trainer.sanity_checking or (self.current_epoch + 1) % every == 0)

    def _wanted(self, rows: Tensor) -> Tensor:
        """int64: places in the batch of the images that captions are written of."""
        if self._last is None:
            return torch.arange(len(rows), device=rows.device)
        return torch.nonzero(rows <= self._last).flatten()

    # -- what is logged -------------------------------------------------------------------------------------

    def flush(self, step: int | None = None) -> None:
        """As NetworkModule, and count tokens and captions that were too long."""
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
        """train/loss, the mean over the epoch's tokens, and the captions that were cut; of all processes."""
        sums = self._sums
        if self.trainer.world_size > 1:
            own = torch.tensor(sums, dtype=torch.float64, device=self.device)
            sums = self.trainer.strategy.reduce(own, reduce_op="sum").tolist()
        total, tokens, cut = sums
        loss = total / tokens if tokens else math.nan
        return {"train/loss": loss, "train/truncated_captions": cut}

    def on_validation_epoch_start(self) -> None:
        """Start with nothing seen."""
        super().on_validation_epoch_start()
        self._seen, self._written = [], {}
        if self.generate_images is not None and self._generates:
            self._last = int(self._index.rows("val")[: self.generate_images][-1])

    def on_validation_epoch_end(self) -> None:
        """val/loss and val/perplexity of all references; where captions were written, what they are worth."""
        if not self._seen:
            raise DataError(
                "none of the validation images could be read: data.on_bad_image=raise names the first "
                "and says why"
            )
        seen = {name: torch.cat([part[name] for part in self._seen]) for name in self._seen[0]}
        written, self._seen, self._written = self._written, [], {}
        if self.trainer.world_size > 1:
            seen = gathered(seen, self.all_gather)
            written = _all_written(written, self.trainer.world_size)
        if self.trainer.sanity_checking:
            return
        loss = float(seen["totals"].cpu().double().sum() / int(seen["tokens"].sum()))
        figures = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if written:
            references = self._references(sorted(written))
            texts = [written[row] for row in sorted(written)]
            figures |= caption_metrics(texts, references)
            figures["exact_match"] = exact_match(texts, references)
        self.log_dict({**{f"val/{name}": value for name, value in figures.items()}, **self._when()})

    def _references(self, rows: list[int]) -> list[list[str]]:
        found: list[list[str]] = self._index.table.column("captions").take(pa.array(rows)).to_pylist()
        return found

    @property
    def _index(self) -> Index:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        index: Index = data.index
        return index

    # -- what is kept ---------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As NetworkModule, and the epoch's sums: of several processes, those of the one that writes."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["epoch_counts"] = list(self._sums)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As NetworkModule, and the epoch's sums."""
        super().on_load_checkpoint(checkpoint)
        self._sums = [float(value) for value in checkpoint["epoch_counts"]]


def _all_written(own: dict[int, str], world: int) -> dict[int, str]:
    """The captions of all processes by row."""
    everyone: list[dict[int, str]] = [{} for _ in range(world)]
    torch.distributed.all_gather_object(everyone, own)
    return {row: text for part in everyone for row, text in part.items()}
