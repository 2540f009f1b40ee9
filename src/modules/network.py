"""A network made trainable: optimizer, schedule, log and checkpoint, the same for every task."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Literal

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..errors import ConfigError, DataError, TrainingError
from ..images.geometry import InputSpec, with_geometry
from ..optim.build import build_optimizer, build_scheduler
from ..optim.schedules import Horizon
from .buffers import StepBuffer


class NetworkModule(lightning.LightningModule):
    """What every task's module has in common; a task adds its loss, its steps and its figures.

    net: images uint8 (or float in [0, 1]) [B, C, H, W] → outputs.
    optimizer, scheduler: partials that take the parameter groups, and the optimizer; None to predict only.
    monitor, mode: what a plateau schedule follows.
    geometry: fields of the network's input_spec to replace.
    backbone_lr: a learning rate of its own for what the network calls its backbone.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
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
        super().__init__()
        self.net = net
        self.input_spec = with_geometry(_spec_of(net), geometry or {})
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
        self._monitored: float | None = None
        if channels_last:
            self.net.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor | list[Tensor]) -> Tensor:
        """The network's outputs [B, …], of images [B, C, H, W] or of a list of [C, h, w]."""
        if isinstance(images, list):
            return torch.cat([self.forward(image.unsqueeze(0)) for image in images])
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        outputs: Tensor = self.net(images)
        return outputs

    def outputs(self, batch: Mapping[str, Any]) -> Tensor:
        """The network's outputs on the images of a batch, or on the features kept of them."""
        if "features" in batch:
            net: Any = self.net  # data.cache=features has made sure that it is a FrozenFeatures
            outputs: Tensor = net.forward_features(batch["features"])
            return outputs
        return self(batch["images"])  # type: ignore[no-any-return]

    @property
    def trained(self) -> nn.Module:
        """What the optimizer trains: the network, and a loss that has weights of its own."""
        return self.net

    def flush_when_due(self) -> None:
        """For the end of a training step: read the buffer every `log_every_n_steps`, between two updates."""
        if (
            len(self.buffer.losses) >= self.log_every_n_steps
            and not self.trainer.fit_loop._should_accumulate()
        ):
            self.flush(self.global_step + 1)

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
        """What `train_figures` says of the epoch, and the learning rates."""
        self.flush()
        self.log_dict({**self.train_figures(), **self.learning_rates(), **self._when()}, sync_dist=True)
        self._follow_plateau()

    def train_figures(self) -> dict[str, float]:
        """What is logged of a training epoch: its mean loss; tasks add to it."""
        return {"train/loss": self.buffer.epoch()[0]}

    def on_validation_epoch_start(self) -> None:
        """Validation begins only once the losses so far are known to be finite."""
        self.flush()

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

    def configure_model(self) -> None:
        """Lightning's hook, before the optimizer is built: a strategy that shards weights does it here."""
        shard: Callable[[lightning.LightningModule], None] | None
        if (shard := getattr(self.trainer.strategy, "shard", None)) is not None:
            shard(self)

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
            raise ConfigError("this module was built without an optimizer and can only predict")
        later, ratio = self._later
        optimizer = build_optimizer(
            self._optimizer, self.trained, backbone_lr=self.backbone_lr, later=later, later_lr_ratio=ratio
        )
        if self._scheduler is None:
            return optimizer
        schedule = build_scheduler(self._scheduler, optimizer, horizon=self._horizon(), mode=self.mode)
        described: dict[str, Any] = {"scheduler": schedule, "interval": "step"}
        if isinstance(schedule, ReduceLROnPlateau):
            every = self.trainer.check_val_every_n_epoch or 1
            described |= {"interval": "epoch", "monitor": self.monitor, "frequency": every}
        return {"optimizer": optimizer, "lr_scheduler": described}

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Lightning's hook; a plateau has taken its step before (`_follow_plateau`)."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def _follow_plateau(self) -> None:
        """Step a plateau schedule at an epoch's end.

        Lightning steps it behind the epoch's checkpoint, and not at all in an epoch that it resumed: a run
        that goes on from there would lower its rate later than one that was never stopped.
        """
        found = [described.scheduler for described in self.trainer.lr_scheduler_configs]
        plateaus = [one for one in found if isinstance(one, ReduceLROnPlateau)]
        every = self.trainer.check_val_every_n_epoch or 1
        whole = self.trainer.fit_loop.epoch_loop._num_ready_batches_reached()
        if not plateaus or not whole or (self.current_epoch + 1) % every:
            return
        value = self.trainer.callback_metrics.get(self.monitor, self._monitored)
        if value is not None:
            for plateau in plateaus:
                plateau.step(float(value))

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
        if self._trainer is not None:
            monitored = self.trainer.callback_metrics.get(self.monitor, self._monitored)
            checkpoint["monitored"] = None if monitored is None else float(monitored)
        elsewhere: frozenset[str] = getattr(self.net, "stored_elsewhere", frozenset)()
        for weights in _weights_in(checkpoint):
            for name in elsewhere - self.stored_here:
                weights.pop(f"net.{name}", None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the sums of an interrupted epoch up, and frozen weights from where they were loaded."""
        self.buffer.load_state_dict(checkpoint["epoch_sums"])
        self._sums_of_epoch = checkpoint["epoch_sums"]["epoch"]
        self._monitored = checkpoint.get("monitored")
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

    def check_alone(self) -> None:
        """Raise where a batch without images keeps other processes waiting."""
        if self.trainer.world_size > 1:
            raise DataError(
                "none of the images in a batch of this process could be read, and the other processes can't "
                "go on without it: remove the images that a run with data.on_bad_image=raise names"
            )


def gathered(seen: Mapping[str, Tensor], all_gather: Callable[[Tensor], Any]) -> dict[str, Tensor]:
    """All ranks' values [n, …], each image once.

    Ranks that came up short repeated their last row; one that left bad images out has fewer than others.
    all_gather: [n, …] of this rank to [world, n, …].
    """
    longest = int(all_gather(torch.tensor(len(seen["index"]), device=seen["index"].device)).max())
    everyone = {
        name: all_gather(
            F.pad(value, (*[0, 0] * (value.ndim - 1), 0, longest - len(value)), value=-1)
        ).flatten(0, 1)
        for name, value in seen.items()
    }
    rows, inverse = torch.unique(everyone["index"], return_inverse=True)
    first = torch.full((len(rows),), len(inverse), device=inverse.device)
    first.scatter_reduce_(0, inverse, torch.arange(len(inverse), device=inverse.device), "amin")
    first = first[rows >= 0]
    return {name: value[first] for name, value in everyone.items()}


def _spec_of(net: nn.Module) -> InputSpec:
    spec: InputSpec = net.input_spec  # type: ignore[assignment]  # every network has one
    return spec


def _weights_in(checkpoint: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """The weights, and those that an averaging callback keeps beside them."""
    return [checkpoint[name] for name in ("state_dict", "current_model_state") if name in checkpoint]
