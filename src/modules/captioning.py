"""Training a captioner: the loss of captions token by token, and a validation that writes some."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..datamodules.batches import CaptioningBatch
from ..errors import DataError
from ..metrics.captions import caption_metrics
from ..metrics.exact import exact_match
from .network import gathered
from .text import TextModule, all_written, mean_nll, perplexity


class CaptioningModule(TextModule):
    """A network that says what is in an image, made trainable.

    net: images [B, C, H, W] → float [B, P, W], what its language model is shown before the first word; see
        `captioners`.
    The rest is TextModule's.
    """

    cut_figure = "train/truncated_captions"

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
            generation=generation,
            generate_every_n_epochs=generate_every_n_epochs,
            generate_images=generate_images,
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
        self._seen: list[dict[str, Tensor]] = []
        self._written: dict[int, str] = {}

    def encode_fn(self) -> Any:
        """What the network makes of captions on the way to it: picklable, without weights."""
        return self.net.encode_fn()  # type: ignore[operator]  # every captioner has one

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
        return self.learn(totals, counts, batch["inputs"]["truncated"], batch["index"])

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
        wanted = self.wanted(batch["index"])
        if len(wanted):
            texts = self.net.generate(visual[wanted], self.generation).texts  # type: ignore[operator]
            self._written |= dict(zip(batch["index"][wanted].tolist(), texts, strict=True))

    # -- what is logged -------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start with nothing seen."""
        super().on_validation_epoch_start()
        self._seen, self._written = [], {}

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
            written = all_written(written, self.trainer.world_size)
        if self.trainer.sanity_checking:
            return
        loss = mean_nll(seen)
        figures = {"loss": loss, "perplexity": perplexity(loss)}
        if written:
            references = self._references(sorted(written))
            texts = [written[row] for row in sorted(written)]
            figures |= caption_metrics(texts, references)
            figures["exact_match"] = exact_match(texts, references)
        self.log_dict({**{f"val/{name}": value for name, value in figures.items()}, **self._when()})

    def _references(self, rows: list[int]) -> list[list[str]]:
        found: list[list[str]] = self.index.table.column("captions").take(pa.array(rows)).to_pylist()
        return found
