"""Training a detector: loss, metrics and optimizer wiring; the network is handed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..datamodules.batches import DetectionBatch
from ..errors import ConfigError, DataError
from ..metrics.binary import binary_metrics
from ..metrics.own import checked_metrics, own_metrics
from ..metrics.thresholds import Thresholds
from .losses import Sum, check_classes
from .network import NetworkModule, gathered

Loss = Callable[[Tensor, Tensor], Tensor]


class DetectionModule(NetworkModule):
    """A network that tells generated images from real ones, made trainable.

    net: images uint8 [B, C, H, W] → logits float32 [B], or [B, k] with class 0 = real.
    loss: one loss or several `{"loss": …, "weight": …}`; override `compute_loss` for anything else.
    metrics: figures besides the built-in ones, by name: see `metrics.own`.
    optimizer, scheduler: partials that take the parameter groups, and the optimizer.
    monitor, mode: what a plateau schedule follows.
    geometry: fields of the network's input_spec to replace.
    class_counts: images of each class in the training split, for losses that balance.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: Loss | Sequence[Mapping[str, Any]],
        optimizer: partial[Optimizer] | None = None,
        scheduler: partial[Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        monitor: str = "val/auroc",
        mode: Literal["min", "max"] = "max",
        geometry: Mapping[str, Any] | None = None,
        thresholds: Mapping[str, float] | None = None,
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
        self.loss = _combined(loss)
        self.metrics = checked_metrics(metrics or {})
        self.thresholds = Thresholds(**(thresholds or {}))
        self._seen: list[dict[str, Tensor]] = []
        if class_counts is not None and hasattr(self.loss, "fit_classes"):
            self.loss.fit_classes(class_counts)

    def compute_loss(self, batch: DetectionBatch, outputs: Tensor) -> Tensor:
        """Scalar loss of the network's outputs [B] or [B, k] on a batch; the method to override.

        A [B, k] head with k > 2 attributes: its classes are 0 = real and 1 + the generator's number.
        """
        targets = batch["labels"]
        if outputs.ndim == 1:
            targets = targets.float()  # as torch's own losses of one logit want them
        if outputs.ndim == 2 and outputs.shape[1] > 2:
            classes = outputs.shape[1]
            if targets.device.type == "cpu":  # elsewhere a look at the values would wait for the device
                _check_generators(batch, classes)
            # What has no generator gets a class that no head has, which no loss takes for real.
            known = torch.where(batch["generators"] < 0, classes, batch["generators"] + 1)
            targets = torch.where(targets == 1, known, 0)
        check_classes(self.loss, outputs)
        return self.loss(outputs, targets)

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor | None:
        """Scalar loss, None for a batch without images; everything that is logged waits in the buffer."""
        if not len(batch["index"]):
            self.check_alone()
            return None
        outputs = self.outputs(batch)
        loss = self.compute_loss(batch, outputs)
        logits = binary_logit(outputs)
        self.buffer.add(loss, batch["index"], self.global_step, logits=logits, labels=batch["labels"])
        self.flush_when_due()
        return loss

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Remember logits, labels and rows; the metrics are computed over the whole split at once."""
        if not len(batch["index"]):
            return
        outputs = self.outputs(batch)
        loss = self.compute_loss(batch, outputs)
        self._seen.append(
            {
                "logits": binary_logit(outputs).float(),
                "labels": batch["labels"],
                "index": batch["index"],
                "loss": loss.detach().float().expand(len(batch["labels"])),
            }
        )

    def train_figures(self) -> dict[str, float]:
        """train/loss and train/accuracy over all steps of the epoch."""
        return {**super().train_figures(), "train/accuracy": self.buffer.epoch()[1]}

    def on_validation_epoch_start(self) -> None:
        """Start with nothing seen."""
        super().on_validation_epoch_start()
        self._seen = []

    def on_validation_epoch_end(self) -> None:
        """val/loss and all of `binary_metrics` as val/…, over every image of the split exactly once."""
        whole, real = torch.empty(0, dtype=torch.int64), torch.empty(0)
        nothing = {"logits": real, "labels": whole, "index": whole, "loss": real}
        parts = self._seen or [{name: value.to(self.device) for name, value in nothing.items()}]
        seen = {name: torch.cat([part[name] for part in parts]) for name in nothing}
        self._seen = []
        if self.trainer.world_size > 1:
            seen = gathered(seen, self.all_gather)
        if not len(seen["index"]):
            raise DataError(
                "none of the validation images could be read: data.on_bad_image=raise names the first "
                "and says why"
            )
        logits, labels = seen["logits"].cpu(), seen["labels"].cpu()
        metrics = {**binary_metrics(logits, labels), **own_metrics(self.metrics, logits, labels)}
        values = {"val/loss": float(seen["loss"].mean()), **{f"val/{name}": v for name, v in metrics.items()}}
        self.log_dict({**values, **self._when()})


def binary_logit(outputs: Tensor) -> Tensor:
    """One logit [B], generated against real: outputs [B], or log Σ exp(z_generators) − z_real of [B, k].

    Raises ConfigError for outputs of another shape.
    """
    if outputs.ndim == 1:
        return outputs
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ConfigError(
            f"a detector returns logits [B], or [B, k] with k > 1, but the network returned "
            f"{list(outputs.shape)}: for one logit an image, return logits.squeeze(1)"
        )
    return torch.logsumexp(outputs[:, 1:].float(), dim=1) - outputs[:, 0].float()


def _combined(loss: Loss | Sequence[Mapping[str, Any]]) -> Loss:
    if isinstance(loss, Sequence):
        unknown = sorted({key for term in loss for key in term} - {"loss", "weight"})
        if unknown:
            raise ConfigError(f"unknown key {unknown[0]} in model.loss: its terms take loss and weight")
        return Sum([term["loss"] for term in loss], [float(term.get("weight", 1.0)) for term in loss])
    return loss


def _check_generators(batch: DetectionBatch, classes: int) -> None:
    """Raise unless the generator of every generated image is one of the head's classes."""
    numbers = batch["generators"][batch["labels"] == 1]
    if not len(numbers):
        return
    if int(numbers.min()) < 0:
        rows = batch["index"][(batch["labels"] == 1) & (batch["generators"] < 0)].tolist()
        raise DataError(
            f"a network with {classes} outputs names generators, but the generated images in rows "
            f"{rows[:8]} of the index have none: name theirs, or type model.net.classes=2"
        )
    if int(numbers.max()) + 2 > classes:
        raise ConfigError(
            f"the data has generators 0 to {int(numbers.max())} at least, but the network's {classes} "
            f"outputs are real and {classes - 1} generators: type "
            f"model.net.classes=<1 + the number of generators>"
        )
