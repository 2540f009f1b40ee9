"""What a user might bring: networks, a loss, callbacks; allowed by `allow_targets=[own_parts]`."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from tapetum.backbones.freezing import KeepsFrozen, freeze
from tapetum.errors import TapetumError
from tapetum.images.geometry import InputSpec
from torch import Tensor, nn
from torch.nn import functional as F


class Plain(nn.Module):
    """A network without batch statistics: mean colours and differences of neighbours, then two layers."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(32, 32), resize="squash")
        self.layers = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255
        means = pixels.mean(dim=(2, 3))
        rough = (pixels[..., 1:] - pixels[..., :-1]).abs().mean(dim=(2, 3))
        return self.layers(torch.cat([means, 10 * rough], dim=1)).squeeze(1)


class PlainEmbedder(nn.Module):
    """A unit vector without batch statistics: a coarse grid of the image, then two layers."""

    dimension = 4

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(32, 32), resize="squash", channels=1)
        self.layers = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, self.dimension))

    def forward(self, images: Tensor) -> Tensor:
        pixels = F.adaptive_avg_pool2d(images.float() / 255, 8).flatten(1) - 0.5
        return F.normalize(self.layers(pixels), dim=1)


class Frozen(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


class WithoutSpec(nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 1)


class Squared(nn.Module):
    """Squared distance of the probability from the label; NaN from a step on, if one is given."""

    def __init__(self, nan_at: int | None = None) -> None:
        super().__init__()
        self.nan_at = nan_at
        self.calls = 0

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.calls += 1
        loss = F.mse_loss(logits.sigmoid(), targets)
        return loss * float("nan") if self.nan_at is not None and self.calls > self.nan_at else loss


class SignalAt(Callback):
    """Sends this process a signal at the batch behind so many optimizer steps, and at those that follow."""

    def __init__(self, step: int, name: str, times: int = 1) -> None:
        self.step = step
        self.times = times
        self.number = signal.Signals[name]

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= self.step and self.times and "NO_SIGNAL" not in os.environ:
            self.times -= 1
            os.kill(os.getpid(), self.number)


class RaiseAt(Callback):
    """What a defect of a user's own looks like."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        raise ZeroDivisionError("my own mistake")


class RaiseAfter(Callback):
    """Ends the run after so many optimizer steps, in a validation or before the step that follows.

    AFTER in the environment, `STEP validation` or `STEP training`, says when: a resumed run may not change
    its config.
    """

    def on_validation_batch_end(self, trainer: Any, module: Any, *batch: Any) -> None:
        if os.environ.get("AFTER") == f"{trainer.global_step} validation" and not trainer.sanity_checking:
            raise TapetumError("cut")

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if os.environ.get("AFTER") == f"{trainer.global_step} training":
            raise TapetumError("cut")


class OnRank(Callback):
    """Behind so many optimizer steps one of several processes is killed, fails, or is sent a signal.

    Each step takes a while, so that what comes from outside comes in the middle. ON_RANK in the environment,
    `rank:step:what`, says something else than the config, which a resumed run may not change.
    """

    def __init__(self, rank: int, step: int, what: str, pause: float = 0.0) -> None:
        self.rank, self.step, self.what, self.pause = rank, step, what, pause
        if "ON_RANK" in os.environ:
            one, two, self.what = os.environ["ON_RANK"].split(":")
            self.rank, self.step = int(one), int(two)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        time.sleep(self.pause)
        if trainer.global_rank != self.rank or trainer.global_step != self.step or "NO_SIGNAL" in os.environ:
            return
        if self.what == "raise":
            raise ZeroDivisionError("my own mistake")
        if self.what == "hang":
            time.sleep(600)
        if self.what == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        os.kill(os.getpid(), signal.Signals[self.what])


class TellsItsWorld(Callback):
    """Writes what this process has: environment, threads, open sockets, a session."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_start(self, trainer: Any, module: Any) -> None:
        links = [one.readlink().name for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
        world = {
            "environment": dict(os.environ),
            "threads": torch.get_num_threads(),
            "sockets": sum(link.startswith("socket:") for link in links),
            "session": os.getsid(0) == os.getpid(),
        }
        Path(self.file).write_text(json.dumps(world))


class LimitFileSize(Callback):
    """From a step on, no file of this process may grow beyond so many bytes: what a full disk is like."""

    def __init__(self, step: int, size: int) -> None:
        self.step = step
        self.size = size

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            import resource

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


class HalfFrozen(KeepsFrozen):
    """As Plain, with a first layer that starts frozen."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(32, 32), resize="squash")
        self.tower = nn.Sequential(nn.Linear(6, width), nn.Tanh())
        self.head = nn.Linear(width, 1)
        freeze(self.tower)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255
        means = pixels.mean(dim=(2, 3))
        rough = (pixels[..., 1:] - pixels[..., :-1]).abs().mean(dim=(2, 3))
        return self.head(self.tower(torch.cat([means, 10 * rough], dim=1))).squeeze(1)
