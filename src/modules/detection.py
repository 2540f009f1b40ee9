"""Training a detector: loss, metrics and optimizer wiring; the network is handed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..datamodules.batches import DetectionBatch
from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..metrics.binary import binary_metrics
from ..metrics.thresholds import Thresholds
from ..optim.build import build_optimizer, build_scheduler
from ..optim.schedules import Horizon
from .buffers import StepBuffer
from .losses import Sum

Loss = Callable[[Tensor, Tensor], Tensor]


class DetectionModule(lightning.LightningModule):
    """A network that tells generated images from real ones, made trainable.

    net: images uint8 [B, C, H, W] → logits float32 [B], or [B, k] with class 0 = real.
    loss: one loss or several `{"loss": …, "weight": …}`; override `compute_loss` for anything else.
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
        super().__init__()
        self.net = net
        self.loss = _combined(loss)
        self.input_spec = with_geometry(net, geometry or {})
        self.thresholds = Thresholds(**(thresholds or {}))
        self.backbone_lr = backbone_lr
        self.channels_last = channels_last
        self.log_every_n_steps = log_every_n_steps
        self.monitor = monitor
        self.mode: Literal["min", "max"] = mode
        self.fit = fit
        self.buffer = StepBuffer()
        self.progress: dict[str, float] = {}
        """What the progress bar shows: last and mean loss, images per second."""
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._seen: list[dict[str, Tensor]] = []
        if channels_last:
            self.net.to(memory_format=torch.channels_last)
        if class_counts is not None and hasattr(self.loss, "fit_classes"):
            self.loss.fit_classes(class_counts)

    # -- what a batch is worth ------------------------------------------------------------------------------

    def forward(self, images: Tensor | list[Tensor]) -> Tensor:
        """Logits float32 [B], or [B, k], of images uint8 [B, C, H, W] or of a list of uint8 [C, h, w]."""
        if isinstance(images, list):
            return torch.cat([self.forward(image.unsqueeze(0)) for image in images])
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.net(images)
        return logits

    def compute_loss(self, batch: DetectionBatch, outputs: Tensor) -> Tensor:
        """Scalar loss of the network's outputs [B] or [B, k] on a batch; the method to override.

        A [B, k] head with k > 2 attributes: its classes are 0 = real and 1 + the generator's number.
        """
        targets = batch["labels"]
        if outputs.ndim == 2 and outputs.shape[1] > 2:
            targets = torch.where(targets == 1, batch["generators"] + 1, 0)
        return self.loss(outputs, targets)

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """Scalar loss; everything that is logged waits in the buffer."""
        outputs = self(batch["images"])
        loss = self.compute_loss(batch, outputs)
        self.buffer.add(loss, binary_logit(outputs), batch["labels"], batch["index"], self.global_step)
        if len(self.buffer.losses) >= self.log_every_n_steps:
            self.flush()
        return loss

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Remember logits, labels and rows; the metrics are computed over the whole split at once."""
        outputs = self(batch["images"])
        loss = self.compute_loss(batch, outputs)
        size = torch.full_like(batch["labels"], 1, dtype=torch.float32)
        self._seen.append(
            {
                "logits": binary_logit(outputs).float(),
                "labels": batch["labels"],
                "index": batch["index"],
                "loss": loss.detach().float() * size,
            }
        )

    # -- what is logged -------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Read the buffer: one device synchronisation for all steps since the last time."""
        flushed = self.buffer.flush()
        if flushed is None:
            return
        self.progress["loss"] = flushed[0]
        self.progress["mean_loss"] = self.buffer.epoch()[0]
        self.progress["images"] = self.buffer.seen
        step = {"train/loss_step": flushed[0], **self.learning_rates()}
        for logger in self.trainer.loggers:
            logger.log_metrics(step, step=self.global_step)

    def learning_rates(self) -> dict[str, float]:
        """`lr/<group>` of every parameter group."""
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        return {f"lr/{group.get('name', number)}": float(group["lr"]) for number, group in enumerate(groups)}

    def on_train_epoch_start(self) -> None:
        """A fresh epoch starts with empty sums; a resumed one goes on with its own."""
        if self.trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
            self.buffer.start_epoch()

    def on_train_epoch_end(self) -> None:
        """train/loss and train/accuracy over all steps of the epoch, and the learning rates."""
        self.flush()
        loss, accuracy = self.buffer.epoch()
        self.log_dict({"train/loss": loss, "train/accuracy": accuracy, **self.learning_rates()}, sync_dist=True)

    def on_validation_epoch_start(self) -> None:
        """Start with nothing seen."""
        self._seen = []

    def on_validation_epoch_end(self) -> None:
        """val/loss and all of `binary_metrics` as val/…, over every image of the split exactly once."""
        seen = {name: torch.cat([part[name] for part in self._seen]) for name in self._seen[0]} if self._seen else {}
        self._seen = []
        if not seen:
            return
        if self.trainer.world_size > 1:
            seen = _gathered(seen, self.all_gather)
        metrics = binary_metrics(seen["logits"].cpu(), seen["labels"].cpu())
        values = {"val/loss": float(seen["loss"].mean()), **{f"val/{name}": v for name, v in metrics.items()}}
        self.log_dict(values)

    # -- what is optimised ----------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Parameter groups without decay on norms and biases; the schedule steps per optimizer step."""
        if self._optimizer is None:
            raise ConfigError("this detector was built without an optimizer and can only predict")
        optimizer = build_optimizer(self._optimizer, self.net, backbone_lr=self.backbone_lr)
        if self._scheduler is None:
            return optimizer
        schedule = build_scheduler(self._scheduler, optimizer, horizon=self._horizon(), mode=self.mode)
        described: dict[str, Any] = {"scheduler": schedule, "interval": "step"}
        if isinstance(schedule, ReduceLROnPlateau):
            every = self.trainer.check_val_every_n_epoch or 1
            described |= {"interval": "epoch", "monitor": self.monitor, "frequency": every}
        return {"optimizer": optimizer, "lr_scheduler": described}

    def _horizon(self) -> Horizon:
        total = self.trainer.estimated_stepping_batches
        batches = self.trainer.num_training_batches
        per_epoch = max(1, math.ceil(batches / self.trainer.accumulate_grad_batches))
        return Horizon(total_steps=int(total), steps_per_epoch=int(per_epoch))

    # -- what is kept ---------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The epoch's sums go along; frozen pretrained weights stay where they came from.

        Reading the buffer here also keeps a checkpoint from being written once a loss was not finite.
        """
        self.flush()
        checkpoint["epoch_sums"] = self.buffer.state_dict()
        elsewhere: frozenset[str] = getattr(self.net, "stored_elsewhere", frozenset)()
        for name in elsewhere:
            checkpoint["state_dict"].pop(f"net.{name}", None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the sums of an interrupted epoch up, and frozen weights from where they were loaded."""
        self.buffer.load_state_dict(checkpoint["epoch_sums"])
        elsewhere: frozenset[str] = getattr(self.net, "stored_elsewhere", frozenset)()
        own = self.net.state_dict()
        for name in elsewhere:
            checkpoint["state_dict"].setdefault(f"net.{name}", own[name])


def binary_logit(outputs: Tensor) -> Tensor:
    """One logit [B] for generated against real: the output itself, or log Σ exp(z_generators) − z_real of [B, k]."""
    if outputs.ndim == 1:
        return outputs
    return torch.logsumexp(outputs[:, 1:].float(), dim=1) - outputs[:, 0].float()


def with_geometry(net: nn.Module, geometry: Mapping[str, Any]) -> InputSpec:
    """The network's input_spec with the user's fields in place of its own; ConfigError for a field it lacks."""
    spec: InputSpec = net.input_spec  # type: ignore[assignment]  # every network has one
    unknown = sorted(set(geometry) - set(asdict(spec)))
    if unknown:
        raise ConfigError(f"unknown key model.geometry.{unknown[0]}: it takes {', '.join(asdict(spec))}")
    sizes = {name: tuple(value) if isinstance(value, list) else value for name, value in geometry.items()}
    for name in ("size", "crop"):
        if isinstance(sizes.get(name), int):
            sizes[name] = (sizes[name], sizes[name])
    return replace(spec, **sizes)


def _combined(loss: Loss | Sequence[Mapping[str, Any]]) -> Loss:
    if isinstance(loss, Sequence):
        return Sum([term["loss"] for term in loss], [float(term.get("weight", 1.0)) for term in loss])
    return loss


def _gathered(seen: dict[str, Tensor], all_gather: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """All ranks' values, each image once: ranks that came up short repeated their last row."""
    everyone = {name: all_gather(value).flatten(0, 1) for name, value in seen.items()}
    _, inverse = torch.unique(everyone["index"], return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(inverse), device=inverse.device)
    first.scatter_reduce_(0, inverse, torch.arange(len(inverse), device=inverse.device), "amin")
    return {name: value[first] for name, value in everyone.items()}
