"""Training an embedder: metric-learning losses, and a validation that searches the training gallery."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ..datamodules.batches import RetrievalBatch
from ..errors import ConfigError, DataError, TrainingError
from ..indexes.roles import GALLERY
from ..metrics.embedding_health import embedding_health
from ..metrics.retrieval import retrieval_metrics
from .decision import Decision, Target
from .metric_learning import MinedLoss, completed, warm_start
from .network import NetworkModule, gathered

log = logging.getLogger("tapetum")

OnCollapse = Literal["warn", "stop"]


class RetrievalModule(NetworkModule):
    """A network that maps an image to a unit vector near those of its class, made trainable.

    net: images [B, C, H, W] → float32 [B, D] of length 1; it has the attribute `dimension`.
    loss: of embeddings and labels, as pytorch-metric-learning's are, or a partial that is given num_classes
        and embedding_size. miner: picks pairs or triplets, None takes all. memory: embeddings of past batches
        that are compared with, 0 for none.
    warm_start: {loss, epochs, weight}: a classification term that trains alone first, see `WarmStart`.
    decision: {rule, k, exclude}, how a query is named, see `Decision`. target: {accuracy, seconds}, what an
        acceptance asks for, see `Target`.
    on_collapse: what happens once all embeddings are nearly the same.
    class_counts: training images of each label; labels that train has none of have no place in a loss.
    The rest is NetworkModule's.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: Any,
        miner: nn.Module | None = None,
        memory: int = 0,
        warm_start: Mapping[str, Any] | None = None,
        decision: Mapping[str, Any] | None = None,
        target: Mapping[str, Any] | None = None,
        on_collapse: OnCollapse = "warn",
        optimizer: partial[Optimizer] | None = None,
        scheduler: partial[Any] | None = None,
        monitor: str = "val/map_at_r",
        mode: Literal["min", "max"] = "max",
        geometry: Mapping[str, Any] | None = None,
        backbone_lr: float | None = None,
        class_counts: Sequence[int] | None = None,
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
        if on_collapse not in ("warn", "stop"):
            raise ConfigError(f"unknown value model.on_collapse={on_collapse}: warn or stop")
        self.decision = Decision.of(decision or {})
        self.target = Target.of(target or {})
        self.on_collapse: OnCollapse = on_collapse
        self.mined: MinedLoss | None = None
        self.start: nn.Module | None = None
        """The classification term of the warm start."""
        self.collapsed_in: int | None = None
        """The first epoch in which the embeddings were found to have collapsed."""
        self._seen: list[dict[str, Tensor]] = []
        self._zero: list[Tensor] = []
        self._embedded: Tensor | None = None
        self._counts = {"batches": 0, "zero": 0, "mined": 0, "mining": 0}
        if class_counts is not None and optimizer is not None:
            self._build_losses(loss, miner, memory, warm_start, class_counts)

    def _build_losses(
        self,
        loss: Any,
        miner: nn.Module | None,
        memory: int,
        start: Mapping[str, Any] | None,
        class_counts: Sequence[int],
    ) -> None:
        counts = torch.tensor(list(class_counts))
        classes, dimension = int((counts > 0).sum()), int(self.net.dimension)  # type: ignore[arg-type]
        place = torch.where(counts > 0, (counts > 0).cumsum(0) - 1, -1)
        self.register_buffer("_place", place, persistent=False)
        whole = completed(loss, key="model.loss", classes=classes, dimension=dimension)
        self.mined = MinedLoss(whole, miner, memory=memory, dimension=dimension)
        self.warm = warm_start(start, classes=classes, dimension=dimension)
        self.start = self.warm.loss if self.warm else None

    @property
    def trained(self) -> nn.Module:
        """The network, and the proxies or class vectors of its losses."""
        parts = {"net": self.net, "mined": self.mined, "start": self.start}
        return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    # -- what a batch is worth ------------------------------------------------------------------------------

    def compute_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of float32 [B, D] and int64 [B] (0 … classes of train - 1); the method to override.

        B is the batch of all processes together.
        """
        if self.mined is None:
            raise ConfigError("this module was built without an optimizer and can only embed")
        terms: list[Tensor] = []
        alone = self.warm is not None and self.current_epoch < self.warm.epochs
        if self.warm is not None and (alone or self.warm.weight):
            terms.append(self.warm.loss(embeddings, labels) * (1.0 if alone else self.warm.weight))
        if not alone:
            loss, mined = self.mined(embeddings, labels)
            terms.append(loss)
            self._zero.append(loss.detach() == 0)
            if mined is not None:
                self._counts["mined"] += mined
                self._counts["mining"] += 1
        return torch.stack(terms).sum()

    def training_step(self, batch: RetrievalBatch, batch_idx: int) -> Tensor | None:
        """Scalar loss, None for a batch without images; everything that is logged waits in the buffer."""
        if not len(batch["index"]):
            self.check_alone()
            return None
        embeddings = self.outputs(batch).float()
        labels = self._place[batch["labels"]]  # type: ignore[index]
        with torch.autocast(embeddings.device.type, enabled=False):
            loss = self.compute_loss(*self._of_all(embeddings, labels))
        self._embedded = embeddings.detach()
        self.buffer.add(loss, batch["index"], self.global_step)
        self.flush_when_due()
        return loss

    def _of_all(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and labels of all processes, in an order that is the same for all.

        The gradient of each process's own share is summed over the losses of all of them, which DDP then
        averages: together, the gradient of one process with the whole batch.
        """
        if self.trainer.world_size == 1:
            return embeddings, labels
        gather: Callable[..., Any] = self.all_gather  # its annotation covers collections, too
        sizes = gather(torch.tensor(len(labels), device=labels.device))
        longest = int(sizes.max())
        padding = longest - len(labels)
        everyone = gather(F.pad(embeddings, (0, 0, 0, padding)), sync_grads=True)
        of_everyone = gather(F.pad(labels, (0, padding), value=-1))
        # Rank r has rows r, r + world, … of the whole batch: put them back into their places.
        flat, order = everyone.transpose(0, 1).flatten(0, 1), of_everyone.T.flatten()
        there = order >= 0
        return flat[there], order[there]

    def validation_step(self, batch: RetrievalBatch, batch_idx: int) -> None:
        """Remember embeddings, labels and roles; the search happens once the split is whole."""
        if not len(batch["index"]):
            return
        names = ("index", "labels", "roles", "cameras", "sequences")
        kept: dict[str, Tensor] = {name: batch[name] for name in names}  # type: ignore[literal-required]
        self._seen.append({**kept, "embeddings": self.outputs(batch).float()})

    # -- what is logged -------------------------------------------------------------------------------------

    def flush(self, step: int | None = None) -> None:
        """As NetworkModule, and look whether the last batch still tells its images apart."""
        if self.buffer.losses:
            zero = int(torch.stack(self._zero).sum()) if self._zero else 0
            self._counts["batches"] += len(self._zero)
            self._counts["zero"] += zero
            self._zero = []
        super().flush(step)
        if self._embedded is not None and len(self._embedded) > 1 and self.training:
            health = embedding_health(self._embedded)
            if health.collapsed:
                self._alarm(health.reason)
        self._embedded = None

    def on_train_epoch_start(self) -> None:
        """A fresh epoch counts anew."""
        if self._sums_of_epoch != self.current_epoch:
            self._counts = dict.fromkeys(self._counts, 0)
        super().on_train_epoch_start()

    def train_figures(self) -> dict[str, float]:
        """train/loss; how many batches had nothing to learn from, and how much the miner found in one."""
        figures = super().train_figures()
        counts = self._counts
        if counts["batches"]:
            figures["train/zero_triplet_batches"] = float(counts["zero"])
        if counts["mining"]:
            figures["train/mined_per_batch"] = counts["mined"] / counts["mining"]
        return figures

    def on_validation_epoch_start(self) -> None:
        """Start with nothing seen."""
        super().on_validation_epoch_start()
        self._seen = []

    def on_validation_epoch_end(self) -> None:
        """All of `retrieval_metrics` of the queries against their gallery, and the health of both."""
        if not self._seen:
            raise DataError(
                "none of the validation images could be read: data.on_bad_image=raise names the first "
                "and says why"
            )
        seen = {name: torch.cat([part[name] for part in self._seen]) for name in self._seen[0]}
        self._seen = []
        if self.trainer.world_size > 1:
            seen = gathered(seen, self.all_gather)
        if self.trainer.sanity_checking:
            return
        gallery = seen["roles"] == GALLERY
        exclude = self.decision.exclude
        keys = None if exclude is None else (seen[f"{exclude}s"][~gallery], seen[f"{exclude}s"][gallery])
        health = embedding_health(seen["embeddings"], seen["labels"])
        figures = retrieval_metrics(
            seen["embeddings"][~gallery],
            seen["labels"][~gallery],
            seen["embeddings"][gallery],
            seen["labels"][gallery],
            k=self.decision.k,
            groups=keys,
        )
        figures |= health.figures()
        self.log_dict({**{f"val/{name}": value for name, value in figures.items()}, **self._when()})
        if health.collapsed:
            self._alarm(health.reason)

    def _alarm(self, reason: str) -> None:
        """Say once that all embeddings have become one, or stop."""
        if self.collapsed_in is not None:
            return
        self.collapsed_in = self.current_epoch
        said = (
            f"epoch {self.current_epoch + 1}: {reason}. To type: model.warm_start.epochs=2, or "
            "model.miner._target_=tapetum.modules.metric_learning.SemiHardMiner"
        )
        if self.on_collapse == "stop":
            raise TrainingError(said)
        log.warning("%s", said)

    # -- what is kept ---------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As NetworkModule, and the epoch's counts."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["epoch_counts"] = dict(self._counts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As NetworkModule, and the epoch's counts."""
        super().on_load_checkpoint(checkpoint)
        self._counts = dict(checkpoint["epoch_counts"])
