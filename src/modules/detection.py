"""Training a detector: loss, metrics and optimizer wiring; the network is handed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..datamodules.batches import DetectionBatch
from ..errors import ConfigError, DataError, TrainingError
from ..images.geometry import InputSpec, with_geometry
from ..metrics.binary import binary_metrics
from ..metrics.own import checked_metrics, own_metrics
from ..metrics.thresholds import Thresholds
from ..optim.build import build_optimizer, build_scheduler
from ..optim.schedules import Horizon
from .buffers import StepBuffer
from .losses import Sum, check_classes

Loss = Callable[[Tensor, Tensor], Tensor]


class DetectionModule(lightning.LightningModule):
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
        super().__init__()
        self.net = net
        self.loss = _combined(loss)
        self.metrics = checked_metrics(metrics or {})
        self.input_spec = with_geometry(_spec_of(net), geometry or {})
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
        self.stored_here: set[str] = set()
        """Names of weights that the network says are stored elsewhere, and that checkpoints hold anyway."""
        self._later: tuple[list[nn.Parameter], float] = ([], 1.0)
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._sums_of_epoch = -1
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

    def outputs(self, batch: DetectionBatch) -> Tensor:
        """The network's outputs [B] or [B, k] on the images of a batch, or on the features kept of them."""
        if "features" in batch:
            net: Any = self.net  # data.cache=features has made sure that it is a FrozenFeatures
            outputs: Tensor = net.forward_features(batch["features"])
            return outputs
        return self(batch["images"])  # type: ignore[no-any-return]

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
            self._check_alone()
            return None
        outputs = self.outputs(batch)
        loss = self.compute_loss(batch, outputs)
        self.buffer.add(loss, binary_logit(outputs), batch["labels"], batch["index"], self.global_step)
        if (
            len(self.buffer.losses) >= self.log_every_n_steps
            and not self.trainer.fit_loop._should_accumulate()
        ):
            self.flush(self.global_step + 1)
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

    # -- what is logged -------------------------------------------------------------------------------------

    def flush(self, step: int | None = None) -> None:
        """Read the buffer: one device synchronisation for all batches since the last time.

        step: optimizer steps that are done once these batches are learnt from, None for those done already. A
        resumed run keeps what was logged up to the step of its checkpoint, and logs the rest again.
        """
        flushed = self.buffer.flush()
        if flushed is None:
            return
        self.progress["loss"] = flushed[0]
        self.progress["mean_loss"] = self.buffer.epoch()[0]
        self.progress["images"] = self.buffer.seen
        figures = {"epoch": self.current_epoch, "train/loss_step": flushed[0], **self.learning_rates()}
        for logger in self.trainer.loggers:
            logger.log_metrics(figures, step=self.global_step if step is None else step)

    def learning_rates(self) -> dict[str, float]:
        """`lr/<group>` of every parameter group."""
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        return {f"lr/{group.get('name', number)}": float(group["lr"]) for number, group in enumerate(groups)}

    def on_train_epoch_start(self) -> None:
        """A fresh epoch starts with empty sums; a resumed one goes on with its own."""
        self._forget_when()
        if self._sums_of_epoch != self.current_epoch:
            self.buffer.start_epoch()
            self._sums_of_epoch = self.current_epoch

    def on_train_epoch_end(self) -> None:
        """train/loss and train/accuracy over all steps of the epoch, and the learning rates."""
        self.flush()
        loss, accuracy = self.buffer.epoch()
        figures = {"train/loss": loss, "train/accuracy": accuracy, **self.learning_rates()}
        self.log_dict({**figures, **self._when()}, sync_dist=True)

    def on_validation_epoch_start(self) -> None:
        """Start with nothing seen, and only once the losses so far are known to be finite."""
        self.flush()
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

    def on_validation_model_train(self) -> None:
        """Training goes on."""
        super().on_validation_model_train()
        self._forget_when()

    def _when(self) -> dict[str, float]:
        """Epoch and steps done, which loggers take for their axes; Lightning's own count is one short."""
        return {"epoch": float(self.current_epoch), "step": float(self.global_step)}

    def _forget_when(self) -> None:
        """Lightning keeps what was logged, and a checkpoint called `{step}` in between would be named so."""
        for name in ("epoch", "step"):
            self.trainer.callback_metrics.pop(name, None)

    # -- what is optimised ----------------------------------------------------------------------------------

    def train_later(self, names: Collection[str], lr_ratio: float) -> None:
        """Say before the fit which parameters of the network, frozen now, will be trained while it lasts.

        They are in the optimizer from the start, at `lr_ratio` times its rate. Names are those of
        `net.named_parameters()`.
        """
        parameters = dict(self.net.named_parameters())
        self._later = ([parameters[name] for name in names], lr_ratio)

    def configure_optimizers(self) -> Any:
        """Parameter groups without decay on norms and biases; the schedule steps per optimizer step."""
        if self._optimizer is None:
            raise ConfigError("this detector was built without an optimizer and can only predict")
        later, ratio = self._later
        optimizer = build_optimizer(
            self._optimizer, self.net, backbone_lr=self.backbone_lr, later=later, later_lr_ratio=ratio
        )
        if self._scheduler is None:
            return optimizer
        schedule = build_scheduler(self._scheduler, optimizer, horizon=self._horizon(), mode=self.mode)
        described: dict[str, Any] = {"scheduler": schedule, "interval": "step"}
        if isinstance(schedule, ReduceLROnPlateau):
            every = self.trainer.check_val_every_n_epoch or 1
            described |= {"interval": "epoch", "monitor": self.monitor, "frequency": every}
        return {"optimizer": optimizer, "lr_scheduler": described}

    def _horizon(self) -> Horizon:
        """How long the schedule will be.

        Counted here: Trainer.estimated_stepping_batches sets the loaders up before they are restored.
        """
        trainer: Any = self.trainer  # datamodule and overfit_batches are set where mypy doesn't see it
        if trainer.datamodule is None:
            batches, epochs = trainer.num_training_batches, trainer.max_epochs
        else:
            batches, epochs = len(trainer.datamodule.train_dataloader()), trainer.max_epochs
            limit = trainer.overfit_batches or trainer.limit_train_batches
            batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        per_epoch = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
        total = per_epoch * epochs if epochs is not None and epochs > 0 else trainer.max_steps
        if trainer.max_steps > 0:
            total = min(total, trainer.max_steps)
        return Horizon(total_steps=int(total), steps_per_epoch=int(per_epoch))

    # -- what is kept ---------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The epoch's sums go along; frozen pretrained weights stay where they came from.

        No checkpoint is written once a loss (known when the buffer is read) or a weight is not finite, so
        that the last good one stays: NonFiniteLossError, TrainingError.
        """
        self.flush()
        self._check_finite(checkpoint["state_dict"])
        checkpoint["epoch_sums"] = {**self.buffer.state_dict(), "epoch": self._sums_of_epoch}
        elsewhere: frozenset[str] = getattr(self.net, "stored_elsewhere", frozenset)()
        for weights in _weights_in(checkpoint):
            for name in elsewhere - self.stored_here:
                weights.pop(f"net.{name}", None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the sums of an interrupted epoch up, and frozen weights from where they were loaded."""
        self.buffer.load_state_dict(checkpoint["epoch_sums"])
        self._sums_of_epoch = checkpoint["epoch_sums"]["epoch"]
        elsewhere: frozenset[str] = getattr(self.net, "stored_elsewhere", frozenset)()
        # What a checkpoint holds although it is stored elsewhere differs from there, and is kept further on.
        self.stored_here |= {name for name in elsewhere if f"net.{name}" in checkpoint["state_dict"]}
        own = self.net.state_dict()
        for weights in _weights_in(checkpoint):
            for name in elsewhere:
                weights.setdefault(f"net.{name}", own[name])

    def _check_finite(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise TrainingError(
                    f"the weights {name} are no longer finite after step {self.global_step}: the checkpoint "
                    f"before is kept; try a lower learning rate (optimizer.lr), or "
                    f"trainer.gradient_clip_val=1.0"
                )

    def _check_alone(self) -> None:
        if self.trainer.world_size > 1:
            raise DataError(
                "none of the images in a batch of this process could be read, and the other processes can't "
                "go on without it: remove the images that a run with data.on_bad_image=raise names"
            )


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


def _spec_of(net: nn.Module) -> InputSpec:
    spec: InputSpec = net.input_spec  # type: ignore[assignment]  # every network has one
    return spec


def _combined(loss: Loss | Sequence[Mapping[str, Any]]) -> Loss:
    if isinstance(loss, Sequence):
        unknown = sorted({key for term in loss for key in term} - {"loss", "weight"})
        if unknown:
            raise ConfigError(f"unknown key {unknown[0]} in model.loss: its terms take loss and weight")
        return Sum([term["loss"] for term in loss], [float(term.get("weight", 1.0)) for term in loss])
    return loss


def gathered(seen: Mapping[str, Tensor], all_gather: Callable[[Tensor], Any]) -> dict[str, Tensor]:
    """All ranks' values [n], each image once.

    Ranks that came up short repeated their last row; one that left bad images out has fewer than others.
    all_gather: [n] of this rank to [world, n].
    """
    longest = int(all_gather(torch.tensor(len(seen["index"]), device=seen["index"].device)).max())
    everyone = {
        name: all_gather(F.pad(value, (0, longest - len(value)), value=-1)).flatten()
        for name, value in seen.items()
    }
    rows, inverse = torch.unique(everyone["index"], return_inverse=True)
    first = torch.full((len(rows),), len(inverse), device=inverse.device)
    first.scatter_reduce_(0, inverse, torch.arange(len(inverse), device=inverse.device), "amin")
    first = first[rows >= 0]
    return {name: value[first] for name, value in everyone.items()}


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


def _weights_in(checkpoint: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """The weights, and those that an averaging callback keeps beside them."""
    return [checkpoint[name] for name in ("state_dict", "current_model_state") if name in checkpoint]
