"""A captioner in Python: `tapetum.load(run).caption(images)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from .items import InfraredItem, Item, read_item
from .stream import Answering
from .trained import Trained, check_several
from .verdicts import Rule, Threshold

if TYPE_CHECKING:  # detectors must not wait for a language model's library
    from ..modules.captioning import CaptioningModule

_FIELDS = (pa.field("text", pa.string()),)


@dataclass(frozen=True)
class Captioner(Trained):
    """A captioner: a `text` of each image. Arrays are uint8 [H, W] or [H, W, 3]."""

    def caption(
        self, images: Sequence[Item], batch_size: int = 32, *, workers: int | None = None
    ) -> list[str]:
        """What is in each image, in order; paths, PIL images or arrays.

        Raises DataError naming the first that can't be read.
        """
        check_several(images, "caption")
        found: list[str] = self.predict(images, batch_size, workers=workers)["text"].to_pylist()
        return found

    def embed(
        self, images: Sequence[Item | InfraredItem], batch_size: int = 32, *, workers: int | None = None
    ) -> NDArray[np.float32]:
        """Raises ConfigError: a captioner has no embeddings."""
        raise ConfigError(
            "this model writes captions, and has no embeddings. Type .caption(images), or load a run of "
            "retrieval (python train.py model=small_embedder)"
        )

    def rule(self, threshold: Threshold | None = None) -> Rule:
        """Raises ConfigError: a captioner gives no verdicts."""
        raise ConfigError(
            f"{'' if threshold is None else f'threshold={threshold}: '}this model writes captions and gives "
            "no verdicts, so that there is no threshold: leave it out"
        )

    def described(self, threshold: Threshold | None = None) -> str:
        """How captions are written."""
        if threshold is not None:
            self.rule(threshold)
        return f"captions, {cast('CaptioningModule', self.module).generation}"

    def answering(self, threshold: Threshold | None = None) -> Answering:
        """Captions."""
        if threshold is not None:
            self.rule(threshold)
        module = cast("CaptioningModule", self.module)
        spec, backend = module.input_spec, self.config["data"]["decoder"]
        decode = module.net.encode_fn().decode  # type: ignore[operator]  # every captioner has one
        return Answering(
            read=partial(read_item, spec=spec, backend=backend),
            answer=partial(_tokens, module, device=self.device),
            shape=(module.generation.max_new_tokens,),
            fields=_FIELDS,
            columns=lambda tokens: {"text": decode(torch.from_numpy(tokens).long())},
        )


def _tokens(module: CaptioningModule, images: Tensor | list[Tensor], device: torch.device) -> Tensor:
    """int64 [B, max_new_tokens], padded, of images on any device."""
    moved = [one.to(device) for one in images] if isinstance(images, list) else images.to(device)
    net: Any = module.net  # every captioner has these
    found: Tensor = net.generate(module(moved), module.generation).tokens
    room = module.generation.max_new_tokens - found.shape[1]
    return F.pad(found, (0, room), value=net.encode_fn().pad_id)
